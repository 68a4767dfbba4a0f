"""Gradients of all objectives for the simplest reward: one frame, one bin, and the reward R is the action.

The policy's mean m moves with its velocity by the slope ∂m/∂v; the guided velocity moves with μ_c by 1 + w and with μ_u
by -w. The gradient of E[A ln π(a)] with A = (a - E a) / sd is then (1 + w) slope cov(a, R) / (s² sd) = (1 + w) slope /
s. The estimate from NUM draws is the deviation of the actions, whose standard error is 1 / √(2 NUM) of itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, log, pi

import pytest
import torch
from torch import nn

from f5_tts.config.schema import RLConfig
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.heads import Velocity
from f5_tts.rl.advantage import group_advantages
from f5_tts.rl.nft import nft_loss
from f5_tts.rl.policy_gradient import Models, grpo_loss, policy_at
from f5_tts.types import ExperienceBatch, Rollout

pytestmark = pytest.mark.slow

NUM = 40_000
SAMPLING_ERROR = 4 / (2 * NUM) ** 0.5  # relative error of a deviation: four standard errors
GIVEN, BLANK, SIGMA = 0.4, -0.3, 0.7
STATE, TIME, NEXT_TIME = 0.5, 0.2, 0.5

# The settings of every policy, its slope ∂m/∂v and its s, by hand for the step from t = 0.2 to t' = 0.5. For exact and
# cps the slope is t' (1-t) - (1-t') ρ t = 0.4 - 0.1 ρ and s = (1-t') √(1-ρ²). exact, a = 1: ρ = (o_t / o_t')^½ = √¼.
# cps, η = ½: ρ = cos 45°. em, a = 1: slope Δ (1 + a²/2), s = √((1-t)/t) √Δ.
POLICIES = {
    "gaussian": (["algorithm=gaussian_grpo", "temperature=1"], 1.0, SIGMA),
    "gaussian, wider": (["algorithm=gaussian_grpo", "temperature=2"], 1.0, 2 * SIGMA),
    "gaussian, sigma trained": (["algorithm=gaussian_grpo", "temperature=1", "train_sigma=true"], 1.0, SIGMA),
    "exact": (["algorithm=flow_grpo", "sde.kernel=exact", "sde.a=1"], 0.35, 0.5 * 0.75**0.5),
    "em": (["algorithm=flow_grpo", "sde.kernel=em", "sde.a=1"], 0.45, 2 * 0.3**0.5),
    "cps": (["algorithm=flow_grpo", "sde.kernel=cps", "sde.eta=0.5"], 0.4 - 0.1 * 0.5**0.5, 0.5 * 0.5**0.5),
}
# A of a reward of deviation s, in units of a - E a.
METHODS: dict[str, Callable[[float], float]] = {
    "gdpo": lambda s: 1 / s,
    "grpo": lambda s: 1 / (s + 1e-4),
    "global_std": lambda s: 1 / s,
    "dr_grpo": lambda s: 1.0,
    "rloo": lambda s: NUM / (NUM - 1),
}


class ThreeNumbers(DiT):
    """Backbone of three parameters: its velocity with text, its velocity without text, and ln σ."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.given, self.blank, self.ln_sigma = (
            nn.Parameter(torch.tensor(value)) for value in (GIVEN, BLANK, log(SIGMA))
        )
        self.proj_out_ln_sig = None

    def forward(self, x, cond, text, time, mask, drop_audio, drop_text, text_embedding=None) -> Velocity:
        mean = torch.where(drop_text, self.blank, self.given)[:, None, None]
        return Velocity(mean.expand_as(x), self.ln_sigma.expand_as(x))


def gradients(model: CFM) -> list[float]:
    """Return the gradients of μ_c, μ_u and ln σ, 0 where there is none."""
    return [0.0 if p.grad is None else p.grad.item() for p in model.transformer.parameters()]


@pytest.fixture
def drawn(rollout_of) -> Callable[[CFM, RLConfig], Rollout]:
    """Draw the model's action at the state, and build the rollout with its distribution."""

    def draw(model: CFM, rl: RLConfig) -> Rollout:
        torch.manual_seed(0)
        states = torch.full((NUM, 1, 1), STATE)
        empty = rollout_of(states, states, states, 1.0, time=TIME, next_time=NEXT_TIME)
        with torch.no_grad():
            policy = policy_at(model, empty, 0, rl)
        return rollout_of(
            states, policy.sample(), policy.mean, policy.std.flatten()[0].item(), time=TIME, next_time=NEXT_TIME
        )

    return draw


def rewarded(rollout: Rollout, method: str = "gdpo") -> ExperienceBatch:
    """Compute the advantages of all samples as one group, with the action as reward."""
    group = torch.zeros(NUM, dtype=torch.long)
    reward = {"action": rollout.mel.flatten()}
    mode = "gdpo" if method == "gdpo" else "sum"
    advantages = group_advantages(
        reward, group, {"action": 1.0}, {"action": 0.01}, rollout.target_mask, mode=mode, method=method, clip=100.0
    )
    return ExperienceBatch(rollout=rollout, advantages=advantages, loss_weight=1.0, metrics={})


@pytest.mark.parametrize("ratio", ["mean", "guard"])
@pytest.mark.parametrize("grad_uncond", [True, False])
@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_climbs_by_its_true_gradient(rl, drawn, policy: str, guidance: float, grad_uncond, ratio: str):
    """Expect the true gradient, and s times that with ratio=guard."""
    settings, slope, std = POLICIES[policy]
    given = [f"cfg_strength={guidance}", f"cfg_grad_uncond={grad_uncond}", f"ratio={ratio}", "kl_weight=0"]
    config, model = rl(*settings, *given), CFM(ThreeNumbers())
    output = grpo_loss(Models(model), rewarded(drawn(model, config)), 0, config)
    output.loss.backward()
    pull = slope / std * (std if ratio == "guard" else 1)
    mean, blank, ln_sigma = gradients(model)
    assert output.metrics["ratio/max_dev"] < 1e-6
    assert mean == pytest.approx(-(1 + guidance) * pull, rel=SAMPLING_ERROR)
    assert blank == pytest.approx(guidance * pull if grad_uncond else 0.0, rel=SAMPLING_ERROR)
    assert abs(ln_sigma) <= (4 * (10 / NUM) ** 0.5 if config.train_sigma else 0)  # E[ε (ε² - 1)] = 0, deviation √10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("policy", ["gaussian", "exact"])
def test_every_way_to_compare_rewards_scales_the_same_gradient(rl, drawn, policy: str, method: str):
    """Expect E[A (a - m)] slope / s², where A = (a - E a) times the method's factor."""
    settings, slope, std = POLICIES[policy]
    config, model = rl(*settings, "kl_weight=0"), CFM(ThreeNumbers())
    grpo_loss(Models(model), rewarded(drawn(model, config), method), 0, config).loss.backward()
    assert gradients(model)[0] == pytest.approx(-slope * METHODS[method](std), rel=2 * SAMPLING_ERROR)


@pytest.mark.parametrize(("beta", "most"), [(1.0, 10.0), (0.1, 20.0)])
@pytest.mark.parametrize("grad_uncond", [True, False])
@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("sway, remains", [("null", 1 / 2), ("-1.0", 2 / pi)])
def test_nft_climbs_by_its_closed_form(rl, rollout_of, sway: str, remains, guidance, grad_uncond, beta, most):
    """Expect 2 A_max E[(1-t) (2r - 1) e / |e|] with 2r - 1 = A / A_max and e = v - (x1 - ε).

    Each sample has one entry, which is therefore its own weight. For x1 ~ N(c, s²) and Z = x1 - ε ~ N(c, s² + 1) it is
    -2 (s / σ_Z) φ((v - c) / σ_Z) · 2 E[1-t]. E[1-t] is one half, or 2/π for sway's times 1 - cos(πu/2). One draw is at
    most 2 (1-t) |A|, of deviation 2 √E[(1-t)²] < 1.42.
    """
    config = rl(
        *["algorithm=nft", "shared_noise=false", "nft.num_times=1", f"nft.beta={beta}", f"nft.adv_max={most}"],
        *[f"sway_sampling_coef={sway}", f"cfg_strength={guidance}", f"cfg_grad_uncond={grad_uncond}", "kl_weight=0"],
    )
    centre, std, model = 0.9, 0.7, CFM(ThreeNumbers())
    torch.manual_seed(0)
    speech = centre + std * torch.randn(NUM, 1, 1)
    rollout = rollout_of(speech, speech, speech, 1.0)
    batch = rewarded(rollout)
    # every sample gets its own time and noise
    apart = replace(rollout, batch=replace(rollout.batch, group_ids=torch.arange(NUM)))
    nft_loss(Models(model), replace(batch, rollout=apart), 0, config).loss.backward()
    spread = (std**2 + 1) ** 0.5
    away = (GIVEN + guidance * (GIVEN - BLANK) - centre) / spread
    pull = 4 * remains * std / spread * exp(-(away**2) / 2) / (2 * pi) ** 0.5
    mean, blank, ln_sigma = gradients(model)
    error = 4 * 1.42 / NUM**0.5
    assert mean == pytest.approx(-(1 + guidance) * pull, abs=(1 + guidance) * error)
    assert blank == pytest.approx(guidance * pull if grad_uncond else 0.0, abs=guidance * error)
    assert ln_sigma == 0
