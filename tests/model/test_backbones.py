from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

import pytest
import torch
from tests.tiny import tiny_arch
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig, TrainConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.backbones.layers import (
    Attention,
    Backbone,
    ConvNeXtV2Block,
    ConvPositionEmbedding,
    GlobalResponseNorm,
    RotaryEmbedding,
    sinusoidal_positions,
    upsample_text,
)
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.heads import Velocity
from f5_tts.types import padding_mask

DITS = ["dit_v1", "dit_v0", "dit_qknorm", "dit_longskip", "dit_noconv", "dit_avgup"]
GAUSSIAN = ["dit", "unett"]
PUBLISHED = [*DITS, "unett_e2", "unett_add"]
DROPS = {  # mode -> (prompt dropped, text dropped) for each copy of the batch
    "cond": [(False, False)],
    "drop_audio": [(True, False)],
    "drop_text": [(False, True)],
    "drop_both": [(True, True)],
    "cfg_infer": [(False, False), (True, True)],
}
WHOLE = [("b1", mode) for mode in DROPS]
WHOLE += [(case, mode) for case in ("b2nomask", "longtext") for mode in ("cond", "drop_both", "cfg_infer")]
PADDED = [(case, mode) for case in ("b2", "b3") for mode in ("cond", "drop_both", "cfg_infer")]
FIRST_IS_LONGEST = [*PADDED, ("b2", "drop_audio"), ("b2", "drop_text")]


class Batch(NamedTuple):
    """Inputs of a network for items of different lengths."""

    x: Tensor
    cond: Tensor
    text: Tensor
    time: Tensor
    lens: Tensor

    def item(self, index: int) -> Batch:
        """Return one item alone, without its padding."""
        frames, tokens = int(self.lens[index]), int((self.text[index] >= 0).sum())
        one = slice(index, index + 1)
        words = self.text[one, :tokens]
        return Batch(self.x[one, :frames], self.cond[one, :frames], words, self.time[one], self.lens[one])


def run(dit: Backbone, batch: Batch) -> Velocity:
    keep = torch.zeros(len(batch.x), dtype=torch.bool)
    mask = padding_mask(batch.lens, batch.x.shape[1])
    return dit(batch.x, batch.cond, batch.text, batch.time, mask, keep, keep)


def run_case(dit: Backbone, inputs: dict[str, Tensor], case: str, mode: str) -> tuple[Velocity, Tensor]:
    """Run the model on a golden case and return its velocity and the mask of valid frames."""
    x, cond, text, time = (inputs[f"in.{case}.{name}"] for name in ("x", "cond", "text", "time"))
    mask, num, copies = inputs.get(f"in.{case}.mask"), len(x), len(DROPS[mode])
    twice = (part.repeat(copies, *[1] * (part.ndim - 1)) for part in (x, cond, text, time.expand(num)))
    audio, words = torch.tensor(DROPS[mode]).repeat_interleave(num, dim=0).unbind(1)
    with torch.no_grad():
        velocity = dit(*twice, None if mask is None else mask.repeat(copies, 1), audio, words)
    frames = torch.ones(num, x.shape[1], dtype=torch.bool) if mask is None else mask
    return velocity, frames.repeat(copies, 1)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("case, mode", WHOLE)
def test_the_velocity_of_unpadded_items_is_the_published_one_within_2e_5(name, case, mode, golden_model, tensors):
    golden = tensors(f"g2_{name}")
    velocity, _ = run_case(golden_model(name).transformer, golden, case, mode)
    torch.testing.assert_close(velocity.mean, golden[f"out.{case}.{mode}"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", DITS)
@pytest.mark.parametrize("case, mode", PADDED)
@pytest.mark.parametrize("masked", [True, False])
def test_the_velocity_of_padded_items_is_the_published_one_with_texts_embedded_one_by_one_within_2e_5(
    name, case, mode, masked, golden_model, tensors
):
    expected = tensors("g2_persample_text")[f"{name}.{case}.{mode}" + ".attnmask" * masked]
    model = golden_model(name, attn_mask_enabled=masked)
    velocity, valid = run_case(model.transformer, tensors(f"g2_{name}"), case, mode)
    torch.testing.assert_close(velocity.mean[valid], expected[valid], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("case, mode", FIRST_IS_LONGEST)
def test_the_longest_item_of_a_padded_batch_is_the_published_one_within_2e_5(name, case, mode, golden_model, tensors):
    golden = tensors(f"g2_{name}")
    velocity, valid = run_case(golden_model(name).transformer, golden, case, mode)
    full = valid.all(dim=1)
    assert full.any()
    expected = golden[f"out.{case}.{mode}.attnmask"]
    torch.testing.assert_close(velocity.mean[full], expected[full], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", GAUSSIAN)
@pytest.mark.parametrize("case", ["b1", "b2nomask"])
@pytest.mark.parametrize("mode", ["cond", "drop_both", "cfg_infer"])
def test_mean_and_log_deviation_of_the_gaussian_head_are_the_forks_within_2e_5(name, case, mode, golden_model, tensors):
    golden, inputs = tensors("g2_gaussian_head"), tensors("g2_dit_v1")
    velocity, _ = run_case(golden_model(name).transformer, inputs, case, mode)
    torch.testing.assert_close(velocity.mean, golden[f"{name}.out.{case}.{mode}.mu"], atol=2e-5, rtol=0)
    torch.testing.assert_close(velocity.ln_sigma, golden[f"{name}.out.{case}.{mode}.ln_sig"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", [*PUBLISHED, *GAUSSIAN])
def test_names_and_shapes_of_weights_are_the_published_ones(name, golden_model, golden_weights):
    own = {key: value.shape for key, value in golden_model(name).state_dict().items()}
    assert own == {f"transformer.{key}": value.shape for key, value in golden_weights(name).items()}
    assert ("transformer.proj_out_ln_sig.weight" in own) == (name in GAUSSIAN)


# --- an item's output does not depend on its batch ---


@pytest.fixture
def uneven() -> Batch:
    """Make four items, the last with all frames; the second has more tokens than frames.

    The padding holds values far from zero.
    """
    torch.manual_seed(3)
    lens, tokens = torch.tensor([9, 5, 17, 40]), torch.tensor([4, 12, 6, 11])
    text = torch.randint(0, 30, (4, 12)).masked_fill(torch.arange(12) >= tokens[:, None], -1)
    return Batch(3 * torch.randn(4, 40, 20), 3 * torch.randn(4, 40, 20), text, torch.rand(4), lens)


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_items_velocity_does_not_depend_on_what_it_is_batched_with(name, golden_model, uneven):
    dit = golden_model(name).transformer
    together = run(dit, uneven).mean
    for index, frames in enumerate(uneven.lens):
        alone = run(dit, uneven.item(index)).mean[0]
        torch.testing.assert_close(together[index, :frames], alone, atol=5e-6, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("index", range(4))
def test_an_items_gradients_do_not_depend_on_what_it_is_batched_with(name, index, golden_model, uneven):
    def gradients(batch: Batch, index: int) -> dict[str, Tensor]:
        model = golden_model(name)
        run(model.transformer, batch).mean[index, : batch.lens[index]].square().mean().backward()
        return {key: p.grad if p.grad is not None else torch.zeros_like(p) for key, p in model.named_parameters()}

    together, alone = gradients(uneven, index), gradients(uneven.item(index), 0)
    for key, gradient in alone.items():
        torch.testing.assert_close(
            together[key], gradient, atol=1e-6, rtol=1e-4, msg=lambda text, k=key: f"{k}: {text}"
        )


@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_flows_back_into_padding_or_into_another_item(name, golden_model, uneven):
    x = uneven.x.clone().requires_grad_()
    run(golden_model(name).transformer, uneven._replace(x=x)).mean[2, :17].sum().backward()
    assert x.grad is not None
    assert (x.grad[2, :17] != 0).all()
    x.grad[2, :17] = 0
    assert (x.grad == 0).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_text_past_an_items_frames_is_not_read(name, golden_model, uneven):
    dit = golden_model(name).transformer
    other = uneven.text.clone()
    other[1, 5:] = (other[1, 5:] + 1) % 30
    assert torch.equal(run(dit, uneven).mean, run(dit, uneven._replace(text=other)).mean)


def test_a_mask_without_padding_changes_nothing(golden_model, uneven):
    dit, batch, keep = golden_model("dit_v1").transformer, uneven.item(3), torch.tensor([False])
    frames = torch.ones(1, 40, dtype=torch.bool)
    masked = dit(batch.x, batch.cond, batch.text, batch.time, frames, keep, keep).mean
    torch.testing.assert_close(masked, run(dit, batch).mean, atol=2e-6, rtol=0)


# --- the published family ---

CONFIGS = ["F5TTS_v1_Base", "F5TTS_Base", "F5TTS_v1_Small", "F5TTS_Small", "E2TTS_Base", "E2TTS_Small", "F5TTS_RL"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_makes_the_published_network_weight_by_weight(name, table):
    is_rl = name == "F5TTS_RL"  # stage 2 of the v1 Base: the same network with a Gaussian head
    expected = table("g1_state_dicts")["F5TTS_v1_Base" if is_rl else name]
    cfg = compose_config(name, [], RLTrainConfig if is_rl else TrainConfig)
    with torch.device("meta"):
        model = build_model(cfg.model, Vocabulary([str(i) for i in range(2545)]))
    own = {key: list(value.shape) for key, value in model.state_dict().items() if "proj_out_ln_sig" not in key}
    assert own == expected["model_state_dict"]
    assert model.is_gaussian == is_rl
    if not is_rl:
        assert sum(parameter.numel() for parameter in model.parameters()) == expected["n_params"]


@pytest.mark.parametrize("name", CONFIGS[:-1])
def test_a_config_has_the_published_settings_of_its_network(name, table):
    """Compare all settings but the attention mask.

    Published models were trained to attend to padding; models of this project mask it.
    """
    arch = asdict(compose_config(name, [], TrainConfig).model.arch)
    expected = {key: value for key, value in table("g1_state_dicts")[name]["arch"].items() if key != "attn_backend"}
    assert expected.pop("attn_mask_enabled", False) is False
    assert {key: arch[key] for key in expected} == expected


@pytest.mark.parametrize("name", CONFIGS[:-1])
def test_a_config_asks_for_the_published_front_end_and_schedule(name, table):
    expected, cfg = table("g1_state_dicts")[name], compose_config(name, [], TrainConfig)
    assert asdict(cfg.model.mel_spec) == expected["mel_spec"]
    assert cfg.model.tokenizer == expected["tokenizer"]
    assert {key: getattr(cfg.optim, key) for key in expected["optim"]} == expected["optim"]


# --- parts ---

PARTS = {
    "positions": (ConvPositionEmbedding(16), ()),
    "response norm": (GlobalResponseNorm(16), ()),
    "text block": (ConvNeXtV2Block(16, 24), ()),
    "attention": (Attention(tiny_arch(dim=16, dim_head=8)), (RotaryEmbedding(8)(12),)),
}


@pytest.mark.parametrize("part, more", PARTS.values(), ids=PARTS)
def test_a_part_that_looks_at_other_frames_looks_past_the_padding(part, more):
    torch.manual_seed(7)
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, mask = 3 * torch.randn(2, 12, 16), torch.arange(12) < torch.tensor([7, 12])[:, None]
    alone = part(x[:1, :7], None, *[turns[:7] for turns in more])
    torch.testing.assert_close(part(x, mask, *more)[:1, :7], alone, atol=2e-5, rtol=0)


def test_upsampling_repeats_tokens_evenly_and_the_last_ones_once_more():
    tokens = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]).expand(3, -1)[..., None]
    stretched = upsample_text(tokens, torch.tensor([3, 3, 0]), torch.tensor([8, 6, 8]))[..., 0]
    assert stretched.tolist() == [[1, 1, 2, 2, 2, 3, 3, 3], [1, 1, 2, 2, 3, 3, 0, 0], [0] * 8]


@pytest.mark.parametrize("name", ["dit_v1", "unett_add"])
def test_more_frames_than_the_published_tables_have_positions_of_their_own(name, golden_model):
    torch.manual_seed(0)
    frames, length = torch.randn(2, 1, 1, 20), 8200  # the published table of text positions ends at 8192
    x, cond = (one.expand(1, length, 20) for one in frames)
    text, keep = torch.zeros(1, length, dtype=torch.long), torch.tensor([False])
    with torch.no_grad():
        words = golden_model(name).transformer.text_embed(text, torch.tensor([length]), length, keep)
        velocity = golden_model(name).transformer(x, cond, text, torch.tensor([0.5]), None, keep, keep).mean
    assert velocity.isfinite().all()
    assert not torch.allclose(words[0, 8191], words[0, 8195], atol=1e-3)


def test_the_position_code_is_cosines_then_sines_of_falling_frequency():
    code = sinusoidal_positions(4, 6, torch.device("cpu"))
    angles = torch.arange(4.0)[:, None] * torch.tensor([1.0, 10000 ** (-1 / 3), 10000 ** (-2 / 3)])
    torch.testing.assert_close(code, torch.cat([angles.cos(), angles.sin()], dim=1))


def small(gaussian: bool = False, **changes: bool) -> DiT:
    torch.manual_seed(0)
    return DiT(tiny_arch(**changes), mel_dim=20, num_tokens=30, gaussian=gaussian)


def test_an_untrained_model_says_velocity_zero_and_the_ln_sigma_it_was_given(uneven):
    velocity = run(CFM(small(gaussian=True), ln_sigma_init=-0.5).transformer, uneven)
    assert velocity.ln_sigma is not None
    assert (velocity.mean == 0).all() and (velocity.ln_sigma == -0.5).all()


def test_a_model_without_a_gaussian_head_has_no_ln_sigma(uneven):
    assert run(small(), uneven).ln_sigma is None


def test_recomputing_activations_leaves_the_gradients_as_they_are(golden_model: Callable[..., CFM], uneven: Batch):
    gradients = []
    for recompute in (False, True):
        model = golden_model("dit_v1")
        model.transformer.checkpoint_activations = recompute
        run(model.transformer, uneven).mean.square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], atol=0, rtol=0)
