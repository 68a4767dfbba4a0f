from __future__ import annotations

import math

import pytest
import torch

from f5_tts.model.flow import interpolate, solve, sway, time_grid

GRIDS = {  # name in the golden file -> (sway_coef, epss)
    "linspace": (None, False),
    "linspace_sway-1": (-1.0, False),
    "linspace_sway-0.5": (-0.5, False),
    "linspace_sway0.4": (0.4, False),
    "epss": (None, True),
    "epss_sway-1": (-1.0, True),
}


@pytest.mark.parametrize("name", GRIDS)
def test_time_grids_are_the_published_ones_within_2e_7(name, table):
    sway_coef, epss = GRIDS[name]
    grids = table("g3_timesteps")[name]
    assert len(grids) == 17
    for steps, expected in grids.items():
        torch.testing.assert_close(time_grid(int(steps), sway_coef, epss), torch.tensor(expected), atol=2e-7, rtol=0)


@pytest.mark.parametrize("steps", [1, 7, 16, 30])
@pytest.mark.parametrize("sway_coef, epss", GRIDS.values())
def test_a_grid_rises_from_exactly_0_to_exactly_1_in_the_wanted_steps(steps, sway_coef, epss):
    times = time_grid(steps, sway_coef, epss)
    assert len(times) == steps + 1
    assert times[0] == 0 and times[-1] == 1
    assert (times.diff() > 0).all()


def test_a_full_negative_sway_is_one_minus_a_cosine():
    times = torch.linspace(0, 1, 9)
    torch.testing.assert_close(sway(times, -1.0), 1 - torch.cos(math.pi / 2 * times))


def test_the_path_is_the_straight_line_from_noise_to_speech_at_each_items_own_time():
    noise, speech = torch.full((3, 2, 1), 4.0), torch.full((3, 2, 1), 8.0)
    path = interpolate(noise, speech, torch.tensor([0.0, 0.25, 1.0]))
    assert path[:, :, 0].tolist() == [[4, 4], [5, 5], [8, 8]]


def test_euler_multiplies_growth_by_each_interval():
    times = torch.tensor([0.0, 0.5, 0.75, 1.0])
    end = solve(lambda x, t: 2 * x, torch.ones(1, 1, 1), times)
    assert end.item() == (1 + 2 * 0.5) * (1 + 2 * 0.25) * (1 + 2 * 0.25)


def test_midpoint_goes_the_whole_interval_with_the_velocity_at_its_middle():
    """Solve two equations by hand.

    x' = x gives 1 + h + h²/2 per interval. x' = 2 t is exact, because its slope at the midpoint is the mean slope.
    """
    times = torch.tensor([0.0, 0.5, 1.0])
    growth = solve(lambda x, t: x, torch.ones(1, 1, 1), times, "midpoint")
    assert growth.item() == (1 + 0.5 + 0.125) ** 2
    assert solve(lambda x, t: 2 * t * torch.ones_like(x), torch.zeros(1, 1, 1), times, "midpoint").item() == 1


def test_the_velocity_is_asked_at_the_start_of_each_interval():
    asked = []

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(t.item())
        return torch.zeros_like(x)

    solve(velocity, torch.ones(1, 1, 1), torch.tensor([0.0, 0.5, 0.75, 1.0]))
    assert asked == [0.0, 0.5, 0.75]


def test_the_states_of_a_sampling_are_the_published_ones_within_1e_4(golden_model, tensors, table):
    golden, name = tensors("g3_sample"), "dit_v1.s1.steps4.cfg2"
    expected, mel, settings = golden[f"{name}.trajectory"], golden["in.s1.cond"], table("g3_sample")["cases"][name]
    cond = torch.nn.functional.pad(mel, (0, 0, 0, expected.shape[2] - mel.shape[1]))
    times, model = time_grid(settings["steps"], settings["sway_sampling_coef"], epss=True), golden_model("dit_v1")
    state = golden[f"{name}.y0"]
    with torch.no_grad():
        for start, after in zip(range(4), expected[1:], strict=True):
            state = solve(
                lambda x, t: model(x, cond, golden["in.s1.text"], t, cfg_strength=settings["cfg_strength"]).mean,
                state,
                times[start : start + 2],
            )
            torch.testing.assert_close(state, after, atol=1e-4, rtol=0)
