"""Audio samples of a run: clips, and in stage 2 a table of all samples, at every `model_<update>.pt`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from f5_tts.config.schema import InferConfig, MelSpecConfig
from f5_tts.data.audio import write_wav
from f5_tts.data.tokenizer import PADDING, Vocabulary
from f5_tts.infer.sample import sample
from f5_tts.model.cfm import CFM
from f5_tts.model.flow import time_grid
from f5_tts.types import ExperienceBatch, SpeechBatch, Vocoder

Item = TypeVar("Item")
Cell = str | float | int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Clips by name, and a table row per sample; empty for an update without a readable row."""

    clips: Mapping[str, Tensor]  # mono waveforms by name: gen, ref, ...
    sample_rate: int  # Hz
    rows: Sequence[Mapping[str, Cell]] = field(default_factory=list)  # rows of a table, all with the same columns


MakeSamples = Callable[[CFM, Item], Samples]


def write_samples(folder: Path, samples: Samples, update: int) -> None:
    """Write `update_<n>_<clip>.wav` for each clip, and `update_<n>.jsonl` for the table where there is one."""
    folder.mkdir(exist_ok=True)
    for name, clip in samples.clips.items():
        write_wav(folder / f"update_{update}_{name}.wav", clip, samples.sample_rate)
    if samples.rows:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in samples.rows]
        (folder / f"update_{update}.jsonl").write_text("".join(lines), encoding="utf-8")


class ContinuationSamples:
    """Samples of stage 1: a batch's first item is the prompt, and its text is generated once more from the same noise.

    `gen` is the generated speech, `ref` the vocoder's resynthesis of the item. The global random state is not changed.
    """

    def __init__(self, vocabulary: Vocabulary, vocoder: Vocoder, infer: InferConfig, mel_spec: MelSpecConfig) -> None:
        self.space = vocabulary.encode([" "])[0]
        self.vocoder, self.infer, self.sample_rate = vocoder, infer, mel_spec.target_sample_rate

    def __call__(self, model: CFM, item: list[SpeechBatch]) -> Samples:
        """Generate a continuation of the first item with its own text."""
        if not item:
            return Samples(clips={}, sample_rate=self.sample_rate)
        batch, num = item[0], int(item[0].lens[0])
        prompt, text = batch.mel[:1, :num], batch.text[0][batch.text[0] != PADDING]
        was_training = model.training
        mel = self.generate(model.eval(), prompt, torch.cat([text, self.space.to(text), text])[None])
        model.train(was_training)
        gen, ref = self.vocoder(torch.cat([mel[:, num:], prompt]), batch.lens[:1].repeat(2))
        return Samples(clips={"gen": gen, "ref": ref}, sample_rate=self.sample_rate)

    def generate(self, model: CFM, prompt: Tensor, text: Tensor) -> Tensor:
        """Generate the log-mel of the prompt and as many frames again."""
        infer, lens = self.infer, torch.tensor([prompt.shape[1]], device=prompt.device)
        noise = torch.randn(1, 2 * prompt.shape[1], prompt.shape[2], generator=torch.Generator().manual_seed(0))
        times = time_grid(infer.nfe_step, infer.sway_sampling_coef, epss=infer.epss).to(prompt)
        noise = noise.to(prompt)
        return sample(model, prompt, lens, 2 * lens, text, noise, times, infer.cfg_strength, infer.ode_method)


class RolloutSamples:
    """Samples of stage 2: a table row for each sample of the update, and clips of its first prompt.

    `gen` is the sample with the highest reward, `worst` the one with the lowest, and `ref` the recording.
    """

    def __init__(self, vocoder: Vocoder, mel_spec: MelSpecConfig) -> None:
        self.vocoder, self.mel_spec = vocoder, mel_spec

    def __call__(self, model: CFM, item: list[ExperienceBatch]) -> Samples:
        """Build the table of an update and the clips of its first prompt."""
        if not item:
            return Samples(clips={}, sample_rate=self.mel_spec.target_sample_rate)
        rows = [row for batch in item for row in sample_table(batch)]
        entries = [(batch, index) for batch in item for index in range(len(batch.rollout.mel))]
        group = [index for index, row in enumerate(rows) if row["group"] == rows[0]["group"]]
        best, worst = (pick(group, key=lambda index: float(rows[index]["reward"] or 0.0)) for pick in (max, min))
        clips = {"gen": self.clip(*entries[best]), "worst": self.clip(*entries[worst])}
        clips["ref"] = self.recording(*entries[best])
        return Samples(clips=clips, sample_rate=self.mel_spec.target_sample_rate, rows=rows)

    @torch.no_grad()
    def clip(self, batch: ExperienceBatch, index: int) -> Tensor:
        """Vocode the generated span of one sample: the same audio that the rewards scored."""
        span = batch.rollout.mel[index][batch.rollout.target_mask[index]]
        (clip,) = self.vocoder(span[None], torch.tensor([len(span)], device=span.device))
        return clip

    def recording(self, batch: ExperienceBatch, index: int) -> Tensor:
        """Return the target part of the recording."""
        prompts = batch.rollout.batch
        return prompts.audio[index][int(prompts.prompt_lens[index]) * self.mel_spec.hop_length :]


def sample_table(batch: ExperienceBatch) -> list[dict[str, Cell]]:
    """Build a table row for each sample: prompt, text, transcripts, scores and advantage.

    Frame advantages are averaged over the target frames.
    """
    assert batch.rewards is not None, "scored samples have rewards"
    prompts, rewards, target = batch.rollout.batch, batch.rewards, batch.rollout.target_mask
    by_frame = batch.advantages.ndim == 2
    advantages = (batch.advantages * target).sum(dim=1) / target.sum(dim=1) if by_frame else batch.advantages
    numbers = {"reward": rewards.total, **rewards.components, **rewards.diagnostics, "advantage": advantages}
    columns = {
        "group": prompts.group_ids.tolist(),
        "prompt": prompts.prompt_texts or [""] * len(target),
        "text": prompts.target_texts,
        **rewards.texts,
        **{name: [None if x != x else x for x in values.tolist()] for name, values in numbers.items()},
    }
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
