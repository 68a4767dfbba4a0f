"""Doctor checks of what scores the clips of a run: the judges of its validations, its rewards, and their advantages."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from f5_tts.config.reward_names import PROVIDERS
from f5_tts.config.schema import ProviderConfig, group_size
from f5_tts.data.audio import load_audio
from f5_tts.data.quality import scan_row
from f5_tts.data.rows import Row
from f5_tts.doctor.context import RunUnderTest, one_line_error
from f5_tts.eval.judges import build_judges, check_judges
from f5_tts.eval.texts import read_eval_list
from f5_tts.model.build import build_vocoder
from f5_tts.rewards.registry import build_provider, check_words, score_all
from f5_tts.rl.advantage import GroupAdvantage, zero_std_groups
from f5_tts.rl.gather import concat_rewards, pad_and_concat
from f5_tts.rl.scoring import RewardScorer
from f5_tts.train.alarms import MAX_REWARD, SPREAD_ADVICE
from f5_tts.train.build_eval import dev_items
from f5_tts.types import RewardInput, RewardProvider

SCORE_RANGES = {"acc": (0.0, 1.0), "sim": (-1.0, 1.0), "ok": (0.0, 1.0)}  # of the built-in rewards, by component
ANY = (-MAX_REWARD, MAX_REWARD)
TOLERANCE = 1e-3  # allowed sum of advantages, relative to the largest one


def judges(run: RunUnderTest) -> str:
    """Load the judges of the validations, as training does; raise its error where they cannot judge the items."""
    settings, plan = run.cfg.eval, run.plan
    if not settings.every_updates:
        return "no validation while training"
    found = run.judges or build_judges(settings)
    items = dev_items(run.cfg, plan.held_out, plan.dataset.rules)
    items += read_eval_list(settings.forgot, settings) if settings.forgot else []
    check_judges(found, items, settings)
    names = [*found.titles().values(), settings.speaker.name, *(entry.name for entry in settings.providers)]
    return f"{', '.join(names)} for {len(items)} items after every {settings.every_updates} updates"


def rewards(run: RunUnderTest) -> str:
    """Score two recordings with each reward, then the same two with their audio exchanged.

    Raises:
        ValueError: a reward cannot be built or fails, or its scores are NaN or out of range.
    """
    cfg = run.rl_cfg
    clips, exchanged = two_clips(run)
    messages, failures, providers = [], [], {}
    texts = [row.sentence for row in run.plan.dataset.rows]
    for index, entry in enumerate(cfg.rl.rewards.providers):
        try:
            providers[entry.name] = build_provider(entry, f"rl.rewards.providers.{index}")
            check_words({entry.name: providers[entry.name]}, texts, f"rl.rewards.providers.{index}")
            messages.append(try_provider(entry, providers[entry.name], clips, exchanged))
        except Exception as error:  # a user's own reward may raise anything
            message = one_line_error(error)
            failures.append(message if entry.name in message else f"{entry.name}: {message}")
    if not failures:
        run.scorer = RewardScorer(build_vocoder(cfg.model), providers, cfg.rl, cfg.model.mel_spec)
        return "; ".join(messages)
    raise ValueError("; ".join([*failures, *messages]))


def try_provider(
    entry: ProviderConfig, provider: RewardProvider, clips: list[RewardInput], exchanged: list[RewardInput]
) -> str:
    """Score both pairs with one reward; report its scores and its time per clip.

    Raises:
        ValueError: all scores are NaN, or one is out of range.
    """
    name = f"{entry.name}.{provider.component}"
    # the first call may load a model, so it is not timed
    original_scores = score_all({entry.name: provider}, clips).components[name]
    started = time.perf_counter()
    exchanged_scores = score_all({entry.name: provider}, exchanged).components[name]
    took_ms = 1000 * (time.perf_counter() - started) / len(exchanged)
    low, high = SCORE_RANGES.get(provider.component, ANY) if entry.name in PROVIDERS else ANY
    scores = torch.cat([original_scores, exchanged_scores])
    if original_scores.isnan().all():
        raise ValueError("scores NaN (does not apply) for both recordings that it was tested on")
    if ((scores < low - 1e-4) | (scores > high + 1e-4)).any():
        raise ValueError(f"scores {rounded(scores)} are outside of {low:g} to {high:g}")
    note = "" if not torch.equal(original_scores, exchanged_scores) else ", no difference"
    return (
        f"{name} {rounded(original_scores)}, with exchanged audio {rounded(exchanged_scores)}{note}, {took_ms:.0f} ms "
        "a clip"
    )


def rounded(scores: Tensor) -> str:
    """Format scores with two decimals."""
    return " and ".join(f"{score:.2f}" for score in scores.tolist())


def two_clips(run: RunUnderTest) -> tuple[list[RewardInput], list[RewardInput]]:
    """Select two recordings with different texts and, if possible, different speakers.

    Returns them as reward inputs, and the same inputs with their audio exchanged. Raises ValueError if all texts are
    equal.
    """
    others = [row for row in run.rows if row.sentence != run.rows[0].sentence]
    if not others:
        raise ValueError(
            f"{len(run.rows)} rows could be decoded, with one text at most: the test of a reward needs two texts"
        )
    first = run.rows[0]
    second = max(others, key=lambda row: row.speaker != first.speaker)
    one, two = (as_input(run, row) for row in (first, second))
    return [one, two], [replace(one, audio=two.audio), replace(two, audio=one.audio)]


def as_input(run: RunUnderTest, row: Row) -> RewardInput:
    """Build a reward input; its reference is another recording of the same speaker if there is one, else itself."""
    rate, dataset = run.cfg.model.mel_spec.target_sample_rate, run.plan.dataset
    audio = load_audio(row.audio_path, rate)
    same = [] if row.speaker is None else [dataset.rows[index] for index in dataset.by_speaker[row.speaker]]
    scan = partial(scan_row, max_seconds=run.cfg.datasets.max_seconds, rules=dataset.rules)
    reference_row = next((other for other in same if other is not row and scan(other).seconds), row)
    return RewardInput(
        audio=audio,
        sample_rate=rate,
        text=row.sentence,
        language=str(row.columns.get("language") or "auto"),
        reference_audio=load_audio(reference_row.audio_path, rate),
        reference_text=reference_row.sentence,
        target_audio=audio,
        row=row.columns,
    )


def advantages(run: RunUnderTest) -> str:
    """Check that scores differ within groups and that the advantages of each group sum to zero.

    Raises:
        ValueError: no group has differing scores, or the advantages of a group do not sum to zero.
    """
    rl, scorer, rollouts = run.rl_cfg.rl, run.scorer, [batch.rollout for batch in run.experience]
    rewards = concat_rewards([scorer(rollout) for rollout in rollouts])
    group_ids = torch.cat([rollout.batch.group_ids for rollout in rollouts]).cpu()
    target = pad_and_concat([rollout.target_mask.cpu() for rollout in rollouts])
    if group_size(rl) == 1:
        return "groups of one: each reward is compared with its running mean, so advantages need not sum to 0"
    counted = {name: score for name, score in rewards.components.items() if scorer.weights[name]}
    differ = group_ids[~zero_std_groups(counted, group_ids)].unique().numel()
    groups = group_ids.unique().numel()
    if not differ:
        raise ValueError(
            f"all samples of each of {groups} groups have the same score, so there is no gradient: {SPREAD_ADVICE}"
        )
    compare = GroupAdvantage(scorer.weights, scorer.floors, replace(rl, advantage_clip=math.inf))
    advantages = compare(rewards.components | rewards.frame_scores, group_ids, target)
    deviation = max_group_sum(advantages, group_ids, target)
    if not deviation <= TOLERANCE * max(1.0, float(advantages.abs().max())):
        raise ValueError(f"the advantages of a group sum to {deviation:.2g}, not 0: is a score not finite?")
    scores = ", ".join(f"{name} {score.nanmean():.2f}" for name, score in rewards.components.items())
    return (
        f"{differ} of {groups} groups have differing scores; advantages sum to 0 within {deviation:.1g}; mean scores: "
        f"{scores}"
    )


def max_group_sum(
    advantages: Float[Tensor, " b"] | Float[Tensor, "b n"], group_ids: Int[Tensor, " b"], target: Bool[Tensor, "b n"]
) -> float:
    """Compute the largest absolute sum of advantages over a group.

    Advantages per frame are summed over the samples of a group at each frame that all of them generate.
    """
    sums = []
    for group in group_ids.unique():
        rows = group_ids == group
        generated = target[rows].all(dim=0)
        sums.append(
            (advantages[rows] if advantages.ndim == 1 else advantages[rows][:, generated]).sum(dim=0).abs().max()
        )
    return float(torch.stack(sums).max())
