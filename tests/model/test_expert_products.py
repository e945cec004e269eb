from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shared_moe_conformer.model import expert_products
from shared_moe_conformer.model.expert_products import (
    ExpertWeights,
    by_grouped_product,
    fits_grouped_product,
    gated_experts,
    has_grouped_product,
)

C, H, E, M, K = 8, 16, 4, 40, 2


def make_weights() -> ExpertWeights:
    shapes = (E, C, H), (E, H), (E, H, C), (E, C)
    return ExpertWeights(*(torch.randn(shape, requires_grad=True) for shape in shapes))


def make_routing() -> tuple[Tensor, Tensor, Tensor]:
    """Slots, gates and counts: frames 3 to 35 go to experts 0, 1 and 3, some of them to two of these, none to 2."""
    first, second = torch.arange(3, 36) * K, torch.arange(10, 30) * K + 1
    slots = torch.cat([first[:20], second, first[20:]])
    return slots, torch.rand(len(slots), requires_grad=True), torch.tensor([17, 15, 0, 21])


def frame_by_frame(x: Tensor, slots: Tensor, gates: Tensor, counts: Tensor, weights: ExpertWeights) -> Tensor:
    """The definition, by autograd."""
    out = [torch.zeros(C) for _ in x]
    for frame, gate, e in zip((slots // K).tolist(), gates, torch.repeat_interleave(torch.arange(E), counts)):
        w1, b1, w2, b2 = (tensor[e] for tensor in weights)
        out[frame] = out[frame] + gate * (F.silu(x[frame] @ w1 + b1) @ w2 + b2)
    return torch.stack(out)


def gradients(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((out * torch.linspace(-1, 1, C)).sum(), inputs)


@pytest.mark.parametrize("piece", [512, 7, 1])
def test_output_and_gradients_are_those_of_each_frame_by_itself(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_products, "PIECE", piece)
    x, weights, (slots, gates, counts) = torch.randn(M, C, requires_grad=True), make_weights(), make_routing()
    expected = frame_by_frame(x, slots, gates, counts, weights)
    found = gated_experts(x, slots, gates, counts, weights, top_k=K)
    torch.testing.assert_close(found, expected)
    inputs = x, gates, *weights
    torch.testing.assert_close(gradients(found, *inputs), gradients(expected, *inputs))
    with torch.no_grad():
        torch.testing.assert_close(gated_experts(x, slots, gates, counts, weights, top_k=K), expected)


def test_large_matrices_give_the_same_by_whatever_code_computes_them() -> None:
    counts, shapes = torch.tensor([20, 0, 300, 400]), ((E, 160, 224), (E, 224), (E, 224, 160), (E, 160))
    weights = ExpertWeights(*(torch.randn(shape, requires_grad=True) for shape in shapes))
    x, gates = torch.randn(720, 160, requires_grad=True), torch.rand(720, requires_grad=True)
    slots = torch.randperm(720)
    slices = zip(x[slots].split(counts.tolist()), *weights, strict=True)
    out = torch.cat([F.silu(rows @ w1 + b1) @ w2 + b2 for rows, w1, b1, w2, b2 in slices]) * gates.unsqueeze(1)
    expected = torch.zeros_like(x).index_copy(0, slots, out)
    found = gated_experts(x, slots, gates, counts, weights)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    inputs, grad = (x, gates, *weights), torch.randn(720, 160)
    for a, b in zip(torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_gradients_are_those_of_finite_differences() -> None:
    x, weights, (slots, gates, counts) = torch.randn(M, C), make_weights(), make_routing()
    inputs = [tensor.detach().double().requires_grad_() for tensor in (x[:8], gates[:10], *weights)]
    slots, counts = torch.tensor([0, 2, 4, 6, 7, 10, 3, 5, 8, 12]), torch.tensor([4, 0, 1, 5])
    assert torch.autograd.gradcheck(
        lambda x, gates, *w: gated_experts(x, slots, gates, counts, ExpertWeights(*w), top_k=K), inputs
    )


def test_grouped_product_equals_the_slices() -> None:
    if not has_grouped_product():
        pytest.skip("torch has no grouped product before 2.10")
    x, weights, (slots, gates, counts) = torch.randn(M, C, requires_grad=True), make_weights(), make_routing()
    inputs = x, gates, *weights
    by_slices = gated_experts(x, slots, gates, counts, weights, top_k=K)
    grouped = by_grouped_product(x, slots, gates, counts, weights, top_k=K)
    torch.testing.assert_close(grouped, by_slices)
    torch.testing.assert_close(gradients(grouped, *inputs), gradients(by_slices, *inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(8, 16), (4, 8), (6, 16), (16, 6)])
def test_sizes_that_the_grouped_product_cannot_have_are_known(sizes: tuple[int, int], dtype: torch.dtype) -> None:
    if not has_grouped_product():
        pytest.skip("torch has no grouped product before 2.10")
    (c, h), experts = sizes, 2
    shapes = (experts, c, h), (experts, h), (experts, h, c), (experts, c)
    weights = ExpertWeights(*(torch.randn(shape, dtype=dtype) for shape in shapes))
    slots, gates, counts = torch.arange(5), torch.ones(5, dtype=dtype), torch.tensor([3, 2])
    try:
        by_grouped_product(torch.randn(5, c, dtype=dtype), slots, gates, counts, weights)
        fits = True
    except RuntimeError as error:
        fits = "multiple of 16 bytes" not in str(error)
    assert fits_grouped_product(weights.hidden_weight) == fits


def test_autocast_computes_in_half_precision_and_leaves_gradients_in_full() -> None:
    x, weights, (slots, gates, counts) = torch.randn(M, C, requires_grad=True), make_weights(), make_routing()
    expected = gated_experts(x, slots, gates, counts, weights, top_k=K)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gated_experts(x, slots, gates, counts, weights, top_k=K)
    assert found.dtype == torch.bfloat16
    inputs = x, gates, *weights
    for gradient, reference in zip(gradients(found, *inputs), gradients(expected, *inputs)):
        assert gradient.dtype == torch.float32
        assert (gradient - reference).abs().max() < 0.03 * reference.abs().max()


def test_nothing_but_padding_is_zero() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    x = torch.randn(M, C, requires_grad=True)
    out = gated_experts(x, nothing, torch.zeros(0), torch.zeros(E, dtype=torch.int64), make_weights())
    assert out.abs().max() == 0
    assert torch.autograd.grad(out.sum(), x)[0].abs().max() == 0
