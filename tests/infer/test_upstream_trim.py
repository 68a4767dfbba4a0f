from __future__ import annotations

import pytest
import torch
from torch import Tensor

from f5_tts.infer.upstream_trim import segments, trim_as_upstream

RATE = 16_000


def tone(seconds: float) -> Tensor:
    return 0.3 * torch.sin(torch.arange(round(seconds * RATE)) / 5)


def pause(seconds: float) -> Tensor:
    return torch.zeros(round(seconds * RATE))


@pytest.mark.parametrize(
    ("parts", "seconds"),
    [
        ([tone(4.0)], 4.0),
        ([pause(0.5), tone(2.0), pause(0.7)], 2.0),  # both ends are cut
        ([tone(4.0), pause(2.5), tone(3.0)], 9.0),  # a second of the pause is kept at each side
        ([tone(4.0), pause(0.9), tone(3.0)], 7.9),  # shorter pauses stay
        ([tone(7.0), pause(1.5), tone(6.0)], 7.0),  # above 6 s, and the next segment would exceed 12 s
        ([tone(7.0), pause(0.3), tone(6.0)], 7.0),  # longer than 12 s: shorter pauses count too
        ([tone(3.0), pause(1.5), tone(11.0)], 12.0),  # the first segment has not 6 s yet, so the second is cut
        ([tone(14.0)], 12.0),
        # the quiet part is speech at -50 dB, which gives more than 12 s, and at -40 dB a pause: 4, 3 and 3 s
        ([tone(3.0), 0.0266 * tone(9.0), tone(1.0), pause(2.0), tone(2.0)], 10.0),
    ],
)
def test_what_is_left_of_a_recording_has_the_duration_of_the_rules_and_50_ms_of_silence(parts, seconds: float):
    trimmed = trim_as_upstream(torch.cat(parts), RATE)
    assert len(trimmed) / RATE == pytest.approx(seconds + 0.05, abs=0.012)
    assert trimmed[-RATE // 20 :].abs().max() == 0


def test_segments_that_would_overlap_meet_in_the_middle():
    spans = segments(torch.cat([tone(3.0), pause(1.6), tone(3.0)]), RATE, 1000, -50.0)
    assert len(spans) == 2 and spans[0][1] == spans[1][0] == pytest.approx(3800, abs=10)
    assert (spans[0][0], spans[1][1]) == (0, 7600)


def test_levels_are_relative_to_full_scale():
    quiet = 0.01 * tone(2.0)  # -53 dB of full scale
    assert len(trim_as_upstream(quiet, RATE)) == RATE // 20
