"""What a run's rewards say of two recordings, and of a rollout. `scripts.doctor` asks."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from f5_tts.config.schema import ProviderConfig, group_size
from f5_tts.data.audio import load_audio
from f5_tts.data.quality import heard
from f5_tts.data.rows import Row
from f5_tts.doctor.context import Patient, sentence
from f5_tts.model.build import build_vocoder
from f5_tts.rewards.registry import PROVIDERS, build_provider, score_all
from f5_tts.rl.advantage import GroupComparison, without_spread
from f5_tts.rl.gather import join, padded
from f5_tts.rl.scoring import Scorer
from f5_tts.train.alarms import SPREAD_MORE
from f5_tts.types import RewardInput, RewardProvider

RANGES = {"acc": (0.0, 1.0), "sim": (-1.0, 1.0), "ok": (0.0, 1.0)}  # of our own rewards, by component
ANY = (-math.inf, math.inf)
ROUNDING = 1e-3  # a sum of advantages may differ from 0 by this share of the largest


def rewards(patient: Patient) -> str:
    """Each reward hears two recordings, then the same two with their texts and voices exchanged."""
    run = patient.rl_run
    own, exchanged = two_clips(patient)
    said, wrong, providers = [], [], {}
    for place, entry in enumerate(run.rl.rewards.providers):
        try:
            providers[entry.name] = build_provider(entry, f"rl.rewards.providers.{place}")
            said.append(tried(entry, providers[entry.name], own, exchanged))
        except Exception as error:  # of the user's own code too, whatever it raises
            wrong.append(f"{entry.name}: {sentence(error)}")
    if not wrong:
        patient.scorer = Scorer(build_vocoder(run.model), providers, run.rl, run.model.mel_spec)
        return "; ".join(said)
    raise ValueError("; ".join([*wrong, *said]))


def tried(entry: ProviderConfig, provider: RewardProvider, own: list[RewardInput], exchanged: list[RewardInput]) -> str:
    """Scores and time of one reward; ValueError where a score is none, or is out of range."""
    name = f"{entry.name}.{provider.component}"
    right = score_all({entry.name: provider}, own).parts[name]  # the first call may load something
    started = time.perf_counter()
    other = score_all({entry.name: provider}, exchanged).parts[name]
    took_ms = 1000 * (time.perf_counter() - started) / len(exchanged)
    low, high = RANGES.get(provider.component, ANY) if entry.name in PROVIDERS else ANY
    scores = torch.cat([right, other])
    if right.isnan().all():
        raise ValueError("gives NaN (does not apply) to both recordings of the data that it was tried on")
    if ((scores < low - 1e-4) | (scores > high + 1e-4)).any():
        raise ValueError(f"scores {rounded(scores)} are outside of {low:g} to {high:g}")
    unmoved = "" if not torch.equal(right, other) else ", no difference"
    return f"{name} {rounded(right)}, exchanged {rounded(other)}{unmoved}, {took_ms:.0f} ms a clip"


def rounded(scores: Tensor) -> str:
    return " and ".join(f"{score:.2f}" for score in scores.tolist())


def two_clips(patient: Patient) -> tuple[list[RewardInput], list[RewardInput]]:
    """Two recordings that differ in text and, if they can, in voice; and the same with their audio exchanged."""
    others = [row for row in patient.rows if row.sentence != patient.rows[0].sentence]
    if not others:
        raise ValueError(f"{len(patient.rows)} rows could be heard, with one text at most: a reward is tried on two")
    first = patient.rows[0]
    second = max(others, key=lambda row: row.speaker != first.speaker)
    one, two = (as_input(patient, row) for row in (first, second))
    return [one, two], [replace(one, audio=two.audio), replace(two, audio=one.audio)]


def as_input(patient: Patient, row: Row) -> RewardInput:
    """A recording, with another of the same speaker as reference if there is one, else itself."""
    rate, dataset = patient.run.model.mel_spec.target_sample_rate, patient.plan.dataset
    audio = load_audio(row.audio_path, rate)
    longest, same = (
        patient.run.datasets.max_seconds,
        [] if row.speaker is None else [dataset.rows[index] for index in dataset.by_speaker[row.speaker]],
    )
    voice = next((other for other in same if other is not row and heard(other, longest).seconds), row)
    return RewardInput(
        audio=audio,
        sample_rate=rate,
        text=row.sentence,
        language=str(row.columns.get("language") or "auto"),
        reference_audio=load_audio(voice.audio_path, rate),
        reference_text=voice.sentence,
        target_audio=audio,
        row=row.columns,
    )


def advantages(patient: Patient) -> str:
    """What the rewards say of the rollout: whether groups differ, and whether advantages favour none of them."""
    rl, scorer, rollouts = patient.rl_run.rl, patient.scorer, [batch.rollout for batch in patient.experience]
    rewards = join([scorer(part) for part in rollouts])
    group_ids = torch.cat([part.batch.group_ids for part in rollouts]).cpu()
    target = padded([part.target.cpu() for part in rollouts])
    if group_size(rl) == 1:
        return "groups of one: each reward is compared with its running mean, and nothing sums to 0"
    counted = {name: score for name, score in rewards.parts.items() if scorer.weights[name]}
    differ = group_ids[~without_spread(counted, group_ids)].unique().numel()
    groups = group_ids.unique().numel()
    if not differ:
        raise ValueError(f"all samples of each of {groups} groups scored the same, so nothing is learnt: {SPREAD_MORE}")
    compare = GroupComparison(scorer.weights, scorer.floors, replace(rl, advantage_clip=math.inf))
    found = compare(rewards.parts | rewards.frames, group_ids, target)
    off = furthest_sum(found, group_ids, target)
    if not off <= ROUNDING * max(1.0, float(found.abs().max())):
        raise ValueError(f"the advantages of a group sum to {off:.2g}, not 0: is a score not finite?")
    scores = ", ".join(f"{name} {score.nanmean():.2f}" for name, score in rewards.parts.items())
    return f"{differ} of {groups} groups differ within; sums are 0 to within {off:.1g}; mean scores: {scores}"


def furthest_sum(
    advantages: Float[Tensor, " b"] | Float[Tensor, "b n"], group_ids: Int[Tensor, " b"], target: Bool[Tensor, "b n"]
) -> float:
    """The largest sum over a group, of frames over those that all of it speak."""
    sums = []
    for group in group_ids.unique():
        rows = group_ids == group
        spoken = target[rows].all(dim=0)
        sums.append((advantages[rows] if advantages.ndim == 1 else advantages[rows][:, spoken]).sum(dim=0).abs().max())
    return float(torch.stack(sums).max())
