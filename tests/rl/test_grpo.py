from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import nan
from typing import Any

import pytest
import torch
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ProviderConfig, RLConfig, RLTrainConfig
from f5_tts.model.cfm import CFM
from f5_tts.model.heads import Velocity
from f5_tts.rl.advantage import GroupAdvantage
from f5_tts.rl.gather import SingleRank, concat_rewards, gather_rewards
from f5_tts.rl.grpo import PolicyLoss, collect_experience
from f5_tts.rl.metrics import group_metrics, reward_metrics
from f5_tts.rl.nft import EmaPolicy
from f5_tts.rl.policy_gradient import Models, grpo_loss
from f5_tts.rl.rollout import rollout_and_score
from f5_tts.rl.scoring import RewardScorer
from f5_tts.train.loop import read_rows
from f5_tts.types import ExperienceBatch, LossOutput, RewardBatch, RewardInput, RewardProvider, Rollout, SpeechBatch


class MeanFrame:
    """Vocoder of one audio sample per frame: the frame's mean."""

    def __call__(self, mel: Tensor, lens: Tensor) -> list[Tensor]:
        return [frames[:num].mean(dim=1) for frames, num in zip(mel, lens.tolist(), strict=True)]


class Loud:
    """Reward of loudness: the mean square of a clip."""

    component = "level"

    def score(self, inputs: Sequence[RewardInput]) -> Tensor:
        return torch.stack([item.audio.square().mean() for item in inputs])


class Indifferent:
    """Reward that scores all clips the same."""

    component = "level"

    def score(self, inputs: Sequence[RewardInput]) -> Tensor:
        return torch.full((len(inputs),), 0.3)


def scorer(provider: RewardProvider, rl: RLConfig) -> RewardScorer:
    rl.rewards.providers = [ProviderConfig(name="test", weight=1.0, floor=1e-3, config={})]
    mel_spec = compose_config("F5TTS_Mini_RL", [], RLTrainConfig).model.mel_spec
    return RewardScorer(MeanFrame(), {"test": provider}, rl, mel_spec)


def experience_of(
    policy: CFM, batch: SpeechBatch, rl: RLConfig, provider: RewardProvider | None = None
) -> list[ExperienceBatch]:
    torch.manual_seed(0)
    judge = scorer(provider or Loud(), rl)
    (experience,) = collect_experience(policy, [[batch]], judge, comparison(judge), rl)
    return experience


def comparison(judge: RewardScorer) -> GroupAdvantage:
    return GroupAdvantage(judge.weights, judge.floors, judge.rl)


def read_checked(slices: Iterator[LossOutput]) -> list[dict[str, float]]:
    """Read the metrics of slices and check them, as the loop does before the optimizer step."""
    outputs = list(slices)
    numbers = read_rows([output.metrics for output in outputs])
    for output, metrics in zip(outputs, numbers, strict=True):
        if output.check is not None:
            output.check(metrics)
    return numbers


def gradients(policy: CFM) -> dict[str, Tensor]:
    result = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    return result


@pytest.fixture
def small(rl) -> RLConfig:
    """Build settings of groups of four in two passes, with three trained steps."""
    return rl("repeat_count=2", "mini_repeat_count=2", "steps=6", "window.size=3", "kl_weight=0.0")


def test_advantages_compare_a_whole_group_also_when_it_takes_several_passes(policy, batch, small):
    experience = experience_of(policy, batch, small)
    assert [part.loss_weight for part in experience] == [0.5, 0.5]
    ids = torch.cat([part.rollout.batch.group_ids for part in experience])
    for group in (7, 2):
        advantages = torch.cat([part.advantages for part in experience])[ids == group]
        assert advantages.sum().item() == pytest.approx(0, abs=1e-5)
        assert advantages.square().mean().item() == pytest.approx(1, abs=1e-3)
        halves = advantages.view(2, 2).sum(dim=1)
        assert halves.abs().min() > 1e-3  # no pass has zero mean by itself


def test_the_slices_of_an_update_add_up_to_its_mean_loss(policy, batch, small):
    """Compare with the mean over passes, steps and samples; a slice is one step of one pass."""
    experience = experience_of(policy, batch, small)
    slices = list(PolicyLoss(small)(policy, experience))
    assert len(slices) == 2 * 3
    sum((part.loss for part in slices), torch.zeros(())).backward()
    in_slices = gradients(policy)
    whole = [grpo_loss(Models(policy), part, step, small).loss for part in experience for step in range(3)]
    torch.stack(whole).mean().backward()
    together = gradients(policy)
    assert in_slices.keys() == together.keys()
    for name, value in together.items():
        torch.testing.assert_close(in_slices[name], value, atol=1e-6, rtol=1e-4)
    assert max(value.abs().max() for value in together.values()) > 1e-3


@pytest.mark.parametrize("algorithm", ["gaussian_grpo", "flow_grpo"])
def test_parts_of_a_pass_add_up_to_its_gradient_and_its_seconds(policy, batch, rl, algorithm):
    """Split six samples into 3, 3 and into 2, 1, 2, 1. The σ of flow_grpo is one number per step."""
    small = rl(f"algorithm={algorithm}", "mini_repeat_count=3", "steps=6", "window.size=2", "kl_weight=0.0")
    (whole,) = experience_of(policy, batch, small)
    halves = whole.split()
    quarters = [quarter for half in halves for quarter in half.split()]
    assert [len(part.rollout.mel) for part in halves + quarters] == [3, 3, 2, 1, 2, 1]
    assert len(quarters[1].split()) == 1
    result, seconds = [], []
    for parts in ([whole], halves, quarters):
        slices = list(PolicyLoss(small)(policy, parts))
        sum((part.loss for part in slices), torch.zeros(())).backward()
        result.append(gradients(policy))
        seconds.append(sum(part.seconds for part in slices))
    assert seconds[0] == seconds[1] == seconds[2] > 0
    for name, gradient in result[0].items():
        torch.testing.assert_close(result[1][name], gradient, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(result[2][name], gradient, atol=1e-6, rtol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in result[0].values()) > 1e-2


def test_samples_with_the_gradients_of_their_drawing_stay_together(policy, batch, rl):
    f5r = rl("algorithm=f5r", "mini_repeat_count=3", "steps=3", "train_sigma=true")
    (whole,) = experience_of(policy, batch, f5r)
    assert whole.split() == [whole]


def test_equal_rewards_leave_the_policy_exactly_where_it_is(policy, batch, small):
    experience = experience_of(policy, batch, small, Indifferent())
    for output in PolicyLoss(small)(policy, experience):
        output.loss.backward()
    assert all(value.eq(0).all() for value in gradients(policy).values())
    assert experience[0].metrics["frac_reward_zero_std"] == 1.0


def test_the_first_update_has_no_kl_and_a_moved_policy_has(policy, batch, rl):
    config = rl("mini_repeat_count=2", "steps=4", "kl_weight=1.0")
    reference = copy.deepcopy(policy).requires_grad_(False)
    experience = experience_of(policy, batch, config)
    assert all(out.metrics["loss/kl"] == 0 for out in PolicyLoss(config, reference)(policy, experience))
    with torch.no_grad():
        policy.transformer.proj_out.bias.add_(0.1)
    moved = experience_of(policy, batch, config)
    assert all(out.metrics["loss/kl"] > 1e-4 for out in PolicyLoss(config, reference)(policy, moved))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_recomputed_activations_change_no_gradient_and_no_precision_moves_the_first_ratio_from_one(
    policy, batch, rl, dtype: torch.dtype | None
):
    settings, result = rl("mini_repeat_count=3", "cfg_strength=1.0", "window.size=1"), []
    speaks = policy.forward

    def in_half(*inputs, **options):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            velocity = speaks(*inputs, **options)
        assert velocity.ln_sigma is not None and velocity.text_embedding is not None
        return Velocity(velocity.mean.float(), velocity.ln_sigma.float(), velocity.text_embedding.float())

    policy.forward = in_half
    for recompute in (False, True):
        policy.transformer.checkpoint_activations = recompute
        experience = experience_of(policy, batch, settings)
        for output in PolicyLoss(settings)(policy, experience):
            assert output.metrics["ratio/initial_max_dev"] == 0
            output.loss.backward()
        result.append(gradients(policy))
    assert any(grad.any() for grad in result[0].values())
    torch.testing.assert_close(result[1], result[0], atol=0, rtol=0)


def test_a_policy_that_is_not_the_one_that_drew_is_refused(policy, batch, small):
    experience = experience_of(policy, batch, small)
    loss = PolicyLoss(small)
    policy.train()  # train mode turns dropout on
    with pytest.raises(FloatingPointError, match=r"ratio differs from 1 by .* \(allowed: 1e-05, .*is dropout on"):
        read_checked(loss(policy, experience))


def test_two_groups_of_two_are_reported_with_their_size_and_how_much_each_differs():
    """Expect deviations 1 and 3 within the groups, and √14 over all four rewards 0, 2, 4, 10."""
    rewards, group_ids = torch.tensor([0.0, 4.0, 2.0, 10.0]), torch.tensor([7, 3, 7, 3])
    seen = group_metrics(rewards, group_ids)
    assert seen == {"group/prompts": 2.0, "group/size": 2.0, "group/reward_std_mean": 2.0}
    output = RewardBatch(total=rewards, components={"my.own:part.x": torch.tensor([1.0, nan, 3.0, nan])}, weights={})
    of_all = reward_metrics(output, group_ids)
    assert (of_all["reward"], of_all["reward_std"]) == (4.0, pytest.approx(14**0.5))
    assert (of_all["rewards/my.own:part/mean"], of_all["rewards/my.own:part/std"]) == (2.0, 1.0)


def test_rewards_are_reported_as_mean_deviation_least_and_most(policy, batch, small):
    experience = experience_of(policy, batch, small)
    scores = torch.cat([Loud().score(scorer(Loud(), small).inputs(part.rollout)) for part in experience])
    seen = experience[0].metrics
    assert seen["reward/mean"] == pytest.approx(scores.mean().item())
    assert seen["reward/std"] == pytest.approx(scores.std(correction=0).item(), rel=1e-4)
    assert seen["reward/min"] == pytest.approx(scores.min().item())
    assert seen["reward/max"] == pytest.approx(scores.max().item())
    assert seen["reward/test.level"] == seen["reward/mean"]
    assert seen["frac_reward_zero_std"] == 0
    (output, *_) = PolicyLoss(small)(policy, experience)
    assert output.metrics.keys() >= seen.keys() | {"loss", "loss/kl", "loss/pro_adv"}


def test_experience_is_drawn_one_update_at_a_time_by_the_policy_of_that_moment(policy, batch, small):
    torch.manual_seed(0)
    judge = scorer(Loud(), small)
    updates = collect_experience(policy, [[batch], [batch]], judge, comparison(judge), small)
    next(updates)
    with torch.no_grad():
        policy.transformer.proj_out.bias.add_(1.0)
    for output in PolicyLoss(small)(policy, next(updates)):
        assert output.metrics["ratio/max_dev"] == 0


def test_a_rollout_serves_several_updates_and_only_the_first_must_find_the_ratio_at_one(policy, batch, small):
    config = replace(small, updates_per_rollout=2)
    judge = scorer(Loud(), config)
    updates = collect_experience(policy, [[batch]], judge, comparison(judge), config)
    first, second = next(updates), next(updates)
    assert next(updates, None) is None
    assert all(torch.equal(a.rollout.actions, b.rollout.actions) for a, b in zip(first, second, strict=True))
    fresh = read_checked(PolicyLoss(config)(policy, first))
    assert {metrics["ratio/initial_max_dev"] for metrics in fresh} == {0.0}
    with torch.no_grad():
        policy.transformer.proj_out.bias.add_(0.1)
    later = [output.metrics for output in PolicyLoss(config)(policy, second)]
    assert all("ratio/initial_max_dev" not in metrics and metrics["ratio/max_dev"] > 1e-5 for metrics in later)
    with pytest.raises(FloatingPointError, match="before any update"):
        read_checked(PolicyLoss(config)(policy, first))


def test_an_anchor_is_one_slice_more_a_pass_where_there_is_a_reference(policy, batch, small):
    config = replace(small, anchor_weight=0.5)
    experience = experience_of(policy, batch, config)
    assert len(list(PolicyLoss(config)(policy, experience))) == 2 * 3
    anchored = list(PolicyLoss(config, policy)(policy, experience))
    assert len(anchored) == 2 * (3 + 1)
    assert [output.metrics["loss/anchor"] for output in anchored[3::4]] == [0.0, 0.0]


def test_an_anchor_of_every_second_update_has_twice_the_gradient_there_and_none_elsewhere(policy, batch, small):
    """Compare two updates: with anchors in both of them, in the first, and without."""
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        policy.transformer.proj_out.bias.add_(0.1)
    experience = experience_of(policy, batch, small)
    losses: dict[str, list[Tensor]] = {}
    for name, weight, every in (("always", 0.5, 1), ("second", 0.5, 2), ("never", 0.0, 1)):
        config = replace(small, anchor_weight=weight, anchor_every=every)
        for update in range(2):
            torch.manual_seed(update)
            parts = [replace(part, update=update) for part in experience]
            sum((output.loss for output in PolicyLoss(config, reference)(policy, parts)), torch.zeros(())).backward()
            losses.setdefault(name, []).append(torch.cat([g.flatten() for g in gradients(policy).values()]))
    for update, factor in enumerate([2, 0]):
        always, second, never = (losses[name][update] for name in ("always", "second", "never"))
        assert (always - never).abs().max() > 1e-3
        torch.testing.assert_close(second - never, factor * (always - never), atol=1e-6, rtol=1e-3)


def test_the_kl_of_nft_is_in_every_update_with_its_own_weight(policy, batch, rl):
    config = rl("algorithm=nft", "shared_noise=false", "mini_repeat_count=2", "kl_weight=0.5", "anchor_every=4")
    reference, experience = copy.deepcopy(policy), experience_of(policy, batch, config)
    with torch.no_grad():
        policy.transformer.proj_out.bias.add_(0.1)
    losses = []
    for config.anchor_every in (1, 4):
        torch.manual_seed(0)
        parts = [replace(part, update=update) for update in range(2) for part in experience]
        losses.append([output.loss.item() for output in PolicyLoss(config, reference)(policy, parts)])
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_every_use_of_a_rollout_is_an_update_of_its_own(policy, batch, small):
    judge, twice = scorer(Loud(), small), replace(small, updates_per_rollout=2)
    stream = collect_experience(policy, [[batch]] * 2, judge, comparison(judge), twice, update=5)
    assert [{part.update for part in experience} for experience in stream] == [{5}, {6}, {7}]


def test_groups_of_all_batches_of_an_update_are_compared_together(policy, batch, small):
    """Take eight groups from four batches.

    The advantages are divided by the update's deviation, as those of one batch of eight.
    """
    others = [replace(batch, group_ids=batch.group_ids + 10 * i) for i in range(4)]
    judge = scorer(Loud(), small)
    torch.manual_seed(0)
    (experience,) = collect_experience(policy, [others], judge, comparison(judge), small)
    assert len(experience) == 4 * 2 and sum(part.loss_weight for part in experience) == pytest.approx(1)
    advantages = torch.cat([part.advantages for part in experience])
    assert advantages.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_an_old_policy_draws_in_the_place_of_the_one_that_learns(policy, batch, rl):
    """Check that the old policy equals the trained one at the first rollout.

    When the trained policy has changed since, the samples must not depend on it.
    """
    config = rl("algorithm=nft", "shared_noise=false", "mini_repeat_count=2", "steps=3")
    judge, old = scorer(Loud(), config), EmaPolicy(policy, max_decay=1.0)
    drawn = []
    for shift in (0.0, 0.5):
        with torch.no_grad():
            policy.transformer.proj_out.bias.add_(shift)
        old.rollouts = 1000 if shift else 0
        torch.manual_seed(0)
        (experience,) = collect_experience(policy, [[batch]], judge, comparison(judge), config, old_policy=old)
        drawn.append(experience[0].rollout.mel)
    assert torch.equal(drawn[0], drawn[1])


class Elsewhere(SingleRank):
    """Ranks of a run of two: the first drew these scores for prompt 7, the second is this one."""

    world_size = 2

    def __init__(self, num: int, scores: Tensor) -> None:
        self.num, self.scores = num, scores

    def gather(self, rows: Tensor) -> Tensor:
        kind = torch.full((len(self.scores), *rows.shape[1:]), 7).to(rows)
        return torch.cat([self.scores.to(rows) if rows.is_floating_point() else kind, rows])

    def local_rows(self, rows: Tensor) -> Tensor:
        return rows[-self.num :]


def test_samples_are_compared_with_those_of_other_processes_by_prompt(policy, batch, small):
    """Add two samples of reward 0 for prompt 7 on another rank.

    Local samples of prompt 7 are then above their group; those of prompt 2 are as before.
    """
    judge = scorer(Loud(), small)
    alone = experience_of(policy, batch, small)
    torch.manual_seed(0)
    ranks = Elsewhere(8, torch.zeros(2))
    (experience,) = collect_experience(policy, [[batch]], judge, comparison(judge), small, ranks=ranks)
    ids = torch.cat([part.rollout.batch.group_ids for part in experience])
    before, after = (torch.cat([part.advantages for part in parts]) for parts in (alone, experience))
    torch.testing.assert_close(after[ids == 2], before[ids == 2])
    assert after[ids == 7].sum() > 0.5 and abs(before[ids == 7].sum()) < 1e-5
    assert [part.loss_weight for part in experience] == [4 * 2 / 10] * 2


def test_an_update_moves_the_policy_towards_what_was_rewarded(policy, batch, small):
    """Take a small step along the gradient. Actions of high reward must become more likely, the others less."""
    experience = experience_of(policy, batch, small)
    for output in PolicyLoss(small)(policy, experience):
        output.loss.backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-3 * parameter.grad)
    wide = replace(small, clip_low=1.0, clip_high=1.0)
    slices = [grpo_loss(Models(policy), part, step, wide) for part in experience for step in range(3)]
    assert sum(part.metrics["loss/pro_adv"] for part in slices) > 0


@pytest.fixture
def rollouts(policy, batch, small) -> list[Rollout]:
    return [part.rollout for part in experience_of(policy, batch, small)]


def test_with_overlap_a_rollout_is_scored_while_the_next_is_drawn_and_all_keep_their_places(rollouts, small):
    judge, first_is_scored = scorer(Loud(), small), threading.Event()

    def score(rollout: Rollout) -> RewardBatch:
        first_is_scored.set()
        return judge(rollout)

    def drawing(is_beside: bool) -> Iterator[Rollout]:
        yield rollouts[0]
        assert first_is_scored.wait(timeout=60 if is_beside else 0) == is_beside
        yield rollouts[1]

    for is_beside in (True, False):
        first_is_scored.clear()
        drawn, scored, seconds = rollout_and_score(drawing(is_beside), score, is_beside)
        assert all(one is other for one, other in zip(drawn, rollouts, strict=True))
        assert [rewards.total.tolist() for rewards in scored] == [judge(each).total.tolist() for each in rollouts]
        assert seconds.keys() == {"time/rollout", "time/reward"}


def test_what_fails_beside_the_drawing_fails_the_update(rollouts):
    def score(rollout: Rollout) -> RewardBatch:
        raise RuntimeError("the reward model is gone")

    with pytest.raises(RuntimeError, match="the reward model is gone"):
        rollout_and_score(rollouts, score, True)


def test_overlap_changes_no_number(policy, batch, rl):
    settings = ("repeat_count=3", "mini_repeat_count=2", "steps=4", "kl_weight=0.0")
    beside, after = (experience_of(policy, batch, rl(*settings, f"rewards.overlap={on}")) for on in (True, False))
    for part, same in zip(beside, after, strict=True):
        assert torch.equal(part.advantages, same.advantages) and torch.equal(part.rollout.mel, same.rollout.mel)


class Partial:
    """Reward of loudness that does not apply to every second clip; it also reports the seconds of each clip."""

    component = "level"

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Tensor]:
        level = Loud().score(inputs)
        level[::2] = nan
        return {"level": level, "seconds": torch.tensor([len(item.audio) / item.sample_rate for item in inputs])}


class Outspoken(Loud):
    """Reward of loudness that also reports it as text."""

    def score(self, inputs: Sequence[RewardInput]) -> Any:
        level = super().score(inputs)
        return {"level": level, "said": [f"{value:.6g}" for value in level.tolist()]}


class Twice(SingleRank):
    """Ranks of a run of two with the same samples, as seen by the first."""

    world_size = 2

    def gather(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, rows])

    def local_rows(self, rows: Tensor) -> Tensor:
        return rows[: len(rows) // 2]


@pytest.mark.parametrize("peers", [None, Twice()], ids=["alone", "of two"])
def test_what_rewards_heard_stays_with_its_sample_and_is_no_metric(policy, batch, small, peers):
    judge = scorer(Outspoken(), small)
    (experience,) = collect_experience(policy, [[batch]], judge, comparison(judge), small, ranks=peers)
    assert len(experience) == 2
    for part in experience:
        assert part.rewards is not None
        levels = Loud().score(judge.inputs(part.rollout)).tolist()
        assert part.rewards.texts == {"test.said": [f"{level:.6g}" for level in levels]}
        assert not [name for name in part.metrics if "said" in name]


def test_texts_of_several_rollouts_are_joined_in_order_and_not_gathered():
    one, other = (
        RewardBatch(total=torch.zeros(len(texts)), components={}, weights={}, texts={"ear.heard": texts})
        for texts in (["a", "b"], ["c"])
    )
    together = concat_rewards([one, other])
    assert together.texts == {"ear.heard": ["a", "b", "c"]} and len(together.total) == 3
    assert gather_rewards(together, Twice()).texts == {} and len(gather_rewards(together, Twice()).total) == 6


def test_what_does_not_apply_is_counted_and_other_components_are_reported(policy, batch, small):
    experience = experience_of(policy, batch, small, Partial())
    seen = experience[0].metrics
    clips = [clip for part in experience for clip in scorer(Loud(), small).inputs(part.rollout)]
    levels = Loud().score(clips)[1::2]
    assert seen["reward/not_applicable"] == 0.5
    assert seen["reward/test.level"] == pytest.approx(levels.mean().item())
    assert seen["reward/test.seconds"] == pytest.approx(7 / clips[0].sample_rate)  # nine and five frames of a sample
    assert all(torch.isfinite(part.advantages).all() for part in experience)


class Ear:
    """Transcript reward with an error in every second clip; it cannot score the first."""

    component = "acc"

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Tensor]:
        wrong = torch.arange(len(inputs)) % 2.0
        first = (torch.arange(len(inputs)) == 0).float()
        return {"acc": 1 - wrong, "wer": wrong, "cer": wrong, "del": wrong / 4, "unusable": first}


def test_errors_and_failures_are_told_under_the_names_that_everybody_knows(policy, batch, small):
    """Use two passes of four samples, half of them wrong, one per pass not scored; three steps are trained.

    A provider that counts characters has no word error rate.
    """
    seen = experience_of(policy, batch, small, Ear())[0].metrics
    assert (seen["asr/cer"], seen["asr/del"]) == (0.5, 0.125)
    assert not {"asr/wer", "asr/ins", "spk/sim"} & seen.keys()
    assert seen["health/reward_failures"] == 2.0 and seen["steps/trained"] == 3.0


@pytest.mark.parametrize("kernel, level", [("em", 0.7), ("cps", 0.25)])
def test_the_noise_of_a_step_is_told_per_root_of_its_length(policy, batch, rl, kernel, level):
    """Take the step from 0.5 to 0.75.

    em draws with a √((1-t) / t) √(t' - t), cps with (1 - t') sin(π/2 · 1/3) = 1/8, to be divided by √(1/4).
    """
    grid = ("steps=4", "sway_sampling_coef=0.0", "window.size=1", "window.t_range=[0.5,0.5]")
    noise = (f"sde.kernel={kernel}", "sde.a=0.7", f"sde.eta={1 / 3}")
    config = rl("algorithm=flow_grpo", "mini_repeat_count=2", "kl_weight=0.0", *grid, *noise)
    seen = experience_of(policy, batch, config)[0].metrics
    assert seen["sde/noise_level"] == pytest.approx(level, rel=1e-5)


def test_the_distance_to_the_policy_that_drew_has_one_name_in_every_algorithm(policy, batch, small):
    experience = experience_of(policy, batch, small)
    with torch.no_grad():
        policy.transformer.proj_out.bias.add_(0.1)
    seen = [
        output.metrics
        for output in PolicyLoss(small)(policy, [replace(part, is_on_policy=False) for part in experience])
    ]
    assert all(metrics["kl/old"] == metrics["approx_kl"] > 0 for metrics in seen)
