from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from f5_tts.config.schema import ConfigError, RLConfig
from f5_tts.model.cfm import CFM
from f5_tts.model.flow import solve, time_grid
from f5_tts.model.heads import Velocity
from f5_tts.rl.draft import draw_last_steps
from f5_tts.rl.kernel import build_kernel, sample_trained_steps
from f5_tts.rl.policy_gradient import Models, grpo_loss
from f5_tts.rl.rollout import cut_prompts, draw_finished, draw_group, draw_rollout, rollout_grid
from f5_tts.types import ExperienceBatch, Rollout, SpeechBatch, padding_mask

EARLY = ("window.t_range=[0.0,0.5]", "window.schedule=fixed")  # the window begins at the first step
LATER = ("window.t_range=[0.05,0.1]",)  # at 0 any level renews all of the noise
BOTH = pytest.mark.parametrize("algorithm", ["gaussian_grpo", "flow_grpo"])


def group_of(policy: CFM, batch: SpeechBatch, rl: RLConfig, seed: int = 0) -> list[Rollout]:
    torch.manual_seed(seed)
    return list(draw_group(policy, batch, rl))


def euler(policy: CFM, rollout: Rollout, noise: Tensor, rl: RLConfig) -> Tensor:
    """Solve from `noise` along the mean velocity by Euler's method."""
    mask = padding_mask(rollout.batch.lens, noise.shape[1])

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        return policy(x, rollout.cond, rollout.batch.text, time, mask, cfg_strength=rl.cfg_strength).mean

    with torch.no_grad():
        return solve(velocity, noise, time_grid(rl.steps, rl.sway_sampling_coef))


# --- samples of one group ---


def test_a_group_is_drawn_in_as_many_passes_as_it_takes(rl, policy, batch):
    rollouts = group_of(policy, batch, rl("group_size=6", "mini_repeat_count=2", "steps=3"))
    assert len(rollouts) == 3
    assert all(rollout.batch.group_ids.tolist() == [7, 7, 2, 2] for rollout in rollouts)
    assert all(rollout.batch.target_texts == ["three four", "three four", "six", "six"] for rollout in rollouts)


def test_a_group_starts_from_one_noise_and_prompts_from_their_own(rl, policy, batch):
    first, second = group_of(policy, batch, rl("repeat_count=2", "mini_repeat_count=2", "steps=3", *EARLY))
    start = torch.cat([first.states[0], second.states[0]])
    assert start[[1, 4, 5]].eq(start[0]).all() and start[[3, 6, 7]].eq(start[2]).all()
    assert not start[0].eq(start[2]).any()


def test_without_shared_noise_every_sample_starts_elsewhere(rl, policy, batch):
    config = rl("repeat_count=2", "mini_repeat_count=2", "steps=3", "shared_noise=false", *EARLY)
    first, second = group_of(policy, batch, config)
    start = torch.cat([first.states[0], second.states[0]]).flatten(1)
    assert len(start.unique(dim=0)) == 8


@pytest.mark.parametrize(("level", "equal"), [(1e-3, True), (1.0, False)])
def test_finished_samples_with_shared_noise_differ_by_the_noise_of_the_window_alone(rl, policy, batch, level, equal):
    group = ("shared_noise=true", "window.noise_block=[2,1]", "mini_repeat_count=3")
    config = rl("algorithm=nft", *group, "steps=4", f"sde.a={level}", *LATER)
    (rollout,) = draw_finished(policy, batch, config)
    for sample in (1, 2):
        assert torch.allclose(rollout.mel[sample], rollout.mel[0], atol=0.02) == equal


def test_finished_samples_with_shared_noise_are_those_of_flow_grpo_without_its_record(rl, policy, batch):
    changes = ("shared_noise=true", "mini_repeat_count=2", "steps=4", "window.noise_block=[2,3]", *EARLY)
    torch.manual_seed(0)
    (finished,) = draw_finished(policy, batch, rl("algorithm=nft", *changes))
    torch.manual_seed(0)
    (recorded,) = draw_group(policy, batch, rl("algorithm=flow_grpo", *changes))
    assert torch.equal(finished.mel, recorded.mel)
    steps = (finished.times, finished.next_times, finished.states, finished.actions, finished.means, finished.stds)
    assert [part.untyped_storage().nbytes() for part in steps] == [0] * 6


@pytest.mark.parametrize("temperature, equal", [(1e-6, True), (1.0, False)])
def test_samples_of_a_group_differ_by_their_actions_alone(rl, policy, batch, temperature: float, equal: bool):
    config = rl("algorithm=gaussian_grpo", "mini_repeat_count=3", "steps=4", f"temperature={temperature}")
    (rollout,) = group_of(policy, batch, config)
    for sample in (1, 2):
        assert torch.allclose(rollout.mel[sample], rollout.mel[0], atol=1e-3) == equal
    assert not torch.allclose(rollout.mel[3], rollout.mel[0], atol=1e-3)


@pytest.mark.parametrize("mode", ["min", "per_sample"])
def test_a_group_shares_the_cut_of_its_prompt(rl, policy, batch, mode: str):
    config = rl(
        "prompt_frac_range=[0.1,0.6]", f"prompt_length_mode={mode}", "repeat_count=2", "mini_repeat_count=2", "steps=2"
    )
    for seed in range(4):
        cuts = torch.cat([rollout.batch.prompt_lens for rollout in group_of(policy, batch, config, seed)])
        assert cuts[[1, 4, 5]].eq(cuts[0]).all() and cuts[[3, 6, 7]].eq(cuts[2]).all()
        assert mode != "min" or cuts.eq(cuts[0]).all()


def test_drawn_prompts_are_within_their_range_and_an_items_own_prompt_is_kept(rl, batch):
    torch.manual_seed(0)
    kept = cut_prompts(batch, rl("prompt_frac_range=null"))
    assert kept.prompt_lens.tolist() == [3, 4]
    config = rl("prompt_frac_range=[0.5,0.8]", "prompt_length_mode=range")
    for _ in range(9):
        first, second = cut_prompts(batch, config).prompt_lens.tolist()
        assert 6 <= first <= 9 and 4 <= second <= 7


# --- recorded tensors ---


def test_the_prompt_is_copied_and_the_target_is_what_follows_it(rl, policy, batch):
    (rollout,) = group_of(policy, batch, rl("mini_repeat_count=2", "steps=3"))
    for sample, (prompt, length) in enumerate([(3, 12), (3, 12), (4, 9), (4, 9)]):
        frames = torch.arange(12)
        assert torch.equal(rollout.target_mask[sample], (frames >= prompt) & (frames < length))
        assert torch.equal(rollout.mel[sample, :prompt], batch.mel[sample // 2, :prompt])
        assert torch.equal(rollout.cond[sample, :prompt], batch.mel[sample // 2, :prompt])
        assert rollout.cond[sample, prompt:].eq(0).all()


@BOTH
def test_recorded_actions_lead_from_one_state_to_the_next(rl, policy, batch, algorithm: str):
    config = rl(f"algorithm={algorithm}", "window.size=3", "steps=8", "mini_repeat_count=2", *EARLY)
    (rollout,) = group_of(policy, batch, config)
    grid = time_grid(8, -1.0)
    assert torch.equal(rollout.times, grid[:3]) and torch.equal(rollout.next_times, grid[1:4])
    kernel = build_kernel(config)
    for i, j in pairwise(range(3)):
        reached = kernel.step(rollout.actions[i], rollout.states[i], rollout.times[i], rollout.next_times[i])
        assert torch.equal(reached, rollout.states[j])


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_without_noise_a_rollout_is_eulers_method(rl, policy, batch, guidance: float):
    config = rl("temperature=1e-6", "mini_repeat_count=2", "steps=6", f"cfg_strength={guidance}", *EARLY)
    (rollout,) = group_of(policy, batch, config)
    expected = euler(policy, rollout, rollout.states[0], config)
    torch.testing.assert_close(rollout.mel[rollout.target_mask], expected[rollout.target_mask], atol=1e-4, rtol=1e-4)


class Counting(CFM):
    """Policy that records the number of samples of each forward pass."""

    def __init__(self, policy: CFM) -> None:
        super().__init__(policy.transformer)
        self.sizes: list[int] = []

    def forward(self, x, *conditions, **options) -> Velocity:
        self.sizes.append(len(x))
        return super().forward(x, *conditions, **options)


def test_steps_that_a_group_has_in_common_are_solved_once_a_prompt_and_by_the_mean(rl, policy, batch):
    """Use two prompts and two passes of two samples each.

    The third of four steps is the only one with noise, and that noise is negligible.
    """
    window = ("window.t_range=[0.2,0.5]", "window.size=1", "window.schedule=fixed")
    config = rl("steps=4", "temperature=1e-6", "repeat_count=2", "mini_repeat_count=2", *window)
    counting = Counting(policy)
    first, second = group_of(counting, batch, config)
    assert counting.sizes == [2, 2] + [4, 4] * 2
    torch.manual_seed(0)
    noise = torch.randn_like(batch.mel).repeat_interleave(2, dim=0)
    for rollout in (first, second):
        expected = euler(policy, rollout, noise, config)
        torch.testing.assert_close(
            rollout.mel[rollout.target_mask], expected[rollout.target_mask], atol=1e-4, rtol=1e-4
        )


def test_outside_the_window_a_rollout_follows_the_mean(rl, policy, batch):
    """Use noise in the last step only: its state must be that of Euler's method."""
    config = rl("steps=4", "window.t_range=[0.6,1.0]", "window.size=1", "mini_repeat_count=2", "temperature=5.0")
    torch.manual_seed(0)
    noise, grid = torch.randn(2, 12, 6), time_grid(4, -1.0)
    rollout = draw_rollout(policy, batch, noise, grid, [3], config)
    mask = padding_mask(batch.lens, 12)
    with torch.no_grad():
        expected = solve(lambda x, t: policy(x, rollout.cond, batch.text, t, mask).mean, noise, grid[:-1])
    torch.testing.assert_close(rollout.states[0], expected)


@BOTH
def test_nothing_of_a_rollout_carries_a_gradient(rl, policy, batch, algorithm: str):
    (rollout,) = group_of(policy, batch, rl(f"algorithm={algorithm}", "mini_repeat_count=2", "steps=4"))
    for part in (rollout.states, rollout.actions, rollout.means, rollout.stds, rollout.mel, rollout.cond):
        assert not part.requires_grad


def test_what_is_recorded_does_not_grow_with_the_steps_of_the_solver(rl, policy, batch):
    sizes = []
    for steps in (4, 32):
        (rollout,) = group_of(policy, batch, rl(f"steps={steps}", "window.size=2", "mini_repeat_count=2", *EARLY))
        tensors = [getattr(rollout, name) for name in Rollout.__dataclass_fields__]
        sizes.append([part.numel() for part in tensors if isinstance(part, Tensor)])
    assert sizes[0] == sizes[1]


def test_a_seed_draws_the_same_group_again(rl, policy, batch):
    config = rl("mini_repeat_count=2", "steps=3", "window.schedule=random", "prompt_frac_range=[0.1,0.6]")
    (first,), (again,) = (group_of(policy, batch, config, seed=3) for _ in range(2))
    assert torch.equal(first.mel, again.mel) and torch.equal(first.actions, again.actions)


def test_a_prompt_that_leaves_nothing_to_speak_is_refused(rl, policy, batch):
    batch.prompt_lens.copy_(torch.tensor([12, 4]))
    with pytest.raises(ValueError, match=r"samples \[0, 1\] have no frames to generate"):
        group_of(policy, batch, rl("mini_repeat_count=2", "steps=3"))


@pytest.mark.parametrize("mode", ["min", "per_sample", "range"])
@pytest.mark.slow
def test_a_prompt_has_a_frame_at_least_unless_none_is_asked_for(rl, batch, mode: str):
    torch.manual_seed(0)
    for _ in range(9):
        short = cut_prompts(batch, rl("prompt_frac_range=[0.0,0.1]", f"prompt_length_mode={mode}"))
        assert short.prompt_lens.min() >= 1
    nothing = cut_prompts(batch, rl("prompt_frac_range=[0.0,0.0]", f"prompt_length_mode={mode}"))
    assert nothing.prompt_lens.tolist() == [0, 0]


def test_a_text_longer_than_its_mel_is_spoken_all_the_same(rl, policy, batch):
    long = replace(batch, text=torch.randint(9, (2, 40)))
    (rollout,) = group_of(policy, long, rl("mini_repeat_count=2", "steps=3"))
    assert rollout.mel.isfinite().all() and rollout.mel[rollout.target_mask].ne(0).all()


def test_generated_frames_are_the_solvers_own_to_the_last(rl, policy, batch):
    """Check that nothing is written over generated frames. Padding begins where they end, and none of them is zero."""
    (rollout,) = group_of(policy, batch, rl("mini_repeat_count=2", "steps=3"))
    assert rollout.target_mask.sum(dim=1).tolist() == [9, 9, 5, 5]
    assert rollout.mel[rollout.target_mask].ne(0).all()


def test_the_pruned_grid_is_one_of_the_grids(rl):
    assert torch.equal(rollout_grid(rl("steps=5", "epss=true")), time_grid(5, -1.0, epss=True))
    assert not torch.equal(rollout_grid(rl("steps=5", "epss=true")), rollout_grid(rl("steps=5")))


# --- duration as an action ---


def test_with_jitter_members_of_a_group_differ_in_length_but_not_in_prompt(rl, policy, batch):
    """Use a jitter of a quarter: clips of 12 and 9 frames become 9 to 15 and 7 to 11 frames long.

    The batch is padded to 15.
    """
    config = rl("duration_jitter=0.25", "mini_repeat_count=20", "steps=3")
    (rollout,) = group_of(policy, batch, config)
    assert rollout.mel.shape[1] == 15
    first, second = rollout.batch.lens[:20], rollout.batch.lens[20:]
    assert set(first.tolist()) <= set(range(9, 16)) and len(set(first.tolist())) > 3
    assert set(second.tolist()) <= set(range(7, 12)) and len(set(second.tolist())) > 2
    assert rollout.batch.prompt_lens.tolist() == [3] * 20 + [4] * 20
    assert torch.equal(rollout.target_mask.sum(1), rollout.batch.lens - rollout.batch.prompt_lens)
    assert rollout.mel[rollout.target_mask].ne(0).all()


def test_with_jitter_every_sample_keeps_a_frame_to_speak(rl, policy, batch):
    tight = replace(batch, prompt_lens=torch.tensor([11, 8]))
    (rollout,) = group_of(policy, tight, rl("duration_jitter=0.5", "mini_repeat_count=20", "steps=3"))
    assert rollout.target_mask.sum(1).min() == 1


def test_with_jitter_the_ratio_is_one_still(rl, policy, batch):
    config = rl("duration_jitter=0.25", "mini_repeat_count=3", "steps=4")
    (rollout,) = group_of(policy, batch, config)
    experience = ExperienceBatch(rollout=rollout, advantages=torch.ones(6), loss_weight=1.0, metrics={})
    assert grpo_loss(Models(policy), experience, 0, config).metrics["ratio/max_dev"] == 0


# --- the recorded density is that of the objective ---


@BOTH
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_the_objective_finds_exactly_the_density_that_was_recorded(rl, policy, batch, algorithm: str, guidance: float):
    """Use the same weights, batch and padding: the ratio must be exactly 1."""
    config = rl(f"algorithm={algorithm}", f"cfg_strength={guidance}", "mini_repeat_count=3", "window.size=3", *EARLY)
    (rollout,) = group_of(policy, batch, config)
    experience = ExperienceBatch(rollout=rollout, advantages=torch.ones(6), loss_weight=1.0, metrics={})
    for step in range(3):
        assert grpo_loss(Models(policy), experience, step, config).metrics["ratio/max_dev"] == 0.0


def test_every_trained_step_of_every_pass_is_recorded(rl, policy, batch):
    config = rl("group_size=4", "mini_repeat_count=2", "window.size=2", "window.schedule=random")
    torch.manual_seed(5)
    rollouts = list(draw_group(policy, batch, config))
    grid = time_grid(config.steps, config.sway_sampling_coef)
    torch.manual_seed(5)
    trained = sample_trained_steps(grid, config)
    for rollout in rollouts:
        assert torch.equal(rollout.times, grid[trained])
        assert rollout.states.shape == rollout.actions.shape == (2, 4, 12, 6)
        assert rollout.means.shape == rollout.stds.shape == (2, 4, 12, 6)


# --- precision ---


def precisions_of(policy: CFM, draw: Callable[[], object]) -> list[torch.dtype]:
    """Draw, and return the type of the output layer's result at each evaluation of the policy."""
    seen: list[torch.dtype] = []
    hook = policy.transformer.proj_out.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    draw()
    hook.remove()
    return seen


def test_finished_samples_are_drawn_in_bfloat16_and_come_in_single_precision_near_the_others(rl, policy, batch):
    config = rl("algorithm=nft", "shared_noise=false", "mini_repeat_count=2", "steps=4")
    samples = []
    for precision in (None, "bf16"):
        torch.manual_seed(0)
        changed = replace(config, rollout_precision=precision)
        seen = precisions_of(policy, lambda rl=changed: samples.extend(draw_finished(policy, batch, rl)))
        assert set(seen) == {torch.bfloat16 if precision else torch.float32}
    exact, rounded = (rollout.mel for rollout in samples)
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).norm() < 0.02 * exact.norm()


def test_steps_of_draft_that_a_gradient_goes_through_are_drawn_as_they_are_learned(rl, policy, batch):
    config = rl("algorithm=draft", "steps=4", "draft.last_steps=2", "mini_repeat_count=1", "rollout_precision=bf16")
    seen = precisions_of(policy, lambda: list(draw_last_steps(policy, batch, config)))
    assert seen == [torch.bfloat16] * 2 + [torch.float32] * 2


def test_densities_are_not_compared_between_precisions(rl):
    with pytest.raises(ConfigError, match=r"rl.rollout_precision=bf16 does not go with rl.algorithm=flow_grpo, which"):
        rl("algorithm=flow_grpo", "rollout_precision=bf16")
