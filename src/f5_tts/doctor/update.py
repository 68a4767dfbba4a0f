"""One update of a run, tried: rollout, ratio, gradient, time, memory and disk. `scripts.doctor` asks."""

from __future__ import annotations

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

from f5_tts.config.schema import RLRunConfig
from f5_tts.doctor.context import Patient
from f5_tts.doctor.run_setup import nearest
from f5_tts.estimate.memory import budget
from f5_tts.estimate.memory import total as held
from f5_tts.model.checkpoint import HEAD
from f5_tts.rl.grpo import GRPOLoss, draw_experience
from f5_tts.train.build_rl import build_comparison
from f5_tts.train.loop import improve, learn, merge
from f5_tts.train.oom import Room
from f5_tts.types import GRPOBatch, RewardBatch, Rollout

TRIES = 4  # stage 1 hides texts by chance: draws after which a tensor must have had a gradient
CHANCE = "chance.score"


def rollout(patient: Patient) -> str:
    """One update's groups, drawn as the run draws them; advantages by chance stand for the rewards'."""
    drawn = drawn_by_chance(patient)
    rollouts = [batch.rollout for batch in drawn]
    broken = sum(int((~part.mel.isfinite()).flatten(1).any(dim=1).sum()) for part in rollouts)
    samples = sum(len(part.mel) for part in rollouts)
    if broken:
        raise ValueError(
            f"{broken} of {samples} samples are not finite: a damaged checkpoint, or too coarse a precision?"
        )
    patient.experience = drawn
    frames = sum(int(part.target.sum()) for part in rollouts)
    seconds = frames / samples / patient.run.model.mel_spec.frames_per_second
    prompts = sum(len(batch.lens) for batch in patient.batches)
    took = drawn[0].metrics["time/rollout"]
    return (
        f"{samples} samples of {prompts} prompts, {seconds:.1f} s each in the mean, drawn in {took:.1f} s, all finite"
    )


def drawn_by_chance(patient: Patient) -> list[GRPOBatch]:
    """What an update learns from, but for its rewards: it is here whether these work or not."""
    rl, seed = patient.rl_run.rl, patient.run.optim.seed
    torch.manual_seed(seed)

    def compare(parts: dict[str, Tensor], group_ids: Tensor, target: Tensor) -> Tensor:
        return parts[CHANCE].clamp(-rl.advantage_clip, rl.advantage_clip)

    return next(draw_experience(patient.policy, [patient.batches], by_chance, compare, rl, old=patient.old))


def by_chance(rollout: Rollout) -> RewardBatch:
    scores = torch.randn(len(rollout.mel))
    return RewardBatch(total=scores, parts={CHANCE: scores}, weights={CHANCE: 1.0})


def differentiated(patient: Patient, item: list[Any]) -> dict[str, float]:
    """What the slices of one update's loss measured; their gradients are added to those that are there."""
    return merge([part.metrics for part in learn(patient.policy, item, patient.loss, patient.accelerator)])


def measured(patient: Patient) -> dict[str, float]:
    """By the first backward pass over the rollout; a ratio that is off does not end it."""
    if not hasattr(patient, "measured"):
        patient.measured = differentiated(patient, [replace(batch, is_fresh=False) for batch in patient.experience])
    return patient.measured


def ratio(patient: Patient) -> str:
    """Whether the policy that learns is the one that drew."""
    metrics, loss = measured(patient), patient.loss
    assert isinstance(loss, GRPOLoss), "asked of stage 2 alone"
    found = loss.check_on_policy(metrics)
    if not found:
        return f"{patient.rl_run.rl.algorithm} has none"
    return f"off by {found['ratio/initial_max_dev']:.2g} before any update"


# --- gradients ---


def gradient(patient: Patient) -> str:
    """Whether every trained tensor gets one, those that `ratio` left included, and why not where it should not."""
    trained = {name: value for name, value in patient.policy.named_parameters() if value.requires_grad}
    frozen = {name for name in trained if name.startswith(HEAD)} if patient.freezes_sigma else set()
    wanted = {name: value for name, value in trained.items() if name not in frozen}
    reach(patient, wanted)
    waiting = silent(wanted)
    with stirred(patient):
        reach(patient, wanted)
    if lost := silent(wanted):
        raise ValueError(
            f"{len(lost)} of {len(trained)} trained tensors get none and would never change ({some(lost)}): look at "
            f"{'rl.advantage_clip' if isinstance(patient.run, RLRunConfig) else 'model.ln_sigma_init'}"
        )
    broken = [name for name, value in wanted.items() if value.grad is not None and not value.grad.isfinite().all()]
    if broken and patient.accelerator.scaler is None:  # fp16 begins with too large a scale, and lowers it
        raise FloatingPointError(
            f"not finite for {some(broken)}: look at the checkpoint, model.ln_sigma_init and optim.mixed_precision"
        )
    said = [f"reaches {len(wanted) - len(waiting)} of {len(trained)} trained tensors"]
    said += [f"{len(waiting)} more once layers that start at zero have moved ({some(waiting)})"] if waiting else []
    said += ["the Gaussian head stays as it is (rl.algorithm, rl.train_sigma)"] if frozen else []
    return "; ".join(said)


def reach(patient: Patient, wanted: Mapping[str, Tensor]) -> None:
    """Learn until every tensor has had a gradient: stage 1, which hides texts by chance, some times."""
    is_rl = isinstance(patient.run, RLRunConfig)
    for _ in range(1 if is_rl else TRIES):
        if silent(wanted):
            differentiated(patient, drawn_by_chance(patient) if is_rl else patient.batches)


def silent(trained: Mapping[str, Tensor]) -> set[str]:
    return {name for name, value in trained.items() if value.grad is None or not value.grad.any()}


@contextmanager
def stirred(patient: Patient) -> Iterator[None]:
    """Weights that are all zero, small noise for a while: what comes before them is then heard."""
    zeros = [value for value in patient.policy.parameters() if not value.any()]
    with torch.no_grad():
        for value in zeros:
            value.normal_(std=0.01)
    try:
        yield
    finally:
        with torch.no_grad():
            for value in zeros:
                value.zero_()


def some(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:2] + ["..."] * (len(first) > 2))


# --- time and room ---


def cost(patient: Patient) -> str:
    """One whole update, timed, and what the rest of the run will take and hold; the weights in memory change."""
    run, trainable = patient.run, patient.trainable
    left = patient.total - trainable.update
    patient.policy.zero_grad()
    started = time.perf_counter()
    item = drawn_and_judged(patient) if isinstance(run, RLRunConfig) else patient.batches
    drawn = time.perf_counter()
    improve(trainable, patient.policy, item, patient.loss, patient.accelerator, run.optim, Room())
    seconds = (drawn - started) / patient.uses + time.perf_counter() - drawn
    said = [f"{seconds:.1f} s an update, {seconds * left / 3600:.2g} hours for {left} of {patient.total} updates"]
    return "; ".join([*said, memory(patient), disk(patient, left)])


def drawn_and_judged(patient: Patient) -> list[GRPOBatch]:
    rl, scorer = patient.rl_run.rl, patient.scorer
    compare = build_comparison(scorer, rl)
    return next(draw_experience(patient.policy, [patient.batches], scorer, compare, rl, old=patient.old))


def memory(patient: Patient) -> str:
    """GB that the update took; of stage 2 also what the longest clips will, ValueError where that is not there."""
    on_gpu = patient.accelerator.device.type == "cuda"
    if on_gpu:
        took, free = torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    else:
        took = psutil.Process().memory_info().rss
        free = psutil.virtual_memory().available + took
    said = f"{took / 1e9:.1f} GB of {'GPU ' if on_gpu else ''}memory"
    if not isinstance(patient.run, RLRunConfig):
        return said
    plan = patient.plan
    kept = [index for batch in plan.epoch(0) for index, _, _ in batch]
    parts = budget(patient.run, float(plan.frames(0)[kept].max() / plan.frames_per_second))
    needed = sum(held(parts, where) for where in (["GPU"] if on_gpu else ["GPU", "CPU"]))
    if needed > free:
        raise ValueError(
            f"the longest clips need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: python -m "
            "f5_tts.scripts.budget with the same arguments says what to change"
        )
    return f"{said}, {needed / 1e9:.1f} by the budget of the longest clips"


def disk(patient: Patient, left: int) -> str:
    """How much the run's files will hold; ValueError where that is not there."""
    ckpts = patient.run.ckpts
    size, free = num_bytes(patient.trainable.state()), shutil.disk_usage(nearest(Path(ckpts.save_dir))).free
    numbered = left // ckpts.save_per_updates
    files = 2 + (numbered if ckpts.keep_last_n_checkpoints < 0 else min(numbered, ckpts.keep_last_n_checkpoints))
    said = f"up to {files} checkpoints of {size / 1e9:.2g} GB"  # model_last.pt counts twice: the new one is beside it
    if files * size > free:
        raise ValueError(
            f"{said}, and ckpts.save_dir has {free / 1e9:.2g} GB free: set ckpts.keep_last_n_checkpoints or raise "
            "ckpts.save_per_updates"
        )
    return said


def num_bytes(state: object) -> int:
    """Of all tensors in a nested state."""
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor))
