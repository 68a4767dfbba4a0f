from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from f5_tts.model.backbones.kernels import GELU, Dropout, Mish, add_product, attention, torch_kernels

HALF = torch.bfloat16
ROUNDING = 2**-8  # largest relative error of one rounding to bfloat16
LENS = [9, 5]


@pytest.fixture
def heads() -> list[Tensor]:
    """Return queries, keys and values of two items, three heads, nine frames and eight channels, and a gradient."""
    torch.manual_seed(0)
    return list(torch.randn(4, 2, 9, 3, 8).to(HALF).transpose(2, 3))


def attended(heads: list[Tensor], mask: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
    """Compute attention in this precision, and the gradients of queries, keys and values; padding has none."""
    q, k, v = (part.detach().to(dtype).requires_grad_() for part in heads[:3])
    out = attention(q, k, v, mask)
    upper = heads[3].to(dtype) if mask is None else heads[3].to(dtype) * mask[:, None, :, None]
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), upper)]


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("is_padded", [False, True])
def test_attention_in_bfloat16_is_that_in_single_precision_and_so_are_its_gradients(heads, is_padded: bool):
    """Queries of padding frames get any numbers, which the layer after them sets to zero."""
    mask = torch.arange(9) < torch.tensor(LENS)[:, None] if is_padded else None
    expected, found = attended(heads, mask, torch.float32), attended(heads, mask, HALF)
    if mask is not None:
        expected[0], found[0] = (part * mask[:, None, :, None] for part in (expected[0], found[0]))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == HALF and distance(one, other) < 2 * ROUNDING


def test_attention_in_bfloat16_keeps_no_probabilities_for_the_backward_pass(heads):
    kept: list[Tensor] = []
    q, k, v = (part.clone().requires_grad_() for part in heads[:3])
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        attention(q, k, v, None)
    assert [part.shape for part in kept] == [q.shape] * 3


def test_single_precision_and_torchs_kernels_are_torchs(heads):
    mask = torch.arange(9) < torch.tensor(LENS)[:, None]
    single = [part.float() for part in heads[:3]]
    expected = F.scaled_dot_product_attention(*single, attn_mask=mask[:, None, None])
    assert torch.equal(attention(single[0], single[1], single[2], mask), expected)
    assert torch.equal(Mish()(single[0]), F.mish(single[0]))
    assert torch.equal(GELU()(single[0]), F.gelu(single[0], approximate="tanh"))
    torch.manual_seed(1)
    dropped = Dropout(0.3)(single[0])
    torch.manual_seed(1)
    assert torch.equal(dropped, F.dropout(single[0], 0.3))
    with torch_kernels():
        assert torch.equal(attention(heads[0], heads[1], heads[2], None), F.scaled_dot_product_attention(*heads[:3]))
        assert torch.equal(Mish()(heads[0]), F.mish(heads[0]))
        assert torch.equal(GELU()(heads[0]), F.gelu(heads[0], approximate="tanh"))
    assert not torch.equal(attention(heads[0], heads[1], heads[2], None), F.scaled_dot_product_attention(*heads[:3]))


def test_mish_in_bfloat16_is_that_in_single_precision_from_minus_to_plus_a_hundred():
    x = torch.linspace(-100, 100, 4001).to(HALF).requires_grad_()
    single = x.detach().float().requires_grad_()
    found, expected = Mish()(x), F.mish(single)
    torch.testing.assert_close(found.float(), expected, atol=ROUNDING, rtol=2 * ROUNDING)
    (gradient,), (wanted,) = (torch.autograd.grad(out.sum(), at) for out, at in ((found, x), (expected, single)))
    torch.testing.assert_close(gradient.float(), wanted, atol=6 * ROUNDING, rtol=6 * ROUNDING)


def test_gelu_in_bfloat16_is_as_close_to_that_in_single_precision_as_torchs_own_and_so_is_its_gradient():
    x = torch.linspace(-9, 9, 40_001).to(HALF)
    single = x.float().requires_grad_()
    expected = F.gelu(single, approximate="tanh")
    (wanted,) = torch.autograd.grad(expected.sum(), single)
    errors = {}
    for name, activation in (("own", GELU()), ("torch", nn.GELU(approximate="tanh"))):
        half = x.clone().requires_grad_()
        found = activation(half)
        (gradient,) = torch.autograd.grad(found.sum(), half)
        errors[name] = [(found - expected).abs().mean().item(), (gradient - wanted).abs().mean().item()]
    assert not torch.equal(GELU()(x), F.gelu(x, approximate="tanh"))
    assert all(own < 1.2 * theirs for own, theirs in zip(errors["own"], errors["torch"], strict=True)), errors


def test_dropout_in_bfloat16_drops_its_share_scales_the_rest_and_rests_outside_training():
    """Count 100,001 entries at p = 0.1, which have a standard deviation of 95."""
    torch.manual_seed(0)
    layer, x = Dropout(0.1), torch.full((100_001,), 3.0, dtype=HALF).requires_grad_()
    out = layer(x)
    kept = out != 0
    assert abs((~kept).sum().item() - 10_000) < 4 * 95
    assert out[kept].unique().tolist() == pytest.approx([3 / 0.9], rel=ROUNDING)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient != 0, kept)
    assert torch.equal(layer.eval()(x), x)
    assert not Dropout(1.0)(x).any()


def test_a_sum_with_a_product_is_the_same_in_one_pass_and_in_two():
    torch.manual_seed(0)
    added, one, other = torch.randn(3, 2, 5, 4)
    assert torch.equal(add_product(added, one, other), added + one * other)
    found = add_product(added.to(HALF), one.to(HALF), other.to(HALF)).float()
    torch.testing.assert_close(found, added + one * other, atol=4 * ROUNDING, rtol=2 * ROUNDING)
