from __future__ import annotations

from math import nan

import pytest
import torch
from torch import Tensor

from f5_tts.rl.advantage import METHODS, MIN_GROUPS, MODES, RunningBaseline, group_advantages, zero_std_groups

ONE_REWARD = {"weights": {"r": 1.0}, "floors": {"r": 0.02}, "clip": 5.0, "mode": "gdpo", "method": "gdpo"}


def everywhere(num: int, length: int = 1) -> Tensor:
    return torch.ones(num, length, dtype=torch.bool)


def advantages(rewards: list[float], group_ids: list[int], **changes) -> Tensor:
    return group_advantages(
        {"r": torch.tensor(rewards)},
        torch.tensor(group_ids),
        **{**ONE_REWARD, "target": everywhere(len(rewards)), **changes},
    )


def test_a_reward_is_centred_and_scaled_by_its_biased_deviation():
    """Expect mean 3 and standard deviation √((4 + 0 + 4) / 3)."""
    deviation = (8 / 3) ** 0.5
    expected = torch.tensor([-2 / deviation, 0.0, 2 / deviation])
    torch.testing.assert_close(advantages([1.0, 3.0, 5.0], [4, 4, 4]), expected)


def test_each_group_is_scaled_by_its_own_spread_whatever_the_order():
    expected = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    torch.testing.assert_close(advantages([1.0, 100.0, 3.0, 300.0], [7, 2, 7, 2]), expected)


def test_a_permutation_of_the_samples_permutes_their_advantages():
    generator = torch.Generator().manual_seed(0)
    rewards, order = torch.rand(12, generator=generator), torch.randperm(12, generator=generator)
    ids = torch.arange(12) % 3
    straight = advantages(rewards.tolist(), ids.tolist())
    shuffled = advantages(rewards[order].tolist(), ids[order].tolist())
    torch.testing.assert_close(shuffled, straight[order])


def test_rewards_are_scaled_each_by_itself_and_added_by_weight():
    """Expect mean 0.5 and deviation 0.5 of acc, mean 0.6 and deviation 0.1 of sim."""
    parts = {"acc": torch.tensor([1.0, 0.0, 1.0, 0.0]), "sim": torch.tensor([0.5, 0.5, 0.7, 0.7])}
    weights, floors = {"acc": 1.0, "sim": 0.5}, {"acc": 0.02, "sim": 0.005}
    result = group_advantages(
        parts, torch.zeros(4, dtype=torch.long), weights, floors, everywhere(4), mode="gdpo", method="gdpo", clip=5.0
    )
    torch.testing.assert_close(result, torch.tensor([0.5, -1.5, 1.5, -0.5]))


@pytest.mark.parametrize("num_groups", [1, 3, MIN_GROUPS, 20])
def test_advantages_of_a_group_sum_to_zero(num_groups: int):
    generator = torch.Generator().manual_seed(0)
    rewards, ids = torch.rand(4 * num_groups, generator=generator), torch.arange(4 * num_groups) % num_groups
    sums = torch.zeros(num_groups).index_add(0, ids, advantages(rewards.tolist(), ids.tolist()))
    torch.testing.assert_close(sums, torch.zeros(num_groups), atol=1e-5, rtol=0)


def test_a_spread_below_the_floor_is_divided_by_the_floor():
    """Use a deviation of 0.001 and a floor of 0.1."""
    result = advantages([0.5, 0.502], [1, 1], floors={"r": 0.1})
    torch.testing.assert_close(result, torch.tensor([-0.01, 0.01]), atol=1e-6, rtol=0)


def test_from_eight_groups_on_the_spread_of_the_update_is_one():
    """Use groups of rewards 0 and 2, whose advantages are plus and minus the weight, 3.

    From 8 groups on they are divided by their standard deviation.
    """
    weight = {"r": 3.0}
    few = advantages([0.0, 2.0] * 7, [i // 2 for i in range(14)], weights=weight)
    many = advantages([0.0, 2.0] * 8, [i // 2 for i in range(16)], weights=weight)
    torch.testing.assert_close(few, torch.tensor([-3.0, 3.0] * 7))
    torch.testing.assert_close(many, torch.tensor([-1.0, 1.0] * 8))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.1, 1e6 / 3, -7.7])
@pytest.mark.parametrize("num_groups", [1, MIN_GROUPS])
def test_a_group_of_equal_rewards_gets_exactly_zero(method: str, value: float, num_groups: int):
    """Use three rewards of 1e6 / 3, whose floating-point mean may differ from them by much more than the floor.

    No scaling may keep that difference.
    """
    rewards, ids = [value] * 3, [0] * 3
    for group in range(1, num_groups):
        rewards, ids = [*rewards, 0.0, 1.0, 2.0], [*ids, group, group, group]
    result = advantages(rewards, ids, method=method)
    assert result[:3].eq(0).all()
    assert result[3:].abs().le(5).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 0.22, 1.0])
@pytest.mark.parametrize("floor", [0.0, 0.02])
def test_a_reward_without_spread_adds_nothing_where_another_has_some(floor: float, value: float):
    """Use three rewards of 0.22, whose mean is another number in single precision.

    The rounding error must not count as a spread.
    """
    parts = {"acc": torch.full((3,), value), "sim": torch.tensor([1.0, 3.0, 5.0])}
    floors = {"acc": floor, "sim": 0.005}
    result = group_advantages(
        parts,
        torch.zeros(3, dtype=torch.long),
        {"acc": 1.0, "sim": 1.0},
        floors,
        everywhere(3),
        mode="gdpo",
        method="gdpo",
        clip=5.0,
    )
    torch.testing.assert_close(result, advantages([1.0, 3.0, 5.0], [0, 0, 0]), atol=1e-5, rtol=0)


def test_advantages_are_clipped_on_both_sides():
    result = advantages([0.0, 2.0, 0.0, 2.0], [0, 0, 1, 1], weights={"r": 3.0}, clip=2.0)
    torch.testing.assert_close(result, torch.tensor([-2.0, 2.0, -2.0, 2.0]))


def test_a_group_has_no_spread_only_if_every_reward_is_equal_there():
    parts = {"acc": torch.tensor([1.0, 1.0, 0.0, 0.0]), "sim": torch.tensor([0.5, 0.5, 0.6, 0.7])}
    assert zero_std_groups(parts, torch.tensor([9, 9, 4, 4])).tolist() == [True, True, False, False]


def test_a_reward_by_frame_is_compared_with_the_same_frame_of_the_others():
    """Use two groups of two samples with three frames.

    Frame 0 differs by 1, frame 1 not at all, frame 2 by 4 (deviation 2).
    """
    words = torch.tensor([[1.0, 0.5, 4.0], [0.0, 0.5, 0.0], [7.0, 0.0, 1.0], [7.0, 0.0, 3.0]])
    result = group_advantages({"r": words}, torch.tensor([5, 5, 1, 1]), **ONE_REWARD, target=everywhere(4, 3))
    expected = torch.tensor([[1.0, 0.0, 1.0], [-1.0, 0.0, -1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(result, expected)


def test_a_reward_of_the_whole_sample_counts_in_all_its_frames():
    parts = {"acc": torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "sim": torch.tensor([0.2, 0.4])}
    weights, floors = {"acc": 1.0, "sim": 0.5}, {"acc": 0.02, "sim": 0.005}
    result = group_advantages(
        parts, torch.zeros(2, dtype=torch.long), weights, floors, everywhere(2, 2), mode="gdpo", method="gdpo", clip=5.0
    )
    torch.testing.assert_close(result, torch.tensor([[0.5, -0.5], [-0.5, 0.5]]))


def test_padding_and_prompts_change_no_advantage_and_have_none():
    """Use eight groups of two, so that the update's deviation is a divisor.

    Frame 1 generates nothing, and its numbers must not count.
    """
    generator = torch.Generator().manual_seed(0)
    words, ids = torch.rand(16, 1, generator=generator), torch.arange(16) // 2
    alone = group_advantages({"r": words}, ids, **ONE_REWARD, target=everywhere(16))
    padded = torch.cat([words, 100 * torch.rand(16, 1, generator=generator)], dim=1)
    target = torch.tensor([True, False]).expand(16, 2)
    result = group_advantages({"r": padded}, ids, **ONE_REWARD, target=target)
    torch.testing.assert_close(result, torch.cat([alone, torch.zeros(16, 1)], dim=1))


# --- other methods; two rewards of weights 1 and 2, group 0 totals 1, 2, 6 and group 1 totals 0, 4 ---

TWO_REWARDS = {"r": torch.tensor([1.0, 0.0, 2.0, 0.0, 2.0]), "q": torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0])}
GROUPS = torch.tensor([3, 3, 3, 8, 8])
DEVIATIONS = (14 / 3) ** 0.5, 2.0  # deviations of 1, 2, 6 and of 0, 4
# deviation of all five; mean 2.6
SPREAD = (((1 - 2.6) ** 2 + (2 - 2.6) ** 2 + (6 - 2.6) ** 2 + 2.6**2 + 1.4**2) / 5) ** 0.5


@pytest.mark.parametrize(
    "method, expected",
    [
        ("dr_grpo", [-2.0, -1.0, 3.0, -2.0, 2.0]),
        ("rloo", [-3.0, -1.5, 4.5, -4.0, 4.0]),  # against the mean of the others: 1 - 4, 2 - 3.5, 6 - 1.5
        ("global_std", [part / SPREAD for part in (-2.0, -1.0, 3.0, -2.0, 2.0)]),
        ("grpo", [*(part / (DEVIATIONS[0] + 1e-4) for part in (-2.0, -1.0, 3.0)), -2 / 2.0001, 2 / 2.0001]),
    ],
)
def test_methods_that_add_rewards_first_compare_their_weighted_sum(method: str, expected: list[float]):
    weights, floors = {"r": 1.0, "q": 2.0}, {"r": 9.0, "q": 9.0}
    result = group_advantages(TWO_REWARDS, GROUPS, weights, floors, everywhere(5), mode="sum", method=method, clip=5.0)
    torch.testing.assert_close(result, torch.tensor(expected))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_whole_groups_in_any_order_and_company_get_the_same_advantages_below_eight_groups(method: str, mode: str):
    """Compare groups by prompt id, interleaved or not.

    The methods global_std and normalized_sum are left out, since they use the other groups of the update too.
    """
    order = torch.tensor([4, 0, 3, 2, 1])
    weights, floors = {"r": 1.0, "q": 2.0}, {"r": 0.0, "q": 0.0}
    settings = {"mode": mode, "method": method, "clip": 5.0}
    whole = group_advantages(TWO_REWARDS, GROUPS, weights, floors, everywhere(5), **settings)
    shuffled = {name: score[order] for name, score in TWO_REWARDS.items()}
    result = group_advantages(shuffled, GROUPS[order], weights, floors, everywhere(5), **settings)
    torch.testing.assert_close(result, whole[order])
    if method != "global_std" and mode != "normalized_sum":
        alone = {name: score[:3] for name, score in TWO_REWARDS.items()}
        result = group_advantages(alone, GROUPS[:3], weights, floors, everywhere(3), **settings)
        torch.testing.assert_close(result, whole[:3])


# --- other modes ---


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("sum", [1.0, 2.0, 6.0, 0.0, 4.0]),
        ("normalized_sum", [1 / 0.8944272, 2 / 0.7483315, 2 / 0.8944272 + 4 / 0.7483315, 0.0, 4.9088]),
        ("rank_shaping", [0.5, 0.0 + 2 * 0.5, 1.0 + 2 * 1.0, 0.0, 1.0 + 2 * 1.0]),
        ("gdpo", [2 * -1.2247449, -1.2247449, 3 * 1.2247449, -3.0, 3.0]),
    ],
)
def test_modes_make_rewards_comparable_before_they_are_added(mode: str, expected: list[float]):
    """Compare r and q of weights 1 and 2 by dr_grpo, which only subtracts the mean.

    Over all five samples the deviation of r is √0.8 (mean 1), that of q √0.56 (mean 0.8). In group 0 both are 0, 1, 2
    in some order, with deviation √(2 / 3).
    """
    settings = {"mode": mode, "method": "dr_grpo", "clip": 9.0}
    result = group_advantages(
        TWO_REWARDS, GROUPS, {"r": 1.0, "q": 2.0}, {"r": 0.0, "q": 0.0}, everywhere(5), **settings
    )
    total = torch.tensor(expected)
    centred = torch.cat([total[:3] - total[:3].mean(), total[3:] - total[3:].mean()])
    torch.testing.assert_close(result, centred, atol=1e-4, rtol=0)


def test_equal_rewards_share_their_rank():
    """Use four rewards, two of them equal in the middle: ranks 0, 1.5, 1.5, 3 of 3, mean 1/2."""
    result = advantages([5.0, 7.0, 7.0, 100.0], [0] * 4, mode="rank_shaping", method="dr_grpo")
    torch.testing.assert_close(result, torch.tensor([-0.5, 0.0, 0.0, 0.5]))


def test_a_floor_keeps_the_noise_of_a_whole_update_small():
    result = advantages(
        [0.0, 0.01], [0, 0], mode="normalized_sum", method="dr_grpo", floors={"r": 0.5}
    )  # deviation 0.005
    torch.testing.assert_close(result, torch.tensor([-0.01, 0.01]))


# --- rewards that do not apply ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", MODES)
def test_a_reward_that_does_not_apply_moves_its_sample_nowhere(mode: str, method: str):
    result = advantages([1.0, nan, 3.0, nan, nan], [0, 0, 0, 1, 1], mode=mode, method=method)
    assert result[0] < 0 < result[2] and result[0] == pytest.approx(-result[2].item())
    torch.testing.assert_close(result[[1, 3, 4]], torch.zeros(3), atol=1e-6, rtol=0)


def test_where_one_reward_does_not_apply_the_other_decides():
    parts = {"acc": torch.tensor([0.0, 1.0, 0.0, 1.0]), "sim": torch.full((4,), nan)}
    settings = {"mode": "gdpo", "method": "gdpo", "clip": 5.0}
    floors = dict.fromkeys(parts, 0.0)
    result = group_advantages(parts, torch.zeros(4).long(), {"acc": 1.0, "sim": 9.0}, floors, everywhere(4), **settings)
    torch.testing.assert_close(result, torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    assert not zero_std_groups(parts, torch.zeros(4).long()).any()


# --- groups of one ---


def baseline(**changes) -> RunningBaseline:
    return RunningBaseline(**{"weights": {"r": 1.0}, "floors": {"r": 0.02}, "clip": 5.0, **changes})


def compared(line: RunningBaseline, *rewards: float) -> list[float]:
    return line({"r": torch.tensor(rewards)}, torch.arange(len(rewards)), everywhere(len(rewards))).tolist()


def test_a_sample_alone_is_compared_with_those_before_it():
    """Compare 1 and 3 with themselves first: mean 2, deviation 1.

    Then 4 is compared with that, and 0 with mean 8/3 and variance 14/9.
    """
    line = baseline()
    assert compared(line, 1.0, 3.0) == pytest.approx([-1.0, 1.0])
    assert compared(line, 4.0) == pytest.approx([2.0])
    assert compared(line, 0.0) == pytest.approx([-(8 / 3) / (14 / 9) ** 0.5])


def test_the_first_sample_of_all_and_equal_rewards_teach_nothing():
    line = baseline()
    assert compared(line, 0.7) == [0.0]
    assert compared(line, 0.7) == [0.0]


def test_old_samples_fade_from_the_baseline():
    line = baseline()
    for _ in range(100):
        compared(line, 0.0, 1.0)
    for _ in range(400):
        compared(line, 10.0, 11.0)
    assert compared(line, 11.0) == pytest.approx([1.0], abs=0.02)


def test_a_baseline_goes_on_from_its_state_and_knows_floors_weights_and_clip():
    line = baseline(weights={"r": 2.0}, floors={"r": 4.0}, clip=0.5)
    assert compared(line, 1.0, 3.0) == pytest.approx([-0.5, 0.5])
    assert line.state_dict() == {}  # an error before the update is made leaves nothing of its scores
    line.commit()
    other = baseline(weights={"r": 2.0}, floors={"r": 4.0}, clip=5.0)
    other.load_state_dict(line.state_dict())
    assert compared(other, 3.0) == pytest.approx([2.0 * 1.0 / 4.0])
    assert other.state_dict() == line.state_dict()


def test_a_reward_by_frame_counts_as_its_mean_over_generated_frames():
    line = baseline()
    target = torch.tensor([[True, True, False], [True, False, False]])
    result = line({"r": torch.tensor([[0.0, 2.0, 9.0], [3.0, 9.0, 9.0]])}, torch.arange(2), target)
    assert result.tolist() == pytest.approx([-1.0, 1.0])


def test_a_baseline_passes_over_what_does_not_apply():
    line = baseline()
    assert compared(line, 1.0, nan, 3.0) == pytest.approx([-1.0, 0.0, 1.0])
    assert compared(line, nan) == [0.0]
    assert compared(line, 4.0) == pytest.approx([2.0])
