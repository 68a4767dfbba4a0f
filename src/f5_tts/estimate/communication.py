"""Estimate of what stage 2 holds and sends on many GPUs, from shapes and counted passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from f5_tts.config.schema import RLConfig, RLRunConfig, group_size
from f5_tts.estimate.memory import FLOAT, frames_of, kept, passes, prompts, total, vocabulary_of
from f5_tts.model.build import build_model
from f5_tts.model.fsdp import part_sizes
from f5_tts.model.heads import Velocity
from f5_tts.model.lora import adapter_sizes, trained_sizes
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.grpo import GRPOLoss
from f5_tts.types import GRPOBatch, Rollout, SpeechBatch

SIZES = (1, 8, 64, 512)
NODE = 8  # GPUs
UPDATES = 16  # tried, as rl.window.schedule=random draws other steps each time
IN_SHARDS = [  # with what does not go with it
    *("optim.shard=true", "optim.bnb_optimizer=false", "optim.ema.device=null"),
    *("rl.ref_model_device=null", "eval.every_updates=0"),
]


class Counted:
    """In place of a network, of the reference and of nft's old policy: how often they are asked."""

    def __init__(self) -> None:
        self.asked = self.learnt = 0  # in all, and with gradients

    def __call__(self, x: Tensor, *inputs: Any, **options: Any) -> Velocity:
        self.asked += 1
        self.learnt += torch.is_grad_enabled()
        return Velocity(torch.zeros_like(x), torch.zeros_like(x))


def passes_of_update(rl: RLConfig, has_old: bool) -> tuple[float, float]:
    """Forward passes in which one batch is drawn and held against the reference, and those that are learnt from, each
    with a backward pass; of an update, on average."""
    draw = find_algorithm(rl.algorithm).draw
    drawing, learning = Counted(), Counted()
    loss = GRPOLoss(rl, learning if rl.kl_weight > 0 else None, learning if has_old else None)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        for _ in range(UPDATES):
            drawn = list(draw(drawing, short_batch(), rl))
            list(loss(learning, [without_merit(rollout) for rollout in drawn]))
    asked = drawing.asked / rl.updates_per_rollout + learning.asked - learning.learnt
    return asked / UPDATES, learning.learnt / UPDATES


def without_merit(rollout: Rollout) -> GRPOBatch:
    return GRPOBatch(rollout=rollout, advantages=torch.zeros(len(rollout.mel)), share=1.0, metrics={})


def short_batch() -> SpeechBatch:
    """One prompt of 100 frames of one bin."""
    lens, text = torch.tensor([100]), torch.zeros(1, 1, dtype=torch.long)
    return SpeechBatch(
        mel=torch.zeros(1, 100, 1),
        lens=lens,
        prompt_lens=lens // 2,
        text=text,
        target_texts=[""],
        group_ids=text[0],
        audio=[torch.zeros(1)],
    )


class Scale:
    """A run, and the same in shards, on any number of GPUs; all in bytes."""

    def __init__(self, run: RLRunConfig, shards: RLRunConfig, seconds: float) -> None:
        self.run, self.shards, self.seconds = run, shards, seconds
        with FakeTensorMode():
            self.model = build_model(run.model, vocabulary_of(run)).eval()
            self.activations, *self.others = passes(run, self.model, seconds)
            has_old = find_algorithm(run.rl.algorithm).build_old_policy(self.model, run.rl) is not None
        batches, sizes = run.optim.grad_accumulation_steps, trained_sizes(self.model, run.lora)
        self.asked, self.learnt = (batches * num for num in passes_of_update(run.rl, has_old))
        self.weights, self.gradients = FLOAT * sum(part_sizes(self.model)), FLOAT * sum(sizes)
        self.tensors, self.rollouts = len(sizes), prompts(run, seconds) * batches * group_size(run.rl)

    def held(self) -> int:
        return total([*kept(self.run, self.model, self.seconds), self.activations, *self.others], "GPU")

    def held_in_shards(self, world: int) -> int:
        return total([*kept(self.shards, self.model, self.seconds, world), self.activations], "GPU")

    def sent(self, world: int) -> float:
        """By each GPU in an update: gradients go around a ring twice, to be added up and to be handed out."""
        return 2 * (world - 1) / world * self.gradients

    def sent_in_shards(self, world: int) -> float:
        """The same. Weights go around once for each pass, forward or backward, and gradients once for each backward
        pass: to each process its part of them, from each other one."""
        lora, model = self.run.lora, self.model
        part, trained = sum(part_sizes(model, world)), sum(trained_sizes(model, lora, world))
        part += sum(adapter_sizes(model, lora, world))
        return (world - 1) * FLOAT * ((self.asked + 2 * self.learnt) * part + self.learnt * trained)

    def rewards(self) -> int:
        """By each process to each other: which frames it generated, and with rl.credit=word what each earned; scores of
        whole clips are a few more."""
        frames = self.rollouts * frames_of(self.run, self.seconds)
        return frames * (1 if self.run.rl.credit == "sample" else 1 + FLOAT)
