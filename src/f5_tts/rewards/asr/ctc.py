"""Connectionist temporal classification (CTC): likelihoods, greedy decoding and forced alignment.

Graves et al. 2006. Label 0 is the blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

BLANK = 0


def ctc_nll(
    log_probs: Float[Tensor, "b n k"], lens: Int[Tensor, " b"], targets: Sequence[Sequence[int]]
) -> Float[Tensor, " b"]:
    """Compute -log p(target) of each item in nats, summed over all alignments.

    It is infinite, without a gradient, where an item has fewer frames than its target needs. Frames past an item's
    length are not read.
    """
    labels = torch.tensor([label for target in targets for label in target], device=log_probs.device).long()
    sizes = torch.tensor([len(target) for target in targets])
    nll = F.ctc_loss(log_probs.transpose(0, 1), labels, lens, sizes, blank=BLANK, reduction="none", zero_infinity=True)
    needed = torch.tensor([min_frames(target) for target in targets])
    return nll.masked_fill((lens.cpu() < needed).to(nll.device), torch.inf)


def min_frames(target: Sequence[int]) -> int:
    """Return the frames that a target needs: one per label, and a blank between equal neighbors."""
    return len(target) + sum(left == right for left, right in pairwise(target))


def greedy_labels(log_probs: Float[Tensor, "n k"]) -> list[int]:
    """Return the labels of the best path: repetitions merged, blanks dropped."""
    return [label for label, _ in groupby(log_probs.argmax(dim=1).tolist()) if label != BLANK]


def label_spans(log_probs: Float[Tensor, "n k"], target: Sequence[int]) -> list[tuple[int, int]]:
    """Divide the frames among the labels of a target that fits: first frame of each label, and first one after it.

    A label has the frames in which the best alignment emits it. Blank frames between two labels are divided in the
    middle, and those at both ends go to the outer labels.
    """
    states = forced_alignment(log_probs.detach().cpu().double().numpy(), target)
    emitted = [np.flatnonzero(states == 2 * index + 1) for index in range(len(target))]
    inner = [int(left[-1] + right[0] + 1) // 2 for left, right in pairwise(emitted)]
    return list(pairwise([0, *inner, len(states)]))


def forced_alignment(log_probs: Float[np.ndarray, "n k"], target: Sequence[int]) -> Int[np.ndarray, " n"]:
    """Return the lattice state of each frame on the most probable alignment (Viterbi).

    State 2i + 1 emits label i of the target; even states are the blanks around the labels. Raises ValueError if there
    are fewer frames than the target needs.
    """
    if len(log_probs) < min_frames(target):
        raise ValueError(f"{len(log_probs)} frames are too few for {len(target)} labels")
    labels = np.full(2 * len(target) + 1, BLANK)
    labels[1::2] = target
    emission = log_probs[:, labels]
    scores, steps = best_moves(emission, can_skip(labels))
    states = np.empty(len(emission), dtype=np.int64)
    states[-1] = len(labels) - 1 - int(len(labels) > 1 and scores[-2] > scores[-1])
    for frame in range(len(emission) - 1, 0, -1):
        states[frame - 1] = states[frame] - steps[frame, states[frame]]
    return states


def can_skip(labels: Int[np.ndarray, " s"]) -> Bool[np.ndarray, " s"]:
    """Check for each lattice state whether it may follow the state two before: another label, no blank."""
    skip = np.zeros(len(labels), dtype=bool)
    skip[2:] = (labels[2:] != BLANK) & (labels[2:] != labels[:-2])
    return skip


def best_moves(
    emission: Float[np.ndarray, "n s"], skip: Bool[np.ndarray, " s"]
) -> tuple[Float[np.ndarray, " s"], Int[np.ndarray, "n s"]]:
    """Compute the log-probability of the best path to each state of the last frame, and the move into each state.

    A move is the number of states advanced: 0, 1 or 2.
    """
    num_states = emission.shape[1]
    scores = np.where(np.arange(num_states) < 2, emission[0], -np.inf)
    steps = np.zeros(emission.shape, dtype=np.int64)
    for frame in range(1, len(emission)):
        padded = np.concatenate([[-np.inf, -np.inf], scores])
        previous = np.stack([scores, padded[1:-1], np.where(skip, padded[:-2], -np.inf)])
        steps[frame] = previous.argmax(axis=0)
        scores = previous.max(axis=0) + emission[frame]
    return scores, steps
