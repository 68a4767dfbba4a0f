"""The objective of F5R-TTS on recorded numbers of its published code (goldens g4_grpo), and its errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, log, sqrt
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ConfigError, RLConfig, RLTrainConfig
from f5_tts.infer.sample import sample
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.model.flow import time_grid
from f5_tts.model.heads import Velocity, VelocityModel
from f5_tts.rl.advantage import GroupAdvantage
from f5_tts.rl.f5r import (
    density,
    divergence,
    draw_with_gradients,
    f5r_loss,
    rollout_times,
    rollout_with_gradients,
    sample_gradient_steps,
)
from f5_tts.rl.gaussian import Gaussian
from f5_tts.rl.grpo import PolicyLoss
from f5_tts.rl.policy_gradient import Models
from f5_tts.train.build_rl import resolve_algorithm
from f5_tts.types import ExperienceBatch, Rollout, SpeechBatch

CASES = pytest.mark.parametrize("case", ["cfg2", "cfg0", "skip", "persample"])
F5R = ("algorithm=f5r", "train_sigma=true", "window.size=1")


def batch_of(rollout: Rollout, advantages: Tensor) -> ExperienceBatch:
    return ExperienceBatch(rollout=rollout, advantages=advantages, loss_weight=1.0, metrics={})


# --- the formula ---


@pytest.fixture
def formula(tensors) -> Callable[[str], Tensor]:
    return lambda name: tensors("g4_grpo")[f"formula.{name}"]


def test_advantages_are_the_published_ones(formula, rl):
    compare = GroupAdvantage({"sum": 1.0}, {"sum": 0.0}, rl("advantage=grpo", "rewards.mode=sum"))
    result = compare({"sum": formula("rewards")}, torch.zeros(4, dtype=torch.long), formula("target_mask"))
    torch.testing.assert_close(result, formula("advantages"), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tag, eps", [("eps0", 0.0), ("eps1e-6", 1e-6)])
def test_density_and_divergence_are_the_published_ones(tag, eps, formula):
    policy = Gaussian(formula("mu"), formula("ln_sig").exp())
    reference = Gaussian(formula("ref_mu"), formula("ref_ln_sig").exp())
    torch.testing.assert_close(density(formula("x"), policy, eps), formula(f"{tag}.density"), atol=0, rtol=1e-6)
    result = divergence(policy, reference, eps)
    torch.testing.assert_close(result, formula(f"{tag}.kl_per_step"), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("tag, eps", [("eps0", 0.0), ("eps1e-6", 1e-6)])
def test_loss_and_its_gradients_are_the_published_ones(tag, eps, formula, rl, rollout_of):
    """Replace the reference by a network that returns the recorded velocities, step by step."""
    mu, ln_sigma = formula("mu").clone().requires_grad_(), formula("ln_sig").clone().requires_grad_()
    steps = zip(formula("ref_mu"), formula("ref_ln_sig"), strict=True)
    reference = lambda *_, **__: Velocity(*next(steps))  # noqa: E731
    config = rl(*F5R, "steps=4", "kl_weight=1.0", f"density_eps={eps}", f"kl_eps={eps}")
    empty = rollout_of(mu[0].detach(), mu[0].detach(), mu[0].detach(), 1.0)
    rollout = replace(
        empty,
        target_mask=formula("target_mask"),
        times=rollout_times(config)[:-1],
        next_times=rollout_times(config)[1:],
        states=formula("x"),  # not used
        actions=formula("x"),
        means=mu,
        stds=ln_sigma.exp(),
    )
    output = f5r_loss(Models(reference, reference), batch_of(rollout, formula("advantages")), 0, config)
    output.loss.backward()
    result = [output.metrics["loss"], output.metrics["loss/kl"], output.metrics["loss/pro_adv"]]
    expected = [formula(f"{tag}.{name}").item() for name in ("loss", "kl_mean", "weighted_mean")]
    assert result == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(mu.grad, formula(f"{tag}.grad_mu"), atol=1e-8, rtol=1e-5)
    torch.testing.assert_close(ln_sigma.grad, formula(f"{tag}.grad_ln_sig"), atol=1e-8, rtol=1e-5)


# --- the rollout ---


@pytest.fixture
def recorded(golden_model, tensors, table, rl) -> Callable[[str], tuple[CFM, Rollout, dict[str, Tensor], RLConfig]]:
    """Return a function that repeats a recorded rollout: model, rollout, recorded values, settings."""

    def run(case: str) -> tuple[CFM, Rollout, dict[str, Tensor], RLConfig]:
        told, golden = table("g4_grpo")[f"rollout.{case}"], tensors("g4_grpo")
        names = [name for name in golden if name.startswith(f"rollout.{case}.")]
        expected = {name.removeprefix(f"rollout.{case}."): golden[name] for name in names}
        config = rl(
            *F5R,
            f"steps={told['n_intervals'] + 1}",
            f"cfg_strength={told['cfg_strength']}",
            f"sway_sampling_coef={'null' if told['sway_sampling_coef'] is None else told['sway_sampling_coef']}",
            f"density_eps={told['density_eps']}",
        )
        start, prompt = expected["y0"], expected["in.cond"]
        batch = SpeechBatch(
            mel=F.pad(prompt, (0, 0, 0, start.shape[1] - prompt.shape[1])),
            lens=expected["in.duration"],
            prompt_lens=expected.get("in.lens", torch.full((2,), prompt.shape[1])),
            text=expected["in.text"],
            target_texts=["", ""],
            group_ids=torch.tensor([0, 1]),
            audio=[torch.zeros(1)] * 2,
        )
        model = golden_model("dit", attn_mask_enabled=False).eval()
        noise = expected["noise"].view(told["n_intervals"], -1, *start.shape)
        rollout = rollout_with_gradients(model, batch, start, noise, told["kept_intervals"], config)
        return model, rollout, expected, config

    return run


@CASES
def test_a_rollout_is_the_published_one_within_1e_4(case, recorded):
    _, rollout, expected, _ = recorded(case)
    assert torch.equal(rollout.target_mask, expected["target_mask"])
    torch.testing.assert_close(rollout.means, expected["mu"], atol=1e-4, rtol=0)
    torch.testing.assert_close(rollout.stds.log(), expected["ln_sig"], atol=1e-4, rtol=0)
    torch.testing.assert_close(rollout.actions, expected["x"], atol=1e-4, rtol=0)
    torch.testing.assert_close(rollout.mel, expected["out"], atol=1e-4, rtol=0)


@CASES
def test_loss_and_gradients_of_a_rollout_are_the_published_ones(case, recorded, table):
    """Check that the gradient runs through the chain of states. A step that is left out must cut it."""
    told = table("g4_grpo")[f"rollout.{case}"]
    model, rollout, _, config = recorded(case)
    output = f5r_loss(Models(model), batch_of(rollout, torch.tensor(told["advantages"])), 0, config)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(told["policy_loss"], rel=1e-5)
    norms = {name: 0.0 if p.grad is None else p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms == pytest.approx(told["grad_norms"], rel=1e-5)


def test_the_mean_is_sampled_as_the_fork_samples_it(golden_model, tensors):
    golden = {name.removeprefix("sample."): value for name, value in tensors("g4_grpo").items()}
    prompt, noise = golden["in.cond"], golden["y0"]
    prompt_len, length = (torch.tensor([part.shape[1]]) for part in (prompt, noise))
    model = golden_model("dit", attn_mask_enabled=False).eval()
    result = sample(model, prompt, prompt_len, length, golden["in.text"], noise, time_grid(8, -1.0), 2.0)
    torch.testing.assert_close(result, golden["out"], atol=1e-4, rtol=0)


# --- samples and gradients ---


def test_a_group_is_drawn_in_as_many_passes_as_it_takes_and_every_clip_starts_with_its_prompt(rl, policy, batch):
    config = rl(*F5R, "repeat_count=3", "mini_repeat_count=2", "steps=3", "cfg_strength=1.0")
    torch.manual_seed(0)
    rollouts = list(draw_with_gradients(policy, batch, config))
    assert [rollout.batch.group_ids.tolist() for rollout in rollouts] == [[7, 7, 2, 2]] * 3
    assert all(rollout.actions.shape[0] == 2 and rollout.actions.requires_grad for rollout in rollouts)
    for rollout in rollouts:
        assert not rollout.mel.requires_grad
        assert torch.equal(rollout.mel[0, :3], batch.mel[0, :3]) and torch.equal(rollout.mel[3, :4], batch.mel[1, :4])
        assert torch.equal(rollout.states[0], rollouts[0].states[0])  # as rl.shared_noise asks


def test_without_shared_noise_every_sample_starts_elsewhere(rl, policy, batch):
    torch.manual_seed(0)
    (rollout,) = draw_with_gradients(policy, batch, rl(*F5R, "steps=2", "mini_repeat_count=2", "shared_noise=false"))
    assert len(torch.unique(rollout.states[0, :, 0, 0])) == 4


@pytest.mark.parametrize(
    "changes, want",
    [((), [5]), (("skip_grad_prob=1.0",), [2]), (("max_grad_steps=3",), [3]), (("skip_grad_prob=0.5",), [2, 3, 4, 5])],
)
def test_steps_are_left_out_of_the_gradient_but_for_the_first_two(changes, want, rl):
    config = rl(*F5R, "steps=6", "sway_sampling_coef=null", *changes)
    torch.manual_seed(0)
    drawn = [sample_gradient_steps(config) for _ in range(100)]
    assert sorted({len(steps) for steps in drawn}) == want
    assert all(steps == sorted(set(steps)) for steps in drawn)
    assert "max_grad_steps=3" in changes or all(steps[:2] == [0, 1] for steps in drawn)


def test_an_update_is_one_slice_a_pass_and_reaches_every_weight(rl, policy, batch):
    config = rl(*F5R, "steps=3", "mini_repeat_count=2", "cfg_strength=1.0")
    torch.manual_seed(0)
    (rollout,) = draw_with_gradients(policy, batch, config)
    frozen = lambda *inputs, **options: policy(*inputs, **options)  # noqa: E731
    update = [batch_of(rollout, torch.tensor([1.0, -1.0, 0.5, -0.5]))]
    (output,) = PolicyLoss(config, frozen)(policy, update)
    output.loss.backward()
    metrics = {name: float(value) for name, value in output.metrics.items()}
    assert metrics["loss"] == pytest.approx(-metrics["loss/pro_adv"] + config.kl_weight * metrics["loss/kl"], abs=1e-6)
    assert all(p.grad is not None and p.grad.any() for p in policy.parameters())


def test_frames_may_have_advantages_of_their_own(rl, policy, batch):
    torch.manual_seed(0)
    config = rl(*F5R, "steps=3", "mini_repeat_count=1", "kl_weight=0")
    (rollout,) = draw_with_gradients(policy, batch, config)
    each = torch.tensor([1.0, -0.5])
    by_sample, by_frame = (
        f5r_loss(Models(policy), batch_of(rollout, advantages), 0, config).loss
        for advantages in (each, each[:, None].expand(2, 12))
    )
    torch.testing.assert_close(by_sample, by_frame)


# --- errors of the objective ---

SIGMA, APART = 0.65, 0.5  # standard deviation, and μ_c - μ_u


def one_number(given: Tensor) -> VelocityModel:
    """Return a model whose velocity is one number with text and another one without."""

    def velocity(x, cond, text, time, mask, *, drop_text=None, **_) -> Velocity:
        mean = given if drop_text is None else given.detach() - APART
        return Velocity(mean.expand_as(x), torch.full_like(x, log(SIGMA)))

    return velocity


def pull(weight: float, rl: Callable[..., RLConfig], rollout_of: Callable[..., Rollout]) -> float:
    """Compute the gradient of f5r's gain with respect to μ_c, where the reward is the action.

    The rollout has one step, one frame and one bin.
    """
    config = rl(*F5R, "steps=2", f"cfg_strength={weight}", "density_eps=0", "kl_weight=0")
    given, start = torch.tensor(0.4, requires_grad=True), torch.zeros(1_000_000, 1, 1)
    torch.manual_seed(0)
    noise = torch.randn(1, 2 if weight else 1, *start.shape)
    batch = rollout_of(start, start, start, 1.0).batch
    rollout = rollout_with_gradients(one_number(given), batch, start, noise, [0], config)
    action = rollout.actions.detach().flatten()
    advantages = (action - action.mean()) / action.std()
    loss = f5r_loss(Models(one_number(given)), batch_of(rollout, advantages), 0, config).loss
    return -torch.autograd.grad(loss, given)[0].item()


def test_without_guidance_nothing_pulls_the_mean(rl, rollout_of):
    """Expect 0, since a - μ = σ ε whatever μ is; the truth is cov(a, R) / (σ² sd) = 1 / σ = 1.54."""
    assert abs(pull(0.0, rl, rollout_of)) < 1e-7


def test_with_guidance_the_mean_is_pulled_the_wrong_way(rl, rollout_of):
    """Derive the gradient from y = a - μ_c ~ N(δ, V) with δ = w (μ_c - μ_u), V = ((1+w)² + w²) σ².

    With p = exp(-y²/2σ²)/σ and y carrying the gradient w, the gradient is -w E[p y (y - δ)] / (σ² √V), while the truth
    is ∂E[R]/∂μ_c / sd = (1+w) / √V.
    """
    w, delta = 2.0, 2.0 * APART
    variance = ((1 + w) ** 2 + w**2) * SIGMA**2
    truth = (1 + w) / sqrt(variance)
    assert truth == pytest.approx(1.280, abs=5e-4)
    # exp(-y²/2σ²) N(y; δ, V) = share N(y; mean, left), a product of two Gaussians
    both = variance + SIGMA**2
    share = SIGMA / sqrt(both) * exp(-(delta**2) / (2 * both))
    mean, left = delta * SIGMA**2 / both, variance * SIGMA**2 / both
    theirs = -w * share * (left + mean**2 - mean * delta) / (SIGMA**3 * sqrt(variance))
    assert theirs == pytest.approx(-0.249, abs=5e-4)
    assert pull(w, rl, rollout_of) == pytest.approx(theirs, abs=0.002)


# --- the warning, and settings that are refused ---


def test_a_run_says_at_its_start_what_is_wrong_with_f5r():
    checkpoint = Checkpoint(
        path=Path("a.pt"), weights={"transformer.proj_out_ln_sig.weight": torch.ones(1)}, payload={}
    )
    messages: list[str] = []
    assert resolve_algorithm("f5r", checkpoint, messages.append) == "f5r"
    (line,) = messages
    assert line.startswith("warning: rl.algorithm=f5r is the published objective") and "\n" not in line
    assert line.endswith("rl.algorithm=gaussian_grpo is the correct one")
    with pytest.raises(ValueError, match=r"rl\.algorithm=f5r needs a trained Gaussian head, and a\.pt has none"):
        resolve_algorithm("f5r", Checkpoint(path=Path("a.pt"), weights={}, payload={}), messages.append)


@pytest.mark.parametrize(
    "change, words",
    [
        ("rl.steps=1", "rl.steps=1 is no interval for rl.algorithm=f5r, which counts grid points; set it to 2 or more"),
        ("rl.updates_per_rollout=2", "rl.updates_per_rollout=2 does not go with rl.algorithm=f5r"),
    ],
)
def test_settings_that_f5r_cannot_have_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        compose_config("F5TTS_RL", ["rl.algorithm=f5r", change], RLTrainConfig)
