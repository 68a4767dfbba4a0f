from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ModelConfig, TrainConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.heads import Velocity
from f5_tts.train.infilling import InfillingLoss
from f5_tts.types import SpeechBatch

SMALL = (
    "arch.dim=32",
    "arch.depth=2",
    "arch.heads=2",
    "arch.dim_head=16",
    "arch.text_dim=16",
    "mel_spec.n_mel_channels=2",
)
NLL = ("output_dist=gaussian", "use_rl_head=true", "objective=gaussian_nll")


@pytest.fixture
def settings() -> Callable[..., ModelConfig]:
    """Return a maker of the model section of F5TTS_Mini with changes, as in settings("nll_t2=0")."""

    def make(*changes: str) -> ModelConfig:
        return compose_config("F5TTS_Mini", [f"model.{change}" for change in changes], TrainConfig).model

    return make


class Witness(DiT):
    """Backbone that keeps its inputs and returns zero velocity with ln σ = 0."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.proj_out_ln_sig = None
        self.shown: dict[str, Tensor] = {}

    def forward(self, x, cond, text, time, mask, drop_audio, drop_text, text_embedding=None) -> Velocity:
        self.shown = {"x": x, "cond": cond, "time": time, "drop_audio": drop_audio, "drop_text": drop_text}
        return Velocity(torch.zeros_like(x), torch.zeros_like(x))


def batch_of(num: int, *, prompts: bool = True, level: float = 5.0) -> SpeechBatch:
    """Build clips of 20 and 40 frames in turn, all of one level. A quarter of each is a prompt of its own."""
    lens = torch.tensor([20, 40] * (num // 2))
    frames = torch.arange(40) < lens[:, None]
    return SpeechBatch(
        mel=(level * frames)[..., None].repeat(1, 1, 2),
        lens=lens,
        prompt_lens=lens // 4 if prompts else torch.zeros_like(lens),
        text=torch.zeros(num, 1, dtype=torch.long),
        target_texts=["one"] * num,
        group_ids=torch.arange(num),
        audio=[torch.zeros(1)] * num,
    )


def shaken(model: CFM) -> CFM:
    """Add noise to all weights: a new model returns zero for any input."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_blanked_spans_are_inside_their_item_and_as_long_as_asked(settings):
    torch.manual_seed(0)
    batch = batch_of(200, prompts=False)
    spans = InfillingLoss(settings("frac_lengths_mask=[0.5,0.6]")).spans(batch)
    inside = torch.arange(40) < batch.lens[:, None]
    assert not (spans & ~inside).any()
    share = spans.sum(dim=1) / batch.lens
    assert share.min() >= 0.45 and share.max() <= 0.6
    starts, ends = spans.int().argmax(dim=1), 39 - spans.flip(1).int().argmax(dim=1)
    assert torch.equal(ends - starts + 1, spans.sum(dim=1))  # the span is contiguous


def test_half_of_the_items_with_a_prompt_are_blanked_exactly_after_it(settings):
    """Toss 2,000 fair coins, with a deviation of 22 heads; four deviations are allowed.

    A random span of 0.7 of the frames never equals the target.
    """
    torch.manual_seed(0)
    batch = batch_of(2000)
    spans = InfillingLoss(settings("frac_lengths_mask=[0.7,0.7]")).spans(batch)
    frames = torch.arange(40)
    target = (frames >= batch.prompt_lens[:, None]) & (frames < batch.lens[:, None])
    exact = (spans == target).all(dim=1)
    assert abs(exact.sum().item() - 1000) < 4 * 22
    assert ((spans.sum(dim=1) == (0.7 * batch.lens).long()) | exact).all()


def test_the_model_is_shown_noise_on_the_way_to_speech_and_the_prompt_alone(settings):
    """Expect x_t = (1 - t) x0 + t · 5. The condition is 5 outside the masked span, and 0 inside it and on padding."""
    torch.manual_seed(0)
    witness, batch = Witness(), batch_of(400)
    list(InfillingLoss(settings("objective=mse"))(CFM(witness), [batch]))
    shown, frames = witness.shown, torch.arange(40) < batch.lens[:, None]
    noise = (shown["x"] - shown["time"][:, None, None] * 5) / (1 - shown["time"])[:, None, None]
    real = noise[frames][torch.isfinite(noise[frames])]
    assert real.mean().item() == pytest.approx(0, abs=0.05) and real.std().item() == pytest.approx(1, abs=0.05)
    assert set(shown["cond"].unique().tolist()) == {0.0, 5.0}
    blank = (shown["cond"] == 0).all(dim=2).sum(dim=1) - (40 - batch.lens)
    assert (blank / batch.lens).min() >= 0.65


def test_text_is_never_dropped_without_the_prompt(settings):
    """Drop both with probability 0.3, else the audio with 0.5.

    Audio is dropped with probability 1 - 0.7 · 0.5 = 0.65; the deviation of 4,000 draws is 0.008.
    """
    torch.manual_seed(0)
    witness = Witness()
    loss = InfillingLoss(settings("objective=mse", "cond_drop_prob=0.3", "audio_drop_prob=0.5"))
    list(loss(CFM(witness), [batch_of(4000)]))
    audio, text = witness.shown["drop_audio"], witness.shown["drop_text"]
    assert not (text & ~audio).any()
    assert text.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert audio.float().mean().item() == pytest.approx(0.65, abs=0.03)


def test_times_are_uniform_or_as_dense_near_noise_as_a_swayed_solver(settings):
    """Expect a median of 0.5, or 1 - cos(π / 4) = 0.293; the median of 4,000 draws has deviation 0.008."""
    torch.manual_seed(0)
    for sampling, median in (("uniform", 0.5), ("sway", 0.293)):
        times = InfillingLoss(settings(f"time_sampling={sampling}")).times(4000)
        assert times.min() >= 0 and times.max() <= 1
        assert times.median().item() == pytest.approx(median, abs=0.03)


def points() -> tuple[Velocity, Tensor, Tensor, Tensor]:
    """Build a prediction of mean 1 and σ = 0.5 where the truth is 3, at t = 0.5. Half of the frames are masked."""
    velocity = Velocity(torch.ones(1, 4, 2, requires_grad=True), torch.full((1, 4, 2), 0.5).log().requires_grad_())
    span = torch.tensor([[True, True, False, False]])
    return velocity, torch.full((1, 4, 2), 3.0), torch.tensor([0.5]), span


def test_mse_is_the_squared_error_on_the_blanked_frames(settings):
    output = InfillingLoss(settings("objective=mse")).loss(*points())
    assert output.loss.item() == pytest.approx(4.0)
    assert output.metrics == {"loss": pytest.approx(4.0)}


@pytest.mark.parametrize("t2", [0.0, 1.0])
def test_nll_by_hand_with_the_mse_beside_it(settings, t2: float):
    """Expect 4 / (2 · 0.25) + (1 + t2 · 0.25) ln 0.5."""
    output = InfillingLoss(settings(*NLL, f"nll_t2={t2}")).loss(*points())
    expected = 8 + (1 + 0.25 * t2) * torch.tensor(0.5).log().item()
    assert output.loss.item() == pytest.approx(expected, rel=1e-4)
    seen = {"loss": expected, "loss/nll": expected, "loss/mse": 4.0, "policy/sigma_mean": 0.5}
    assert output.metrics == pytest.approx(seen, rel=1e-4)


@pytest.mark.parametrize("scope", ["full", "head"])
def test_a_warm_up_of_the_head_leaves_the_mean_alone(settings, scope: str):
    torch.manual_seed(0)
    small = ("mel_spec.n_mel_channels=2", "arch.dim=16", "arch.depth=1", "arch.heads=1")
    model = build_model(settings(*NLL, *small), Vocabulary(" ab"))
    if scope == "head":
        model.freeze_all_but_head()
    (output,) = InfillingLoss(settings(*NLL, f"warmup_scope={scope}"))(model, [batch_of(4)])
    output.loss.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    head = {"transformer.proj_out_ln_sig.weight", "transformer.proj_out_ln_sig.bias"}
    assert moved == head if scope == "head" else moved > head


def test_the_batches_of_one_update_count_alike(settings):
    """Use levels 5 and 1 against a velocity of zero. The loss is the mean of both, and each is drawn by itself."""
    batches = [batch_of(4), batch_of(4, level=1.0)]
    loss = InfillingLoss(settings("objective=mse"))
    torch.manual_seed(0)
    slices = [output.loss.item() for output in loss(CFM(Witness()), batches)]
    torch.manual_seed(0)
    alone = [loss.batch_loss(CFM(Witness()), batch, None).loss.item() for batch in batches]
    assert slices == pytest.approx([value / 2 for value in alone])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_recomputed_activations_change_no_gradient_of_stage_1_dropout_included(settings, dtype: torch.dtype | None):
    batch, result = batch_of(4), []
    for recompute in ("false", "true"):
        chosen = settings(*NLL, "arch.dropout=0.3", f"arch.checkpoint_activations={recompute}", *SMALL)
        torch.manual_seed(0)
        model = shaken(build_model(chosen, Vocabulary("ab"))).train()
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            (output,) = InfillingLoss(chosen)(model, [batch])
        output.loss.backward()
        result.append([parameter.grad for parameter in model.parameters()])
    assert any(grad is not None and grad.any() for grad in result[0])
    torch.testing.assert_close(result[1], result[0], atol=0, rtol=0)
