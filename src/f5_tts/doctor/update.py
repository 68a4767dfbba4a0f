"""Doctor checks of one update: rollout, probability ratio, gradient, time, memory and disk space."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from f5_tts.config.schema import RLTrainConfig
from f5_tts.doctor.context import RunUnderTest
from f5_tts.doctor.run_setup import nearest
from f5_tts.estimate.memory import budget, total_bytes
from f5_tts.model.checkpoint import HEAD
from f5_tts.rl.grpo import collect_experience
from f5_tts.rl.policy_gradient import check_on_policy
from f5_tts.train.build_rl import build_advantage
from f5_tts.train.loop import accumulate_gradients, merge_metrics, read_rows, train_update
from f5_tts.train.oom import OomRetry
from f5_tts.types import ExperienceBatch, RewardBatch, Rollout

MAX_TRIES = 4  # stage 1 drops texts at random: passes after which each tensor must have had a gradient
CHANCE = "chance.score"


def rollout(run: RunUnderTest) -> str:
    """Collect the samples of one update as the run does, with random scores in place of the rewards'.

    Raises:
        ValueError: a sample has values that are not finite.
    """
    experience = random_experience(run)
    rollouts = [batch.rollout for batch in experience]
    num_non_finite = sum(int((~drawn_rollout.mel.isfinite()).flatten(1).any(dim=1).sum()) for drawn_rollout in rollouts)
    samples = sum(len(drawn_rollout.mel) for drawn_rollout in rollouts)
    if num_non_finite:
        raise ValueError(
            f"{num_non_finite} of {samples} samples are not finite: a damaged checkpoint, or too low a precision?"
        )
    run.experience = experience
    frames = sum(int(drawn_rollout.target_mask.sum()) for drawn_rollout in rollouts)
    seconds = frames / samples / run.cfg.model.mel_spec.frames_per_second
    prompts = sum(len(batch.lens) for batch in run.batches)
    duration_s = experience[0].metrics["time/rollout"]
    return (
        f"{samples} samples of {prompts} prompts, {seconds:.1f} s each on average, generated in {duration_s:.1f} s, "
        "all finite"
    )


def random_experience(run: RunUnderTest) -> list[ExperienceBatch]:
    """Collect the experience of one update with random scores, so that it does not depend on the rewards."""
    rl, seed = run.rl_cfg.rl, run.cfg.optim.seed
    torch.manual_seed(seed)

    def advantage_fn(components: dict[str, Tensor], group_ids: Tensor, target: Tensor) -> Tensor:
        return components[CHANCE].clamp(-rl.advantage_clip, rl.advantage_clip)

    return next(
        collect_experience(run.policy, [run.batches], RandomRewards(), advantage_fn, rl, old_policy=run.old_policy)
    )


class RandomRewards:
    """Random scores and gradients in place of rewards."""

    def __call__(self, rollout: Rollout) -> RewardBatch:
        """Draw a random score (standard normal) for each sample."""
        scores = torch.randn(len(rollout.mel))
        return RewardBatch(total=scores, components={CHANCE: scores}, weights={CHANCE: 1.0})

    def differentiate(self, rollout: Rollout) -> tuple[RewardBatch, Tensor]:
        """Draw random scores, and a random gradient for each generated mel entry, divided by their number."""
        target = rollout.target_mask[..., None]
        return self(rollout), torch.randn_like(rollout.mel) * target / target.sum(dim=(1, 2), keepdim=True)


def backward_slices(run: RunUnderTest, item: list[Any]) -> dict[str, float]:
    """Run the backward passes of one update and return its merged metrics; gradients accumulate."""
    slices = accumulate_gradients(run.policy, item, run.loss, run.accelerator)
    return merge_metrics(read_rows([output.metrics for output in slices]))


def measured(run: RunUnderTest) -> dict[str, float]:
    """Return the metrics of the first backward pass over the rollout; a wrong probability ratio raises nothing."""
    if not hasattr(run, "metrics"):
        run.metrics = backward_slices(run, [replace(batch, is_on_policy=False) for batch in run.experience])
    return run.metrics


def ratio(run: RunUnderTest) -> str:
    """Check that the policy assigns its samples the probability recorded in the rollout: a ratio of 1."""
    check = check_on_policy(measured(run), run.rl_cfg.rl)
    if not check:
        return f"{run.rl_cfg.rl.algorithm} has no probability ratio"
    return f"off by {check['ratio/initial_max_dev']:.2g} before any update"


# --- gradients ---


def gradient(run: RunUnderTest) -> str:
    """Check that each trained tensor receives a gradient and that the gradients are finite.

    Layers that start at zero pass no gradient to the layers before them. Tensors without one are therefore tested again
    after such weights were replaced by small noise.

    Raises:
        ValueError: trained tensors receive no gradient.
        FloatingPointError: a gradient is not finite, and no fp16 scaler would reduce it.
    """
    trained = {name: value for name, value in run.policy.named_parameters() if value.requires_grad}
    frozen = {name for name in trained if name.startswith(HEAD)} if run.freezes_sigma else set()
    expected = {name: value for name, value in trained.items() if name not in frozen}
    backward_until_covered(run, expected)
    pending = without_gradient(expected)
    with perturb_zero_weights(run):
        backward_until_covered(run, expected)
    if missing := without_gradient(expected):
        raise ValueError(
            f"{len(missing)} of {len(trained)} trained tensors get no gradient and would never change "
            f"({first_names(missing)}): look at "
            f"{'rl.advantage_clip' if isinstance(run.cfg, RLTrainConfig) else 'model.ln_sigma_init'}"
        )
    non_finite = [
        name for name, value in expected.items() if value.grad is not None and not value.grad.isfinite().all()
    ]
    if non_finite and run.accelerator.scaler is None:  # the fp16 scaler starts too large and reduces its scale
        raise FloatingPointError(
            f"not finite for {first_names(non_finite)}: look at the checkpoint, model.ln_sigma_init and "
            "optim.mixed_precision"
        )
    messages = [f"reaches {len(expected) - len(pending)} of {len(trained)} trained tensors"]
    messages += (
        [f"{len(pending)} more once layers that start at zero have changed ({first_names(pending)})"] if pending else []
    )
    messages += ["the Gaussian head is not trained (rl.algorithm, rl.train_sigma)"] if frozen else []
    return "; ".join(messages)


def backward_until_covered(run: RunUnderTest, expected: Mapping[str, Tensor]) -> None:
    """Run backward passes until each tensor has had a gradient.

    Stage 2 runs one. Stage 1 drops texts at random and runs up to `MAX_TRIES`.
    """
    is_rl = isinstance(run.cfg, RLTrainConfig)
    for _ in range(1 if is_rl else MAX_TRIES):
        if without_gradient(expected):
            backward_slices(run, random_experience(run) if is_rl else run.batches)


def without_gradient(trained: Mapping[str, Tensor]) -> set[str]:
    """Return the names of tensors whose gradient is missing or zero."""
    return {name for name, value in trained.items() if value.grad is None or not value.grad.any()}


@contextmanager
def perturb_zero_weights(run: RunUnderTest) -> Iterator[None]:
    """Replace weights that are all zero by small noise within the context, so that gradients pass through them."""
    zero_weights = [value for value in run.policy.parameters() if not value.any()]
    with torch.no_grad():
        for value in zero_weights:
            value.normal_(std=0.01)
    try:
        yield
    finally:
        with torch.no_grad():
            for value in zero_weights:
                value.zero_()


def first_names(names: Iterable[str]) -> str:
    """Join the first two names, followed by an ellipsis if there are more."""
    first = sorted(names)
    return ", ".join(first[:2] + ["..."] * (len(first) > 2))


# --- time, memory and disk space ---


def cost(run: RunUnderTest) -> str:
    """Run and time one whole update, and estimate the time, memory and disk space of the rest of the run.

    The update changes the weights in memory.
    """
    cfg, state = run.cfg, run.state
    remaining = run.total - state.update
    run.policy.zero_grad()
    started = time.perf_counter()
    item = scored_experience(run) if isinstance(cfg, RLTrainConfig) else run.batches
    drawn_at = time.perf_counter()
    train_update(state, run.policy, item, run.loss, run.accelerator, cfg.optim, OomRetry())
    seconds = (drawn_at - started) / run.updates_per_rollout + time.perf_counter() - drawn_at
    messages = [
        f"{seconds:.1f} s an update, {seconds * remaining / 3600:.2g} hours for {remaining} of {run.total} updates"
    ]
    return "; ".join([*messages, memory(run), disk(run, remaining)])


def scored_experience(run: RunUnderTest) -> list[ExperienceBatch]:
    """Collect the experience of one update with the run's own rewards."""
    rl, scorer = run.rl_cfg.rl, run.scorer
    advantage_fn = build_advantage(scorer, rl)
    return next(collect_experience(run.policy, [run.batches], scorer, advantage_fn, rl, old_policy=run.old_policy))


def memory(run: RunUnderTest) -> str:
    """Report the memory of the update in GB; for stage 2, also the estimate for the longest clips.

    Raises:
        ValueError: the longest clips need more memory than there is.
    """
    on_gpu = run.accelerator.device.type == "cuda"
    if on_gpu:
        used, free = torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    else:
        used = psutil.Process().memory_info().rss
        free = psutil.virtual_memory().available + used
    summary = f"{used / 1e9:.1f} GB of {'GPU ' if on_gpu else ''}memory"
    if not isinstance(run.cfg, RLTrainConfig):
        return summary
    plan = run.plan
    indices = [index for batch in plan.epoch(0) for index, _, _ in batch]
    items = budget(run.cfg, float(plan.frames(0)[indices].max() / plan.frames_per_second))
    needed = sum(total_bytes(items, device) for device in (["GPU"] if on_gpu else ["GPU", "CPU"]))
    if needed > free:
        raise ValueError(
            f"the longest clips need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: f5-tts "
            "budget with the same arguments says what to change"
        )
    return f"{summary}, {needed / 1e9:.1f} estimated for the longest clips"


def disk(run: RunUnderTest, remaining: int) -> str:
    """Estimate the disk space of the run's checkpoints; raise ValueError if it exceeds the free space."""
    ckpts = run.cfg.ckpts
    size, free = num_bytes(run.state.payload()), shutil.disk_usage(nearest(Path(ckpts.save_dir))).free
    numbered = remaining // ckpts.save_per_updates
    # model_last.pt counts twice: the new one is written beside the old one
    files = 2 + (numbered if ckpts.keep_last_n_checkpoints < 0 else min(numbered, ckpts.keep_last_n_checkpoints))
    summary = f"up to {files} checkpoints of {size / 1e9:.2g} GB"
    if files * size > free:
        fewer = "set ckpts.keep_last_n_checkpoints=1 or raise ckpts.save_per_updates, or " if files > 3 else ""
        raise ValueError(
            f"{summary}, and ckpts.save_dir={ckpts.save_dir} has {free / 1e9:.2g} GB free: {fewer}set ckpts.save_dir "
            f"to a folder on another volume{describe_volume(files * size)}"
        )
    return summary


def describe_volume(needed: int) -> str:
    """Name the volume with most space, where one has the needed bytes and may be written."""
    mounts = [Path(part.mountpoint) for part in psutil.disk_partitions()]
    free = {mount: shutil.disk_usage(mount).free for mount in mounts if mount.is_dir() and os.access(mount, os.W_OK)}
    roomiest = max(free, key=lambda mount: free[mount], default=None)
    if roomiest is None or free[roomiest] < needed:
        return ""
    return f", such as {roomiest} ({free[roomiest] / 1e9:.2g} GB free)"


def num_bytes(state: object) -> int:
    """Compute the bytes of all tensors in a nested state."""
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor))
