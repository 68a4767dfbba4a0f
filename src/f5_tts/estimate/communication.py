"""Estimate of what stage 2 holds and sends on many GPUs, from shapes and counted passes."""

from __future__ import annotations

from dataclasses import replace
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
from f5_tts.rl.draft import draw_beside
from f5_tts.rl.grpo import PolicyLoss
from f5_tts.types import ExperienceBatch, Rollout, SpeechBatch

WORLD_SIZES = (1, 8, 64, 512)
GPUS_PER_NODE = 8  # GPUs per node
NUM_SAMPLED_UPDATES = 16  # updates to average over, as rl.window.schedule=random selects different steps each time
SHARDED_OVERRIDES = [  # with the options that sharding excludes set to their defaults
    *("optim.shard=true", "optim.bnb_optimizer=false", "optim.ema.device=null"),
    *("rl.ref_model_device=null", "eval.every_updates=0"),
]


class CallCounter:
    """Replacement for the policy, the reference and the old policy of nft that counts its calls."""

    def __init__(self) -> None:
        self.num_forward = self.num_backward = 0  # all calls, and those with gradients

    def __call__(self, x: Tensor, *inputs: Any, **options: Any) -> Velocity:
        """Count the call and return a zero velocity."""
        self.num_forward += 1
        self.num_backward += torch.is_grad_enabled()
        return Velocity(0 * x, torch.zeros_like(x))  # 0 * x has a gradient where x has one


def passes_per_update(rl: RLConfig, has_old: bool) -> tuple[float, float]:
    """Count the passes of one batch per update, on average.

    Returns the forward passes without gradients, and the forward passes that are each followed by a backward pass.
    """
    drawing, learning = CallCounter(), CallCounter()
    loss = PolicyLoss(rl, learning if rl.kl_weight > 0 else None, learning if has_old else None)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        for update in range(NUM_SAMPLED_UPDATES):
            for output in loss(learning, [replace(batch, update=update) for batch in experience_of(drawing, rl)]):
                if output.loss.requires_grad:  # draft computes its steps again in the backward pass
                    output.loss.backward()
    num_forward = drawing.num_forward / rl.updates_per_rollout + learning.num_forward - learning.num_backward
    return num_forward / NUM_SAMPLED_UPDATES, learning.num_backward / NUM_SAMPLED_UPDATES


def experience_of(policy: CallCounter, rl: RLConfig) -> list[ExperienceBatch]:
    """Draw the samples of an update for one short batch, with zero advantages or gradients of rewards."""
    algorithm, batch = find_algorithm(rl.algorithm), short_batch()
    alone = algorithm.uses_reward_gradients
    experience = [as_experience(rollout, alone) for rollout in algorithm.draw(policy, batch, rl)]
    if rl.draft.weight > 0 and not alone:
        experience += [as_experience(rollout, True) for rollout in draw_beside(policy, batch, rl)]
    return experience


def as_experience(rollout: Rollout, has_gradient: bool) -> ExperienceBatch:
    """Build an experience batch with zero advantages, and a zero gradient of the rewards if it has one."""
    return ExperienceBatch(
        rollout=rollout,
        advantages=torch.zeros(len(rollout.mel)),
        loss_weight=1.0,
        metrics={"draft/loss": 0.0},
        mel_gradient=torch.zeros_like(rollout.mel) if has_gradient else None,
    )


def short_batch() -> SpeechBatch:
    """Build a batch of one prompt with 100 frames of one mel bin."""
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
    """Memory and communication of a run, with and without sharding, on any number of GPUs; all in bytes."""

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
        """Compute the bytes that each GPU holds without sharding."""
        return total_bytes(
            [*persistent_items(self.cfg, self.model, self.seconds), self.activations, *self.other_items], "GPU"
        )

    def bytes_held_sharded(self, world_size: int) -> int:
        """Compute the bytes that each GPU holds with sharding."""
        return total_bytes(
            [*persistent_items(self.sharded_cfg, self.model, self.seconds, world_size), self.activations], "GPU"
        )

    def bytes_sent(self, world_size: int) -> float:
        """Compute the bytes that each GPU sends per update without sharding.

        Gradients are averaged by a ring all-reduce, which sends 2 (n - 1) / n of their size on n GPUs.
        """
        return 2 * (world_size - 1) / world_size * self.gradients

    def bytes_sent_sharded(self, world_size: int) -> float:
        """Compute the bytes that each GPU sends per update with sharding.

        Weights are all-gathered for each forward and each backward pass; gradients are reduce-scattered after each
        backward pass. Each of these exchanges one shard with every other process.
        """
        lora, model = self.cfg.lora, self.model
        shard, trained = sum(shard_numels(model, world_size)), sum(trained_sizes(model, lora, world_size))
        shard += sum(adapter_sizes(model, lora, world_size))
        return (
            (world_size - 1)
            * BYTES_PER_FLOAT
            * ((self.num_forward + 2 * self.num_backward) * shard + self.num_backward * trained)
        )

    def reward_bytes(self) -> int:
        """Compute the bytes that each process sends to each other process for rewards.

        These are the mask of generated frames and, with rl.credit=word, a score per frame. Scores of whole clips add
        little and are not counted.
        """
        frames = self.rollouts * frames_per_clip(self.cfg, self.seconds)
        return frames * (1 if self.cfg.rl.credit == "sample" else 1 + BYTES_PER_FLOAT)
