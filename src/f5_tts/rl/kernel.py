"""Stochastic policies of one solver step: the distribution of the action, and the state that an action leads to.

Time runs from 0 (noise) to 1 (speech). A step goes from t to t' = t + Δ. From a state x with velocity v, x̂1 = x +
(1-t) v is the predicted speech and x̂0 = x - t v the predicted noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.schema import RLConfig
from f5_tts.model.heads import Velocity
from f5_tts.rl.gaussian import Gaussian

LN_SIGMA_RANGE = (-4.0, 1.0)  # range of a trained ln σ, since its gradient can make σ vanish or explode


@runtime_checkable
class Kernel(Protocol):
    """Stochastic policy of a trained solver step."""

    def policy(self, velocity: Velocity, x: Tensor, time: Tensor, next_time: Tensor) -> Gaussian:
        """Compute the distribution of the action at (x, t)."""
        ...

    def step(self, action: Tensor, x: Tensor, time: Tensor, next_time: Tensor) -> Tensor:
        """Compute the state at t' after the action."""
        ...

    def is_stochastic(self, time: Tensor, next_time: Tensor) -> bool:
        """Check whether the step draws any noise."""
        ...


@dataclass(frozen=True)
class VelocityKernel:
    """Kernel of gaussian_grpo: the action is a velocity, a ~ N(m, (τσ)²) with the head's σ; x' = x + a Δ."""

    temperature: float  # τ
    train_sigma: bool

    def policy(self, velocity: Velocity, x: Tensor, time: Tensor, next_time: Tensor) -> Gaussian:
        """Compute N(m, (τσ)²); σ is detached unless it is trained.

        Raises ValueError for a model without a Gaussian head.
        """
        if velocity.ln_sigma is None:
            raise ValueError("rl.algorithm=gaussian_grpo needs a model with a Gaussian head; flow_grpo needs none")
        ln_sigma = velocity.ln_sigma.clamp(*LN_SIGMA_RANGE) if self.train_sigma else velocity.ln_sigma.detach()
        return Gaussian(velocity.mean, self.temperature * ln_sigma.float().exp())

    def step(self, action: Tensor, x: Tensor, time: Tensor, next_time: Tensor) -> Tensor:
        """Compute x' = x + a Δ."""
        return x + (next_time - time) * action

    def is_stochastic(self, time: Tensor, next_time: Tensor) -> bool:
        """Return True: the Gaussian head draws noise at every step."""
        return True


class SdeKernel:
    """Kernel of flow_grpo, and of losses of finished samples that differ by the noise of rl.window.

    The action is the next state, drawn by a stochastic step that renews a part of the noise.

    x' ~ N(t' x̂1 + (1-t') ρ x̂0, (1-t')² (1-ρ²)), where the subclass gives ρ, the share of the noise that is retained.
    ρ = 1 is Euler's step. At t' = 1 no noise is left for any ρ.
    """

    def noise_retention(self, time: Tensor, next_time: Tensor) -> Float[Tensor, ""]:
        """Compute ρ, the share of the noise that the step retains, in [0, 1]."""
        raise NotImplementedError

    def policy(self, velocity: Velocity, x: Tensor, time: Tensor, next_time: Tensor) -> Gaussian:
        """Compute the Gaussian of the next state."""
        retention = self.noise_retention(time, next_time)
        speech, noise = x + (1 - time) * velocity.mean, x - time * velocity.mean
        return Gaussian(next_time * speech + (1 - next_time) * retention * noise, self.std(time, next_time))

    def std(self, time: Tensor, next_time: Tensor) -> Float[Tensor, ""]:
        """Compute the standard deviation (1-t') √(1-ρ²)."""
        return (1 - next_time) * (1 - self.noise_retention(time, next_time).square()).sqrt()

    def step(self, action: Tensor, x: Tensor, time: Tensor, next_time: Tensor) -> Tensor:
        """Return the action, which is the next state itself."""
        return action

    def is_stochastic(self, time: Tensor, next_time: Tensor) -> bool:
        """Check whether the standard deviation of the step is above 0."""
        return self.std(time, next_time).item() > 0


@dataclass(frozen=True)
class ExactKernel(SdeKernel):
    """Step with ρ = (o_t / o_t')^(a²/2), where o = t / (1-t).

    It keeps the flow's marginals, exactly for a point mass on any grid.
    """

    a: float

    def noise_retention(self, time: Tensor, next_time: Tensor) -> Float[Tensor, ""]:
        """Compute ρ = (o_t / o_t')^(a²/2), the share of the noise that the step retains."""
        odds_ratio = time * (1 - next_time) / ((1 - time) * next_time)
        return odds_ratio ** (self.a**2 / 2)


@dataclass(frozen=True)
class CpsKernel(SdeKernel):
    """Coefficients-preserving sampling, ρ = cos(η π/2) at every step: simple, but samples lose variance."""

    eta: float

    def noise_retention(self, time: Tensor, next_time: Tensor) -> Float[Tensor, ""]:
        """Return ρ = cos(η π/2), the share of the noise that every step retains."""
        return torch.full_like(time, math.cos(self.eta * math.pi / 2))


@dataclass(frozen=True)
class EulerMaruyamaKernel(SdeKernel):
    """Flow-GRPO's SDE step (Liu et al. 2025, arXiv 2505.05470): one Euler-Maruyama step.

    dx = [v + σ²/(2(1-t)) (t v - x)] dt + σ dW with σ = a √((1-t)/t). At t = 0, σ is that of the next time of the grid.
    Its variance is right for small steps only.
    """

    a: float

    def sigma(self, time: Tensor, next_time: Tensor) -> Float[Tensor, ""]:
        """Compute σ = a √((1-t)/t), at the next time of the grid where t = 0."""
        at = torch.where(time > 0, time, next_time)
        return self.a * ((1 - at) / at).sqrt()

    def policy(self, velocity: Velocity, x: Tensor, time: Tensor, next_time: Tensor) -> Gaussian:
        """Compute the Gaussian of the next state."""
        drift = self.sigma(time, next_time).square() / (2 * (1 - time)) * (time * velocity.mean - x)
        mean = x + (next_time - time) * (velocity.mean + drift)
        return Gaussian(mean, self.std(time, next_time))

    def std(self, time: Tensor, next_time: Tensor) -> Float[Tensor, ""]:
        """Compute the standard deviation σ √Δ."""
        return self.sigma(time, next_time) * (next_time - time).sqrt()


def build_kernel(rl: RLConfig) -> Kernel:
    """Build the kernel of rl.algorithm; auto has that of gaussian_grpo, as in estimates made before a run."""
    sde = rl.sde
    if rl.algorithm in ("gaussian_grpo", "auto"):
        return VelocityKernel(rl.temperature, rl.train_sigma)
    kernels = {"exact": ExactKernel(sde.a), "em": EulerMaruyamaKernel(sde.a), "cps": CpsKernel(sde.eta)}
    return kernels[sde.kernel]


def sample_trained_steps(times: Float[Tensor, " s"], rl: RLConfig) -> list[int]:
    """Choose the solver intervals that are stochastic and trained.

    These are `rl.window.size` consecutive ones that start in rl.window.t_range, at a random place if rl.window.schedule
    is random. Raises ValueError as `trainable_steps` does.
    """
    candidates = trainable_steps(times, rl)
    is_random = rl.window.schedule == "random"
    first = int(torch.randint(max(0, len(candidates) - rl.window.size) + 1, ())) if is_random else 0
    return candidates[first : first + rl.window.size]


def trainable_steps(times: Float[Tensor, " s"], rl: RLConfig) -> list[int]:
    """List the solver intervals that may be trained.

    Raises ValueError with the time grid when no step starts in rl.window.t_range, or when one would be without noise.
    """
    low, high = rl.window.t_range
    candidates = [i for i, t in enumerate(times[:-1].tolist()) if low <= t <= high]
    if rl.window.schedule == "fixed":
        candidates = candidates[: rl.window.size]
    kernel, grid = build_kernel(rl), ", ".join(f"{t:.3f}" for t in times.tolist())
    noiseless = [i for i in candidates if not kernel.is_stochastic(times[i], times[i + 1])]
    if not candidates:
        raise ValueError(f"no solver step starts in rl.window.t_range=[{low}, {high}]; the grid is {grid}")
    if noiseless:
        raise ValueError(
            f"rl.algorithm={rl.algorithm} has no noise at step {noiseless[0]} of the grid {grid}: a step of the "
            "window needs rl.sde.a > 0 (cps: rl.sde.eta > 0) and must end before 1; lower rl.window.t_range"
        )
    return candidates
