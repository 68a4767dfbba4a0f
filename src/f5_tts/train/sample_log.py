"""What a run sounds like: some clips, and in stage 2 a table of all samples, at every `model_<update>.pt`."""

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
    """Clips by what they are, and a row of every sample; nothing of an update that lost all its rows."""

    clips: Mapping[str, Tensor]  # gen, ref, ...: mono waveforms
    sample_rate: int  # Hz
    rows: Sequence[Mapping[str, Cell]] = field(default_factory=list)  # all with the same columns


MakeSamples = Callable[[CFM, Item], Samples]


def write_samples(folder: Path, samples: Samples, update: int) -> None:
    """`update_<n>_<clip>.wav` for each clip, and `update_<n>.jsonl` for the table where there is one."""
    folder.mkdir(exist_ok=True)
    for name, clip in samples.clips.items():
        write_wav(folder / f"update_{update}_{name}.wav", clip, samples.sample_rate)
    if samples.rows:
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in samples.rows]
        (folder / f"update_{update}.jsonl").write_text("".join(lines), encoding="utf-8")


class ContinuationSamples:
    """Stage 1: a batch's first item is the prompt, and its text is spoken once more, from the same noise every time.

    `gen` is that speech, `ref` the item as the vocoder alone can speak it. The random state stays as it is.
    """

    def __init__(self, vocabulary: Vocabulary, vocoder: Vocoder, infer: InferConfig, mel_spec: MelSpecConfig) -> None:
        self.space = vocabulary.encode([" "])[0]
        self.vocoder, self.infer, self.sample_rate = vocoder, infer, mel_spec.target_sample_rate

    def __call__(self, model: CFM, item: list[SpeechBatch]) -> Samples:
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
        """Log-mel of the prompt and as many frames again."""
        infer, lens = self.infer, torch.tensor([prompt.shape[1]], device=prompt.device)
        noise = torch.randn(1, 2 * prompt.shape[1], prompt.shape[2], generator=torch.Generator().manual_seed(0))
        times = time_grid(infer.nfe_step, infer.sway_sampling_coef, epss=infer.epss).to(prompt)
        noise = noise.to(prompt)
        return sample(model, prompt, lens, 2 * lens, text, noise, times, infer.cfg_strength, infer.ode_method)


class RolloutSamples:
    """Stage 2: of the samples that the update learnt from a row each; of the first prompt's `gen`, the one with the
    highest reward, `worst`, and `ref`, the recording."""

    def __init__(self, vocoder: Vocoder, mel_spec: MelSpecConfig) -> None:
        self.vocoder, self.mel_spec = vocoder, mel_spec

    def __call__(self, model: CFM, item: list[ExperienceBatch]) -> Samples:
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
        """What the rewards heard: the generated span alone."""
        span = batch.rollout.mel[index][batch.rollout.target_mask[index]]
        (clip,) = self.vocoder(span[None], torch.tensor([len(span)], device=span.device))
        return clip

    def recording(self, batch: ExperienceBatch, index: int) -> Tensor:
        """How a person said it."""
        prompts = batch.rollout.batch
        return prompts.audio[index][int(prompts.prompt_lens[index]) * self.mel_spec.hop_length :]


def sample_table(batch: ExperienceBatch) -> list[dict[str, Cell]]:
    """Prompt, text, what rewards heard, their scores and the advantage of every sample; of advantages by frame the
    mean."""
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
