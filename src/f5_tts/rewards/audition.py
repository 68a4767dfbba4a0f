"""Audit of rewards on recordings, resynthesized copies and corrupted copies.

`python -m f5_tts.rewards.audition` expects the ranking of a listener: the recording first, its resynthesis (through mel
and vocoder, as a perfect sample would be) close behind, every corrupted copy below. The report shows for each reward,
and for their weighted sum, whether the scores follow that ranking, how much a score changes from recording to
resynthesis, and what a clip costs.
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("audition")

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from f5_tts.config.schema import ConfigError, ModelConfig, RLTrainConfig, dataset_dir
from f5_tts.data.dataset import AudioReader
from f5_tts.data.formats import folder_entries
from f5_tts.data.rows import Row, read_data_set
from f5_tts.files import write_atomically
from f5_tts.model.build import build_vocoder
from f5_tts.model.mel import LogMel
from f5_tts.rewards.audit.corruptions import CORRUPTIONS, words_of
from f5_tts.rewards.audit.plot import draw_audition
from f5_tts.rewards.registry import build_providers, check_words, score_all
from f5_tts.types import RewardInput, Vocoder

RECORDING, RESYNTHESIS, WRONG_VOICE, SLOW = "recording", "copy", "wrong voice", "slow"
STRETCH_FACTOR = 1.8  # factor of the duration


@dataclass(frozen=True)
class Audition:
    """Scores of all variants by reward, and the cost of each provider."""

    scores: Mapping[str, Mapping[str, Float[Tensor, " b"]]]  # variant -> "digits_wer.acc" -> score of each clip
    seconds: Mapping[str, float]  # provider -> seconds per clip

    def total(self, weights: Mapping[str, float]) -> dict[str, Float[Tensor, " b"]]:
        """Return the weighted sum of the rewards for each variant.

        Each reward is divided by its standard deviation over all variants. NaN counts as 0.
        """
        all_scores = {name: torch.cat([by_reward[name] for by_reward in self.scores.values()]) for name in weights}
        stds = {name: max(float(np.nanstd(score)), 1e-8) for name, score in all_scores.items()}
        return {
            variant: torch.stack([weight * by_reward[name] / stds[name] for name, weight in weights.items()]).nansum(
                dim=0
            )
            for variant, by_reward in self.scores.items()
        }


def audition(cfg: RLTrainConfig) -> Audition:
    """Score `audition.clips` recordings of the run's data set and the variants made of them."""
    torch.manual_seed(0)
    providers = build_providers(cfg.rl.rewards.providers)
    rows = select_rows(cfg)
    check_words(providers, [row.sentence for row, _, _ in rows], "rl.rewards.providers")
    variants = make_variants(rows, cfg.model)
    write_examples(variants, Path(cfg.audition.out))
    scores: dict[str, dict[str, Tensor]] = {name: {} for name in variants}
    seconds = {}
    for name, provider in tqdm(providers.items(), desc="listening", unit="reward"):
        started = time.perf_counter()
        for variant, inputs in variants.items():
            scores[variant] |= score_all({name: provider}, inputs).components
        seconds[name] = (time.perf_counter() - started) / sum(map(len, variants.values()))
    return Audition(scores, seconds)


def select_rows(cfg: RLTrainConfig) -> list[tuple[Row, Row, Row]]:
    """Choose recordings of at least two words, each with one of the same speaker and one of another speaker.

    Without speaker labels, the recording is its own reference and any other recording stands for the wrong voice.
    Raises ConfigError where there are too few recordings.
    """
    settings, draw = cfg.audition, np.random.default_rng(0)
    rows = read_folder(Path(settings.folder)) if settings.folder else read_data_set(cfg.datasets.name, dataset_dir(cfg))
    candidates = [row for row in rows if len(words_of(row.sentence)) > 1]
    if len(candidates) < 2:
        location = settings.folder or dataset_dir(cfg)
        raise ConfigError(f"{location} has {len(candidates)} recordings of two words and more; an audition needs two")

    def another(row: Row, same: bool) -> Row:
        others = [other for other in rows if other is not row]
        if row.speaker is None:
            others = [row] if same else others
        else:
            others = [other for other in others if (other.speaker == row.speaker) == same]
        if not others:
            which = "recording" if same else "speaker"
            raise ConfigError(f"{row.audio_path} of speaker {row.speaker}: an audition needs another {which} beside it")
        return others[int(draw.integers(len(others)))]

    chosen = [candidates[i] for i in draw.permutation(len(candidates))[: settings.clips]]
    return [(row, another(row, True), another(row, False)) for row in chosen]


def read_folder(folder: Path) -> list[Row]:
    """Read the audio files of a folder, each with its transcript beside it (a.wav, a.txt).

    The name of a subfolder is the speaker. Raises ConfigError for a folder without audio and for audio without a
    transcript.
    """
    entries = folder_entries(folder)
    missing_texts = [entry.audio for entry in entries if not entry.text]
    if not entries or missing_texts:
        raise ConfigError(
            f"audition.folder={folder} needs recordings with their text beside them, a.wav and a.txt; "
            f"{f'no text for {missing_texts[0]}' if missing_texts else 'found none'}"
        )
    return [
        Row(
            audio_path=entry.audio,
            text=entry.text,
            duration=soundfile.info(entry.audio).duration,
            speaker=entry.columns.get("speaker"),
        )
        for entry in entries
    ]


def make_variants(rows: Sequence[tuple[Row, Row, Row]], model: ModelConfig) -> dict[str, list[RewardInput]]:
    """Build the variants by name (recordings, resynthesized copies, corruptions), with the clips in the same order."""
    read = AudioReader(LogMel(model.mel_spec), model.mel_spec.target_sample_rate)
    loaded = [[read(row.audio_path) for row in trio] for trio in rows]
    vocode = partial(resynthesize, build_vocoder(model))
    recordings = [
        RewardInput(
            audio=recording[0],
            sample_rate=model.mel_spec.target_sample_rate,
            text=row.sentence,
            language=str(row.columns.get("language") or "auto"),
            reference_audio=same_voice[0],
            target_audio=recording[0],
            row=row.columns,
        )
        for (row, _, _), (recording, same_voice, _) in zip(rows, loaded, strict=True)
    ]
    mels = [recording[1] for recording, _, _ in loaded]
    copies = with_audio(recordings, vocode(mels))
    others = [other_voice[0] for _, _, other_voice in loaded]
    return {
        RECORDING: recordings,
        RESYNTHESIS: copies,
        WRONG_VOICE: [
            replace(copy, reference_audio=other_voice) for copy, other_voice in zip(copies, others, strict=True)
        ],
        SLOW: with_audio(recordings, vocode([time_stretch(mel) for mel in mels])),
        **{name: [corruption(copy) for copy in copies] for name, corruption in CORRUPTIONS.items()},
    }


def resynthesize(vocoder: Vocoder, mels: list[Tensor]) -> list[Tensor]:
    """Synthesize waveforms from mel spectrograms, padded into one batch."""
    return vocoder(pad_sequence(mels, batch_first=True), torch.tensor([len(mel) for mel in mels]))


def with_audio(items: Sequence[RewardInput], clips: Sequence[Tensor]) -> list[RewardInput]:
    """Return copies of the inputs with other waveforms."""
    return [replace(item, audio=clip) for item, clip in zip(items, clips, strict=True)]


def time_stretch(mel: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """Interpolate a mel spectrogram to SLOWER times as many frames."""
    return F.interpolate(mel.T[None], scale_factor=STRETCH_FACTOR, mode="linear")[0].T


def write_examples(variants: Mapping[str, Sequence[RewardInput]], out: Path) -> None:
    """Write the first clip of each variant as a WAV file."""
    out.mkdir(parents=True, exist_ok=True)
    for name, items in variants.items():
        path = out / f"{name.replace(' ', '_')}.wav"
        soundfile.write(path, items[0].audio.clamp(-1, 1).numpy(), items[0].sample_rate)


# --- report ---


def report(result: Audition, weights: Mapping[str, float]) -> str:
    """Format the scores as a Markdown table, followed by one line per reward.

    A cell holds the mean score and, in brackets, the share of clips that score below their own resynthesis.
    """
    columns = {name: {variant: by_reward[name] for variant, by_reward in result.scores.items()} for name in weights}
    columns["all"] = result.total(weights)
    lines = [["audio", *columns, "ranked correctly"], ["---"] * (len(columns) + 2)]
    for variant in result.scores:
        cells = [cell(scores[variant], scores[RESYNTHESIS]) for scores in columns.values()]
        lines.append([variant, *cells, ranking_verdict(variant, columns["all"][variant] - columns["all"][RESYNTHESIS])])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    lines_by_reward = [(summary(name, columns[name], result.seconds), rank(name, columns[name])) for name in weights]
    return "\n".join([table, "", *(line for pair in lines_by_reward for line in pair)])


def cell(scores: Tensor, copies: Tensor) -> str:
    """Format a mean score and the share of clips that score below their resynthesis."""
    return f"{scores.nanmean():.3f} ({(scores < copies).float().mean():.0%})"


def ranking_verdict(variant: str, above: Float[Tensor, " b"]) -> str:
    """Compare a variant with the resynthesis, as a listener would rank the two: "yes", "no", or "" for itself.

    "yes" means that a corrupted copy scores lower for most clips and in the mean, and that a recording does not.
    """
    if variant == RESYNTHESIS:
        return ""
    is_below = bool(above.nanmean() < 0) and bool((above < 0).float().mean() > 0.5)
    return "yes" if is_below != (variant == RECORDING) else "no"


def summary(name: str, scores: Mapping[str, Tensor], seconds: Mapping[str, float]) -> str:
    """Describe one reward: which variants it lowers or raises, its change by resynthesis, and its time per clip."""
    shifts = {
        variant: score - scores[RESYNTHESIS]
        for variant, score in scores.items()
        if variant not in (RECORDING, RESYNTHESIS)
    }
    lowered = [variant for variant, shift in shifts.items() if ranking_verdict(variant, shift) == "yes"]
    praised = [variant for variant, shift in shifts.items() if (shift > 0).float().mean() > 0.5]
    change, milliseconds = scores[RESYNTHESIS] - scores[RECORDING], 1000 * seconds[name.rpartition(".")[0]]
    return (
        f"{name}: lowers {', '.join(lowered) or 'nothing'}; raises {', '.join(praised) or 'nothing'}; from recording "
        "to "
        f"copy {change.nanmean():+.3f} ± {np.nanstd(change):.3f}; {milliseconds:.1f} ms a clip"
    )


def rank(name: str, scores: Mapping[str, Tensor]) -> str:
    """Say of how many clips the recording scores above each variant: all of them where a reward hears as a person."""
    shares = {
        variant: (scores[RECORDING] > score).float().mean() for variant, score in scores.items() if variant != RECORDING
    }
    return f"{name}: the recording scores above {', '.join(f'{v} {share:.0%}' for v, share in shares.items())}"


def run(cfg: RLTrainConfig) -> bool:
    """Run the audit of a config; write audition.md, audition.png and one WAV file per variant."""
    result, out = audition(cfg), Path(cfg.audition.out)
    named = {entry.name: entry.weight for entry in cfg.rl.rewards.providers}
    weights = {key: named[key.rpartition(".")[0]] for key in result.scores[RESYNTHESIS]}
    text = report(result, weights)
    write_atomically(out / "audition.md", lambda part: part.write_text(text + "\n", encoding="utf-8"))
    draw_audition(result.scores, RESYNTHESIS, out / "audition.png")
    print(
        f"{text}\n\nwrote {out}: audition.md, audition.png, and an example of each kind to listen to; "
        "next: f5-tts doctor with the arguments of the run"
    )
    return True
