"""oneDNN's products equal torch's own, with their gradients, on any CPU that can compute both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from shared_moe_conformer.kernels import linear as kernel
from shared_moe_conformer.kernels.linear import FEWEST_ROWS, PIECE, Linear

ROWS = [1, FEWEST_ROWS - 1, FEWEST_ROWS, 50, PIECE, PIECE + 1, 2 * PIECE + 140]


@pytest.fixture(autouse=True)
def _by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not hasattr(torch.amp, "is_autocast_available"):
        pytest.skip("this torch has no oneDNN products of ordinary tensors")
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("this CPU has no AVX-512")
    monkeypatch.setattr(kernel, "prefers_onednn", lambda: True)
    torch.manual_seed(0)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def twins(dim_in: int, dim_out: int, *, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """Our layer and torch's with the same weights."""
    theirs, ours = nn.Linear(dim_in, dim_out, bias=bias), Linear(dim_in, dim_out, bias=bias)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_equal_those_of_torchs_linear(num_rows: int, bias: bool) -> None:
    ours, theirs = twins(160, 224, bias=bias)
    x, grad = torch.randn(1, num_rows, 160, requires_grad=True), torch.randn(1, num_rows, 224)
    close(ours(x), theirs(x))
    found = torch.autograd.grad(ours(x), [x, *ours.parameters()], grad)
    for a, b in zip(found, torch.autograd.grad(theirs(x), [x, *theirs.parameters()], grad), strict=True):
        close(a, b)


@pytest.mark.parametrize("num_rows", ROWS)
def test_a_transposed_weight_is_taken_as_it_is(num_rows: int) -> None:
    x, weight = torch.randn(num_rows, 160), torch.randn(160, 224)
    close(kernel.linear(x, weight.t(), None), x @ weight)


def test_a_rows_product_does_not_depend_on_how_many_rows_there_are() -> None:
    x, weight = torch.randn(70, 160), torch.randn(224, 160)
    assert torch.equal(kernel.linear(x, weight, None)[:40], kernel.linear(x[:40], weight, None))


def test_empty_batches_and_other_number_formats_are_left_to_torch() -> None:
    ours, theirs = twins(160, 224)
    assert ours(torch.randn(2, 0, 160)).shape == (2, 0, 224)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.randn(40, 160)
        assert ours(x).dtype == torch.bfloat16
        assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.double()(x.double()), theirs.double()(x.double()))


def test_a_traced_graph_takes_any_number_of_rows() -> None:
    ours, theirs = twins(160, 224)
    traced = torch.jit.trace(ours.eval(), torch.randn(40, 160))
    x = torch.randn(77, 160)
    assert torch.equal(traced(x), theirs(x))
