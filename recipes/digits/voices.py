"""Random voices of the digit corpus's synthesizer, their clips, and trials of encoders that tell voices apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.model.build import build_vocoder
from f5_tts.model.mel import LogMel
from f5_tts.rewards.speaker.similarity_reward import SpeakerSimilarityReward
from recipes.digits.make_corpus import (
    DEV_VOICES,
    LENGTHS,
    SAMPLE_RATE,
    SEED,
    TEST_VOICES,
    TRAIN_VOICES,
    DigitSynthesizer,
    EvalItem,
    Voice,
    draw_texts,
    eval_items,
    text_lists,
)

FOREIGN = 0.1  # distance from every dev and test voice, as a share of each parameter's range, in at least one of them
NO_BREATH = -60.0  # dB, of the voices without noise
MAX_BLUR = 1.5  # mel bins and frames, standard deviation of the blur before a copy is vocoded

Copy = Callable[[Tensor, float], Tensor]  # waveform at 16 kHz and standard deviation of the blur -> vocoded waveform


# --- voices and clips ---


def parameters(voice: Voice) -> Float[np.ndarray, " p"]:
    """Return the parameters of a voice, in the order of the fields."""
    return np.array([getattr(voice, field.name) for field in fields(Voice) if field.name != "name"])


def random_voices(count: int, name: str, *seeds: int) -> list[Voice]:
    """Draw voices within the range of the training voices; none is near a dev or test voice."""
    rng, known = np.random.default_rng([SEED, count, *seeds]), np.stack([parameters(voice) for voice in TRAIN_VOICES])
    breath_known = np.array([voice.breath_db for voice in TRAIN_VOICES if voice.breath_db > NO_BREATH])
    low, high, voices = known.min(axis=0), known.max(axis=0), []
    while len(voices) < count:
        pitch, intonation, warp, tilt_db, _, speed = (float(value) for value in rng.uniform(low, high))
        breath_db = float(rng.uniform(breath_known.min(), breath_known.max()))
        voice = Voice(
            name=f"{name}_{len(voices):04d}",
            pitch=pitch,
            intonation=intonation,
            warp=warp,
            tilt_db=tilt_db,
            breath_db=breath_db if rng.random() < len(breath_known) / len(known) else NO_BREATH,
            speed=speed,
        )
        if is_foreign(voice, high - low):
            voices.append(voice)
    return voices


def is_foreign(voice: Voice, ranges: Float[np.ndarray, " p"]) -> bool:
    """Check whether a voice is far from every dev and test voice."""
    kept = np.stack([parameters(other) for other in (*DEV_VOICES, *TEST_VOICES)])
    return bool((np.abs(kept - parameters(voice)) / ranges).max(axis=1).min() > FOREIGN)


def training_texts(voice: Voice, count: int) -> list[str]:
    """Draw the strings of a voice from the training list, of each length in turn."""
    rng = np.random.default_rng([SEED, *f"judge {voice.name}".encode()])
    return draw_texts(text_lists(SEED)["train"], LENGTHS, count, rng)


def build_copy() -> Copy:
    """Build the function that vocodes a clip as the model's samples are, from a blurred log-mel."""
    model = compose_config("F5TTS_Mini", [], TrainConfig).model
    mel, vocoder = LogMel(model.mel_spec), build_vocoder(model)

    def copy(wave: Tensor, blur: float) -> Tensor:
        return vocoder(blurred(mel(wave[None]), blur), torch.tensor([len(wave) // model.mel_spec.hop_length + 1]))[0]

    return copy


def blurred(mel: Float[Tensor, "1 n d"], sigma: float) -> Float[Tensor, "1 n d"]:
    """Smooth a log-mel over time and bins by a Gaussian of this standard deviation; 0 leaves it."""
    if sigma == 0:
        return mel
    offsets = torch.arange(-4, 5)
    kernel = torch.softmax(-offsets.square() / (2 * sigma**2), dim=0)
    padded = F.pad(mel[:, None], (4, 4, 4, 4), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, 9)), kernel.view(1, 1, 9, 1))[:, 0]


# --- training ---


def margin_loss(
    embeddings: Float[Tensor, "b e"],
    centers: Float[Tensor, "v e"],
    labels: Int[Tensor, " b"],
    margin: float,
    scale: float,
) -> Float[Tensor, ""]:
    """Compute the additive angular margin softmax (Deng et al. 2019, arXiv 1801.07698)."""
    cosine = F.normalize(embeddings) @ F.normalize(centers).T
    angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    is_own = F.one_hot(labels, len(centers)).bool()
    return F.cross_entropy(scale * torch.where(is_own, (angle + margin).cos(), cosine), labels)


# --- verification ---


@dataclass(frozen=True, kw_only=True, slots=True)
class Trials:
    """Scores of verification trials: clips against a prompt of their own voice, and of another."""

    same: list[float]
    other: list[float]

    def auc(self) -> float:
        """Compute the probability that a trial of the same voice scores above one of another voice; ties count half."""
        same, other = torch.tensor(self.same)[:, None], torch.tensor(self.other)
        return ((same > other).double() + 0.5 * (same == other)).mean().item()

    def equal_error_rate(self) -> float:
        """Compute the error rate at the threshold where misses and false alarms are as equal as they become."""
        same, other = torch.tensor(self.same), torch.tensor(self.other)
        thresholds = torch.cat([same, other]).unique()[:, None]
        misses, alarms = (same < thresholds).double().mean(dim=1), (other >= thresholds).double().mean(dim=1)
        best = (misses - alarms).abs().argmin()
        return ((misses + alarms)[best] / 2).item()


def recordings(items: Sequence[EvalItem], vocode: Copy | None = None) -> list[tuple[Tensor, Tensor]]:
    """Synthesize each item's text in its own voice, and its prompt; `vocode` makes a copy of the former."""
    speak = DigitSynthesizer()
    pairs = []
    for item in items:
        clip, prompt = (torch.from_numpy(speak(item.prompt.voice, text)) for text in (item.text, item.prompt.text))
        pairs.append((clip if vocode is None else vocode(clip, 0.0), prompt))
    return pairs


def verification_trials(
    items: Sequence[EvalItem], pairs: Sequence[tuple[Tensor, Tensor]], embed: Callable[[list[Tensor]], Tensor]
) -> Trials:
    """Compare each clip with its own prompt, and with a prompt of each other voice; `embed` gives unit vectors."""
    clips, prompts = embed([clip for clip, _ in pairs]), embed([prompt for _, prompt in pairs])
    names = [item.prompt.voice.name for item in items]
    first = {name: names.index(name) for name in names}
    same = (clips * prompts).sum(dim=1).tolist()
    other = [
        float(clips[row] @ prompts[index])
        for row, name in enumerate(names)
        for voice, index in first.items()
        if voice != name
    ]
    return Trials(same=same, other=other)


def unseen_items(split: str) -> list[EvalItem]:
    """List the items of a split whose voices no training uses."""
    return [item for item in eval_items(split) if item.prompt.voice not in TRAIN_VOICES]


def measure(judges: Mapping[str, SpeakerSimilarityReward], split: str) -> dict[tuple[str, str], Trials]:
    """Run the trials of a split on recordings and on Griffin-Lim copies: by kind and name."""
    items = unseen_items(split)
    found = {}
    for kind, vocode in (("recordings", None), ("Griffin-Lim copies", build_copy())):
        pairs = recordings(items, vocode)
        for name, judge in judges.items():
            found[kind, name] = verification_trials(
                items, pairs, lambda clips, judge=judge: judge.embed(clips, SAMPLE_RATE)
            )
    return found


def describe_trials(split: str, found: Mapping[tuple[str, str], Trials]) -> str:
    """Format the trials: a line for each kind of clip and encoder."""
    return "\n".join(
        f"{split}, {kind}, {name}: equal error rate {trials.equal_error_rate():.1%}, AUC {trials.auc():.4f}, "
        f"mean {fmean(trials.same):.3f} for the same voice and {fmean(trials.other):.3f} for another"
        for (kind, name), trials in found.items()
    )
