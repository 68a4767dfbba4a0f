"""Train the speaker judge: an encoder that tells the voices of the digit corpus's synthesizer apart.

It judges whether a model keeps the voice of its prompt, so it is never a reward. It learns from random voices within
the range of the training voices, and from the training voices themselves, speaking strings of the training list.
Half of the clips are vocoded by Griffin-Lim from a blurred log-mel, as samples of a model are.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.entrypoint import run_command
from f5_tts.files import user_path, write_atomically
from f5_tts.model.build import build_vocoder
from f5_tts.model.mel import LogMel
from f5_tts.rewards.speaker.ecapa import EMBEDDING, EcapaTdnn
from f5_tts.rewards.speaker.ecapa_sim import SHIPPED, speaker_features
from recipes.digits.make_corpus import (
    DEV_VOICES,
    LENGTHS,
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

NUM_VOICES = 500  # random ones
CLIPS_PER_VOICE = 8
FOREIGN = 0.1  # distance from every dev and test voice, as a share of each parameter's range, in at least one of them
NO_BREATH = -60.0  # dB, of the voices without noise
CROP_FRAMES = 90  # of 10 ms; shorter clips are repeated
BATCH_SIZE = 64
UPDATES = 900
LEARNING_RATE = 3e-3
WARMUP = 50  # updates
MARGIN, SCALE = 0.2, 30.0  # rad, and factor on the cosines (additive angular margin, Deng et al. 2019)
MAX_BLUR = 1.5  # mel bins and frames, standard deviation of the blur before a copy is vocoded
MAX_JITTER = 0.4  # standard deviation of the noise on the features, natural-log power
MASKED_BANDS = 12  # at most so many adjacent bands are hidden

Copy = Callable[[Tensor, float], Tensor]  # waveform at 16 kHz and standard deviation of the blur -> vocoded waveform


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


# Voices and clips


def parameters(voice: Voice) -> Float[np.ndarray, " p"]:
    """Return the parameters of a voice, in the order of the fields."""
    return np.array([getattr(voice, field.name) for field in fields(Voice) if field.name != "name"])


def random_voices(count: int) -> list[Voice]:
    """Draw voices within the range of the training voices; none is near a dev or test voice."""
    rng, known = np.random.default_rng([SEED, count]), np.stack([parameters(voice) for voice in TRAIN_VOICES])
    breath_known = np.array([voice.breath_db for voice in TRAIN_VOICES if voice.breath_db > NO_BREATH])
    low, high, voices = known.min(axis=0), known.max(axis=0), []
    while len(voices) < count:
        pitch, intonation, warp, tilt_db, _, speed = (float(value) for value in rng.uniform(low, high))
        breath_db = float(rng.uniform(breath_known.min(), breath_known.max()))
        voice = Voice(
            name=f"judge_{len(voices):04d}",
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


def training_voices(count: int = NUM_VOICES) -> list[Voice]:
    """List the voices to learn: the training voices and random ones."""
    return [*TRAIN_VOICES, *random_voices(count)]


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


def training_clips(voices: Sequence[Voice], clips_per_voice: int) -> tuple[list[Tensor], Int[Tensor, " n"]]:
    """Synthesize the clips and vocode every second one; return their features and the index of their voice."""
    speak, copy, rng = DigitSynthesizer(), build_copy(), np.random.default_rng(SEED)
    features, labels = [], []
    for label, voice in enumerate(tqdm(voices, desc="synthesizing", unit="voice")):
        for index, text in enumerate(training_texts(voice, clips_per_voice)):
            wave = torch.from_numpy(speak(voice, text))
            # lengths alternate with the index, so each voice's copies are not all of the same length
            wave = copy(wave, float(rng.uniform(0, MAX_BLUR))) if (index + index // 4 + label) % 2 else wave
            features.append(speaker_features(wave))
            labels.append(label)
    return features, torch.tensor(labels)


# Training


def crop(features: Float[Tensor, "n d"], rng: np.random.Generator) -> Float[Tensor, "m d"]:
    """Cut CROP_FRAMES frames at random; shorter features are repeated."""
    if len(features) < CROP_FRAMES:
        features = features.repeat(math.ceil(CROP_FRAMES / len(features)), 1)
    start = int(rng.integers(len(features) - CROP_FRAMES + 1))
    return features[start : start + CROP_FRAMES]


def augment(batch: Float[Tensor, "b n d"], rng: np.random.Generator) -> Float[Tensor, "b n d"]:
    """Add noise of random strength to the features and hide some bands of each clip."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    strength = MAX_JITTER * torch.rand(len(batch), 1, 1, generator=generator)
    batch = batch + strength * torch.randn(batch.shape, generator=generator)
    first = torch.randint(batch.shape[2], (len(batch), 1, 1), generator=generator)
    width = torch.randint(MASKED_BANDS + 1, (len(batch), 1, 1), generator=generator)
    bands = torch.arange(batch.shape[2])
    batch = batch.masked_fill((bands >= first) & (bands < first + width), 0.0)
    return batch - batch.mean(dim=(1, 2), keepdim=True)


def margin_loss(embeddings: Float[Tensor, "b e"], centers: Float[Tensor, "v e"], labels: Int[Tensor, " b"]) -> Tensor:
    """Compute the additive angular margin softmax (Deng et al. 2019, arXiv 1801.07698)."""
    cosine = F.normalize(embeddings) @ F.normalize(centers).T
    angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    is_own = F.one_hot(labels, len(centers)).bool()
    return F.cross_entropy(SCALE * torch.where(is_own, (angle + MARGIN).cos(), cosine), labels)


def learning_rate_factor(update: int, updates: int) -> float:
    """Compute the factor on the learning rate: linear warm-up, then a cosine to 0."""
    return min(1.0, (update + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * update / updates))


def train(features: Sequence[Tensor], labels: Int[Tensor, " n"], updates: int = UPDATES) -> EcapaTdnn:
    """Train an encoder to tell the voices apart; return it in evaluation mode."""
    torch.manual_seed(SEED)
    rng, encoder = np.random.default_rng(SEED), EcapaTdnn()
    centers = nn.Parameter(torch.randn(int(labels.max()) + 1, EMBEDDING))
    optimizer = torch.optim.AdamW([*encoder.parameters(), centers], LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: learning_rate_factor(update, updates))
    progress = tqdm(range(updates), desc="training", unit="update")
    for _ in progress:
        rows = rng.choice(len(features), BATCH_SIZE, replace=False)
        batch = augment(torch.stack([crop(features[row], rng) for row in rows]), rng)
        loss = margin_loss(encoder(batch), centers, labels[torch.from_numpy(rows)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return encoder.eval().requires_grad_(False)


def save(encoder: EcapaTdnn, path: Path) -> None:
    """Write the weights in half precision, the counters of the batch norms as integers."""
    weights = {
        name: value.half() if value.is_floating_point() else value for name, value in encoder.state_dict().items()
    }
    write_atomically(path, lambda tmp_path: save_file(weights, tmp_path))


# Measurement


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


def measure(path: Path, split: str) -> None:
    """Print the equal error rate and the AUC of the judge and of the reward voice_sim on a split."""
    from f5_tts.rewards.speaker.ecapa_sim import EcapaSim
    from f5_tts.rewards.speaker.voice_sim import VoiceSim

    items = unseen_items(split)
    for kind, vocode in (("recordings", None), ("Griffin-Lim copies", build_copy())):
        pairs = recordings(items, vocode)
        for name, judge in (("ecapa_sim", EcapaSim(str(path))), ("voice_sim", VoiceSim())):
            trials = verification_trials(items, pairs, lambda clips, judge=judge: judge.embed(clips, 16000))
            same, other = (sum(scores) / len(scores) for scores in (trials.same, trials.other))
            print(
                f"{split}, {kind}, {name}: equal error rate {trials.equal_error_rate():.1%}, AUC {trials.auc():.4f}, "
                f"mean {same:.3f} for the same voice and {other:.3f} for another"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: train the judge, or measure it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.digits.train_speaker_judge", description=__doc__)
    parser.add_argument("--out", type=user_path, default=SHIPPED, metavar="FILE", help="default: the shipped file")
    parser.add_argument("--measure", choices=["dev", "test"], help="only measure the file, on this list")
    args = parser.parse_args(argv)
    if args.measure:
        measure(args.out, args.measure)
        return 0
    start = time.process_time()
    features, labels = training_clips(training_voices(), CLIPS_PER_VOICE)
    made = time.process_time()
    save(train(features, labels), args.out)
    spent = f"{made - start:.0f} CPU s of synthesis, {time.process_time() - made:.0f} of training"
    print(f"wrote {args.out}: {spent}; next: the same command with --measure test")
    return 0


if __name__ == "__main__":
    run_command(lambda argv: not main(argv), sys.argv[1:])
