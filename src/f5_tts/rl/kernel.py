"""The two policies: how a velocity becomes an action that is drawn, and where the action leads.

Time runs from 0 (noise) to 1 (speech). A step goes from t to t' = t + Δ; m is the guided mean velocity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config import RLConfig
from f5_tts.model.heads import Velocity
from f5_tts.rl.gaussian import Gaussian

LN_SIGMA_RANGE = (-4.0, 1.0)  # of a σ that RL trains: its own gradient shrinks or blows it up


@runtime_checkable
class Kernel(Protocol):
    """What an algorithm draws at a trained step."""

    def policy(self, velocity: Velocity, x: Tensor, time: Tensor, next_time: Tensor) -> Gaussian:
        """The distribution of the action at (x, t)."""
        ...

    def advance(self, action: Tensor, x: Tensor, time: Tensor, next_time: Tensor) -> Tensor:
        """The state at t' after that action."""
        ...


@dataclass(frozen=True)
class VelocityKernel:
    """gaussian_grpo: the action is a velocity, a ~ N(m, (τσ)²) with the σ of the Gaussian head; x' = x + a Δ."""

    temperature: float  # τ
    train_sigma: bool

    def policy(self, velocity: Velocity, x: Tensor, time: Tensor, next_time: Tensor) -> Gaussian:
        if velocity.ln_sigma is None:
            raise ValueError("rl.algorithm=gaussian_grpo needs a model with a Gaussian head; flow_grpo needs none")
        ln_sigma = velocity.ln_sigma.clamp(*LN_SIGMA_RANGE) if self.train_sigma else velocity.ln_sigma.detach()
        return Gaussian(velocity.mean, self.temperature * ln_sigma.float().exp())

    def advance(self, action: Tensor, x: Tensor, time: Tensor, next_time: Tensor) -> Tensor:
        return x + (next_time - time) * action


@dataclass(frozen=True)
class SdeKernel:
    """flow_grpo: the action is the next state, drawn by a stochastic step that keeps the flow's marginals.

    With x̂1 = x + (1-t) v (the speech it heads for) and x̂0 = x - t v (the noise it came from),
    x' ~ N(t' x̂1 + (1-t') ρ x̂0, (1-t')² (1-ρ²)), where ρ = (o_t / o_t')^(a²/2) and o = t / (1-t): part of the
    old noise is replaced by fresh noise. a = 0 is Euler's step; exact for a point mass on every grid.
    """

    a: float

    def policy(self, velocity: Velocity, x: Tensor, time: Tensor, next_time: Tensor) -> Gaussian:
        kept = self.kept_noise(time, next_time)
        speech, noise = x + (1 - time) * velocity.mean, x - time * velocity.mean
        return Gaussian(
            next_time * speech + (1 - next_time) * kept * noise, (1 - next_time) * (1 - kept.square()).sqrt()
        )

    def kept_noise(self, time: Tensor, next_time: Tensor) -> Float[Tensor, ""]:
        """ρ: at t' = 1 nothing is left of the noise either way, and the step is Euler's."""
        odds_ratio = time * (1 - next_time) / ((1 - time) * next_time)
        return odds_ratio ** (self.a**2 / 2)

    def advance(self, action: Tensor, x: Tensor, time: Tensor, next_time: Tensor) -> Tensor:
        return action


def build_kernel(rl: RLConfig) -> Kernel:
    """The policy of rl.algorithm."""
    if rl.algorithm == "flow_grpo":
        return SdeKernel(rl.sde.a)
    return VelocityKernel(rl.temperature, rl.train_sigma)


def trained_steps(times: Float[Tensor, " s"], rl: RLConfig) -> list[int]:
    """Which solver intervals are drawn and trained: `rl.window.size` neighbours that start inside its t_range.

    None for nft, which learns from finished samples alone. Raises ValueError with the grid when no step starts
    there, or when one would be without noise.
    """
    if rl.algorithm == "nft":
        return []
    low, high = rl.window.t_range
    inside = [i for i, t in enumerate(times[:-1].tolist()) if low <= t <= high]
    is_random = rl.window.schedule == "random"
    first = int(torch.randint(max(0, len(inside) - rl.window.size) + 1, ())) if is_random else 0
    chosen = inside[first : first + rl.window.size]
    last = (inside if is_random else chosen)[-1:]  # of all the steps that may ever be chosen
    grid = ", ".join(f"{t:.3f}" for t in times.tolist())
    if not chosen:
        raise ValueError(f"no solver step starts in rl.window.t_range=[{low}, {high}]; the grid is {grid}")
    if rl.algorithm == "flow_grpo" and (rl.sde.a == 0 or last == [len(times) - 2]):
        raise ValueError(
            f"flow_grpo has no noise at step {last[0]} of the grid {grid}: a trained step needs rl.sde.a > 0 and "
            "must end before 1; lower rl.window.t_range"
        )
    return chosen
