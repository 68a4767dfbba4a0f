"""Trimming of reference recordings by the rules of F5-TTS: levels relative to full scale, on a grid of milliseconds."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LONG_PAUSES, SHORT_PAUSES = (1000, -50.0), (100, -40.0)  # shortest pause (ms), and its level (dB of full scale)
KEPT_MS = 1000  # of a pause, at each side
STEP_MS = 10  # from one window to the next
ENOUGH_MS, MAX_MS = 6000, 12000  # a recording that is longer than the first ends before it exceeds the second
EDGE_DB = -42.0  # level below which both ends are cut
ADDED_MS = 50  # silence at the end


def trim_as_upstream(wave: Float[Tensor, " nw"], sample_rate: int) -> Float[Tensor, " _"]:
    """Shorten pauses, cut a long recording at a pause or at 12 s, and replace silence at its end by 50 ms."""
    joined = join_segments(wave, sample_rate, *LONG_PAUSES)
    if num_ms(joined, sample_rate) > MAX_MS:
        joined = join_segments(wave, sample_rate, *SHORT_PAUSES)
    kept = cut_edges(part(joined, sample_rate, 0, MAX_MS), sample_rate)
    return torch.cat([kept, wave.new_zeros(ADDED_MS * sample_rate // 1000)])


def join_segments(wave: Tensor, sample_rate: int, pause_ms: int, threshold_db: float) -> Tensor:
    """Join what lies between pauses, with a second of each pause at both sides, as long as it is short enough."""
    joined, total = wave[:0], 0
    for begin, end in segments(wave, sample_rate, pause_ms, threshold_db):
        if total > ENOUGH_MS and total + end - begin > MAX_MS:
            break
        joined, total = torch.cat([joined, part(wave, sample_rate, begin, end)]), total + end - begin
    return joined


def segments(wave: Tensor, sample_rate: int, pause_ms: int, threshold_db: float) -> list[tuple[int, int]]:
    """List the spans between pauses in ms; two that would overlap meet in the middle."""
    length, spans = num_ms(wave, sample_rate), []
    for begin, end in spoken_spans(wave, sample_rate, pause_ms, threshold_db):
        begin, end = max(0, begin - KEPT_MS), min(length, end + KEPT_MS)
        if spans and begin < spans[-1][1]:
            begin = (spans[-1][1] + begin) // 2
            spans[-1] = (spans[-1][0], begin)
        spans.append((begin, end))
    return spans


def spoken_spans(wave: Tensor, sample_rate: int, pause_ms: int, threshold_db: float) -> list[tuple[int, int]]:
    """List the spans that no silent window of `pause_ms` covers, in ms."""
    length = num_ms(wave, sample_rate)
    last = length - pause_ms
    starts = sorted({*range(0, last + 1, STEP_MS), last}) if last >= 0 else []
    levels = level_db(wave, sample_rate, torch.tensor(starts, dtype=torch.long), pause_ms).tolist()
    spans, begin = [], 0
    for start, level in zip(starts, levels, strict=True):
        if level <= threshold_db:
            spans += [(begin, start)] if start > begin else []
            begin = start + pause_ms
    return [*spans, (begin, length)] if begin < length else spans


def cut_edges(wave: Tensor, sample_rate: int) -> Tensor:
    """Cut silence at both ends, by steps of 10 ms."""
    begin, end = 0, num_ms(wave, sample_rate)
    while begin < end and level_of(wave, sample_rate, begin) < EDGE_DB:
        begin += STEP_MS
    while end > begin and level_of(wave, sample_rate, max(0, end - STEP_MS)) < EDGE_DB:
        end -= STEP_MS
    return part(wave, sample_rate, begin, end)


def level_of(wave: Tensor, sample_rate: int, start_ms: int) -> float:
    """Compute the level of the window that starts there in dB of full scale; minus infinity for silence."""
    power = part(wave, sample_rate, start_ms, start_ms + STEP_MS).square().mean()
    return float(10 * power.log10())


def level_db(wave: Tensor, sample_rate: int, starts_ms: Tensor, window_ms: int) -> Tensor:
    """Compute the levels of windows of one length in dB of full scale; minus infinity for silence."""
    energy = torch.cat([wave.new_zeros(1).double(), wave.double().square().cumsum(0)])
    begin, end = starts_ms * sample_rate // 1000, (starts_ms + window_ms) * sample_rate // 1000
    return 10 * ((energy[end] - energy[begin]).clamp(min=0) / (end - begin)).log10()


def part(wave: Tensor, sample_rate: int, begin_ms: int, end_ms: int) -> Tensor:
    """Return the samples between two times in ms."""
    return wave[begin_ms * sample_rate // 1000 : end_ms * sample_rate // 1000]


def num_ms(wave: Tensor, sample_rate: int) -> int:
    """Return the duration in full ms."""
    return len(wave) * 1000 // sample_rate
