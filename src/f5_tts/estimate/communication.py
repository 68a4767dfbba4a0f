"""Estimate of what stage 2 holds and sends on many GPUs, from shapes and counted passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from f5_tts.config.schema import RLConfig, RLTrainConfig, group_size
from f5_tts.estimate.memory import (
    BYTES_PER_FLOAT,
    frames_per_clip,
    persistent_items,
    prompts_per_batch,
    total_bytes,
    transient_items,
    vocabulary_or_default,
)
from f5_tts.model.build import build_model
from f5_tts.model.fsdp import shard_numels
from f5_tts.model.heads import Velocity
from f5_tts.model.lora import adapter_sizes, trained_sizes
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.grpo import PolicyLoss
from f5_tts.types import ExperienceBatch, Rollout, SpeechBatch

WORLD_SIZES = (1, 8, 64, 512)
GPUS_PER_NODE = 8  # GPUs
NUM_SAMPLED_UPDATES = 16  # tried, as rl.window.schedule=random draws other steps each time
SHARDED_OVERRIDES = [  # with what does not go with it
    *("optim.shard=true", "optim.bnb_optimizer=false", "optim.ema.device=null"),
    *("rl.ref_model_device=null", "eval.every_updates=0"),
]


class CallCounter:
    """In place of a network, of the reference and of nft's old policy: how often they are asked."""

    def __init__(self) -> None:
        self.num_forward = self.num_backward = 0  # in all, and with gradients

    def __call__(self, x: Tensor, *inputs: Any, **options: Any) -> Velocity:
        self.num_forward += 1
        self.num_backward += torch.is_grad_enabled()
        return Velocity(torch.zeros_like(x), torch.zeros_like(x))


def passes_per_update(rl: RLConfig, has_old: bool) -> tuple[float, float]:
    """Forward passes in which one batch is drawn and held against the reference, and those that are learnt from, each
    with a backward pass; of an update, on average."""
    draw = find_algorithm(rl.algorithm).draw
    drawing, learning = CallCounter(), CallCounter()
    loss = PolicyLoss(rl, learning if rl.kl_weight > 0 else None, learning if has_old else None)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        for _ in range(NUM_SAMPLED_UPDATES):
            rollouts = list(draw(drawing, short_batch(), rl))
            list(loss(learning, [as_experience(rollout) for rollout in rollouts]))
    num_forward = drawing.num_forward / rl.updates_per_rollout + learning.num_forward - learning.num_backward
    return num_forward / NUM_SAMPLED_UPDATES, learning.num_backward / NUM_SAMPLED_UPDATES


def as_experience(rollout: Rollout) -> ExperienceBatch:
    return ExperienceBatch(rollout=rollout, advantages=torch.zeros(len(rollout.mel)), loss_weight=1.0, metrics={})


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


class CommunicationEstimate:
    """A run, and the same in shards, on any number of GPUs; all in bytes."""

    def __init__(self, cfg: RLTrainConfig, sharded_cfg: RLTrainConfig, seconds: float) -> None:
        self.cfg, self.sharded_cfg, self.seconds = cfg, sharded_cfg, seconds
        with FakeTensorMode():
            self.model = build_model(cfg.model, vocabulary_or_default(cfg)).eval()
            self.activations, *self.other_items = transient_items(cfg, self.model, seconds)
            has_old = find_algorithm(cfg.rl.algorithm).build_old_policy(self.model, cfg.rl) is not None
        batches, sizes = cfg.optim.grad_accumulation_steps, trained_sizes(self.model, cfg.lora)
        self.num_forward, self.num_backward = (batches * num for num in passes_per_update(cfg.rl, has_old))
        self.weights, self.gradients = BYTES_PER_FLOAT * sum(shard_numels(self.model)), BYTES_PER_FLOAT * sum(sizes)
        self.tensors, self.rollouts = len(sizes), prompts_per_batch(cfg, seconds) * batches * group_size(cfg.rl)

    def bytes_held(self) -> int:
        return total_bytes(
            [*persistent_items(self.cfg, self.model, self.seconds), self.activations, *self.other_items], "GPU"
        )

    def bytes_held_sharded(self, world_size: int) -> int:
        return total_bytes(
            [*persistent_items(self.sharded_cfg, self.model, self.seconds, world_size), self.activations], "GPU"
        )

    def bytes_sent(self, world_size: int) -> float:
        """By each GPU in an update: gradients go around a ring twice, to be added up and to be handed out."""
        return 2 * (world_size - 1) / world_size * self.gradients

    def bytes_sent_sharded(self, world_size: int) -> float:
        """The same. Weights go around once for each pass, forward or backward, and gradients once for each backward
        pass: to each process its part of them, from each other one."""
        lora, model = self.cfg.lora, self.model
        shard, trained = sum(shard_numels(model, world_size)), sum(trained_sizes(model, lora, world_size))
        shard += sum(adapter_sizes(model, lora, world_size))
        return (
            (world_size - 1)
            * BYTES_PER_FLOAT
            * ((self.num_forward + 2 * self.num_backward) * shard + self.num_backward * trained)
        )

    def reward_bytes(self) -> int:
        """By each process to each other: which frames it generated, and with rl.credit=word what each earned; scores of
        whole clips are a few more."""
        frames = self.rollouts * frames_per_clip(self.cfg, self.seconds)
        return frames * (1 if self.cfg.rl.credit == "sample" else 1 + BYTES_PER_FLOAT)
