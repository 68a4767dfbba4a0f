from __future__ import annotations

import itertools
from itertools import groupby

import numpy as np
import pytest
import torch

from f5_tts.rewards.asr.ctc import ctc_nll, forced_alignment, greedy_labels, label_spans, min_frames

FRAMES, LABELS = 5, 3  # few enough that all 3^5 paths can be listed


@pytest.fixture
def log_probs() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(FRAMES, LABELS, generator=generator, dtype=torch.float64).log_softmax(dim=1)


def collapse(path: tuple[int, ...]) -> list[int]:
    """Merge repetitions, then drop blanks: the definition of CTC."""
    return [label for label, _ in groupby(path) if label != 0]


def path_scores(log_probs: torch.Tensor, target: list[int]) -> dict[tuple[int, ...], float]:
    """Return the log-probability of each path that spells the target."""
    paths = itertools.product(range(LABELS), repeat=len(log_probs))
    return {
        path: sum(log_probs[frame, label].item() for frame, label in enumerate(path))
        for path in paths
        if collapse(path) == target
    }


TARGETS = [[], [1], [1, 2], [2, 2], [1, 2, 1], [1, 1, 2]]


@pytest.mark.parametrize("target", TARGETS)
def test_the_likelihood_is_the_sum_over_all_paths_that_spell_the_target(log_probs, target):
    expected = torch.tensor(list(path_scores(log_probs, target).values()), dtype=torch.float64).logsumexp(dim=0)
    nll = ctc_nll(log_probs[None], torch.tensor([FRAMES]), [target])
    torch.testing.assert_close(nll, -expected[None])


def test_the_probabilities_of_all_texts_add_up_to_one(log_probs):
    texts = {tuple(collapse(path)) for path in itertools.product(range(LABELS), repeat=FRAMES)}
    batch = log_probs.expand(len(texts), -1, -1)
    nll = ctc_nll(batch, torch.full((len(texts),), FRAMES), [list(text) for text in texts])
    assert (-nll).exp().sum().item() == pytest.approx(1.0)


def test_frames_past_the_length_are_not_read(log_probs):
    short = ctc_nll(log_probs[None, :3], torch.tensor([3]), [[1, 2]])
    padded = log_probs.clone()
    padded[3:] = -7.0
    batch = torch.stack([padded, log_probs])
    torch.testing.assert_close(ctc_nll(batch, torch.tensor([3, FRAMES]), [[1, 2], [1]])[:1], short)


def test_a_target_with_too_few_frames_is_impossible_and_has_no_gradient(log_probs):
    batch = torch.stack([log_probs[:2]] * 2).requires_grad_()
    nll = ctc_nll(batch, torch.tensor([2, 2]), [[1, 1], [1, 2]])
    assert nll[0].item() == torch.inf and nll[1].isfinite()
    (gradient,) = torch.autograd.grad(torch.tanh(nll).sum(), batch)
    assert not gradient[0].any() and gradient[1].any() and gradient.isfinite().all()


def test_equal_neighbors_need_a_blank_between_them():
    assert [min_frames(target) for target in ([], [1], [1, 2], [1, 1], [1, 1, 1])] == [0, 1, 2, 3, 5]


def test_greedy_decoding_merges_repetitions_and_drops_blanks():
    best = torch.tensor([0, 1, 1, 0, 1, 2, 2, 0])
    assert greedy_labels(torch.nn.functional.one_hot(best, LABELS).float()) == [1, 1, 2]


@pytest.mark.parametrize("target", TARGETS)
def test_the_alignment_is_the_best_of_all_paths_that_spell_the_target(log_probs, target):
    scores = path_scores(log_probs, target)
    labels = [0, *itertools.chain.from_iterable((label, 0) for label in target)]
    states = forced_alignment(log_probs.numpy(), target)
    assert tuple(labels[state] for state in states) == max(scores, key=lambda path: scores[path])


def test_frames_between_two_labels_are_divided_in_the_middle():
    best = [0, 0, 1, 1, 0, 0, 0, 0, 2, 0]
    probs = torch.full((len(best), LABELS), 0.01)
    probs[torch.arange(len(best)), torch.tensor(best)] = 0.98
    assert label_spans(probs.log(), [1, 2]) == [(0, 6), (6, 10)]
    assert label_spans(probs.log(), [1]) == [(0, 10)]


def test_a_target_that_does_not_fit_cannot_be_aligned():
    with pytest.raises(ValueError, match="2 frames are too few for 2 labels"):
        forced_alignment(np.zeros((2, LABELS)), [1, 1])
