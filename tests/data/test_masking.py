from __future__ import annotations

import pytest
import torch

from f5_tts.data.masking import prompt_lengths, random_spans, span_mask


@pytest.mark.parametrize("mode, want", [("range", [10, 15, 1]), ("per_sample", [5, 11, 0]), ("min", [0, 0, 0])])
def test_a_prompt_is_that_fraction_of_its_clip_or_a_part_of_that_or_the_batchs_shortest(mode, want):
    lens, fractions, places = torch.tensor([40, 30, 7]), torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.5, 0.75, 0.9])
    assert prompt_lengths(lens, fractions, places, mode).tolist() == want


def test_the_shortest_prompt_of_a_batch_is_not_always_that_of_the_shortest_clip():
    lens, fractions, places = torch.tensor([80, 40]), torch.tensor([0.125, 0.5]), torch.tensor([0.5, 0.5])
    assert prompt_lengths(lens, fractions, places, "min").tolist() == [5, 5]


def test_prompts_are_as_long_as_the_published_ones(table):
    cases = table("g7_rl_sampling")["prompt_spans"]
    assert {case["mode"] for case in cases} == {"min", "per_sample", "range"} and len(cases) == 12
    for case in cases:
        drawn = torch.tensor(case["frac"]), torch.tensor(case["rand"])
        result = prompt_lengths(torch.tensor(case["seq_len"]), *drawn, case["mode"])
        assert result.tolist() == case["prompt_len"]
        length = max(case["seq_len"])
        assert span_mask(torch.zeros_like(result), result, length).sum(1).tolist() == case["prompt_mask_sums"]
        target = span_mask(result, torch.tensor(case["seq_len"]), length)
        assert target.sum(1).tolist() == case["target_mask_sums"]


def test_a_span_holds_its_first_frame_and_not_its_last():
    mask = span_mask(torch.tensor([0, 2, 3]), torch.tensor([2, 5, 3]), 5)
    assert mask.int().tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]


def test_a_random_span_slides_over_where_it_fits():
    lens, half = torch.tensor([8, 8, 8, 6]), torch.tensor([0.5, 0.5, 0.5, 0.5])
    spans = random_spans(lens, half, torch.tensor([0.0, 0.5, 1.0, 1.0]), 8)
    assert spans.int().tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 1],
        [0, 0, 0, 1, 1, 1, 0, 0],
    ]


def test_random_spans_stay_inside_their_items_and_are_as_long_as_asked_for():
    torch.manual_seed(0)
    lens, fractions = torch.randint(1, 60, (500,)), torch.rand(500)
    spans = random_spans(lens, fractions, torch.rand(500), 60)
    assert not (spans & (torch.arange(60) >= lens[:, None])).any()
    assert torch.equal(spans.sum(1), (fractions * lens).long())
    assert (spans.int().diff(dim=1).abs().sum(1) <= 2).all()  # one contiguous span


def test_a_whole_item_may_be_hidden():
    assert random_spans(torch.tensor([5]), torch.tensor([1.0]), torch.tensor([0.7]), 6).sum() == 5


@pytest.mark.parametrize("name", ["nll.keep", "nll.drop_both"])
def test_spans_are_as_wide_as_the_published_ones(name, tensors):
    golden = tensors("g4_nll")
    lens, expected = golden["in.lens"], golden[f"{name}.span_mask"]
    first = expected.int().argmax(1)
    places = (first + 0.5) / (lens - expected.sum(1))
    assert torch.equal(random_spans(lens, golden[f"{name}.frac_lengths"], places, expected.shape[1]), expected)
