"""Losses of stage 1: means over the entries of masked frames."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from f5_tts.model.heads import Velocity


def velocity_mse(
    predicted: Float[Tensor, "b n d"], target: Float[Tensor, "b n d"], span: Bool[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """Compute the mean of (μ - u)² over the frames of `span`."""
    return span_mean((predicted - target).square(), span)


def gaussian_nll(
    predicted: Velocity,
    target: Float[Tensor, "b n d"],
    time: Float[Tensor, " b"],
    span: Bool[Tensor, "b n"],
    t2_weight: float,
) -> Float[Tensor, ""]:
    """Compute the mean of (μ - u)² / (2σ² + 1e-6) + (1 + w t²) ln σ over the frames of `span`.

    w = `t2_weight` = 0 is the negative log-likelihood up to a constant. The published recipe uses w = 1, whose optimal
    σ² is E[(μ - u)²] / (1 + t²): σ is too small by √2 at t = 1.
    """
    assert predicted.ln_sigma is not None, "the Gaussian NLL needs a model with a Gaussian head"
    variance = (2 * predicted.ln_sigma).exp()
    nll = (predicted.mean - target).square() / (2 * variance + 1e-6)
    nll = nll + (1 + t2_weight * time.square())[:, None, None] * predicted.ln_sigma
    return span_mean(nll, span)


def span_mean(values: Float[Tensor, "b n d"], span: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
    """Compute the mean over the frames of `span`, without an index, for which a GPU would have to answer first."""
    return values.masked_fill(~span[..., None], 0.0).sum() / (span.sum() * values.shape[-1])
