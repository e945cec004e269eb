"""The faster products equal torch's own, with their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.products import (
    FEWEST_ROWS,
    PIECE,
    Linear,
    feed_forward,
    has_onednn,
    outer,
    pieces_of,
    product,
)

ROWS = [1, FEWEST_ROWS - 1, FEWEST_ROWS, 50, PIECE, PIECE + 1, 2 * PIECE + 140]
needs_onednn = pytest.mark.skipif(not has_onednn(), reason="no AVX-512, or a torch without oneDNN's products")


@pytest.fixture(autouse=True)
def seed() -> None:
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
def test_feed_forward_in_pieces_equals_one_product_after_the_other(num_rows: int) -> None:
    hidden, output = nn.Linear(160, 224), nn.Linear(224, 160)
    x = torch.randn(num_rows, 160)
    with torch.no_grad():
        close(feed_forward(x, hidden, output), output(F.silu(hidden(x))))


def test_feed_forward_takes_frames_in_any_order_of_memory() -> None:
    hidden, output = nn.Linear(160, 224), nn.Linear(224, 160)
    x = torch.randn(9, 5, 160).transpose(0, 1)
    with torch.no_grad():
        close(feed_forward(x, hidden, output), output(F.silu(hidden(x))))


@pytest.mark.parametrize("num_rows", ROWS)
def test_product_takes_transposed_weights_and_outer_sums_over_rows(num_rows: int) -> None:
    x, y, weight = torch.randn(num_rows, 160), torch.randn(num_rows, 224), torch.randn(160, 224)
    close(product(x, weight.t()), x @ weight)
    close(outer(x, y), x.t() @ y)


@pytest.mark.parametrize("num_rows", [0, 1, PIECE, PIECE * 3 // 2, PIECE * 3 // 2 + 1, 5 * PIECE + 7])
def test_pieces_are_alike(num_rows: int) -> None:
    pieces = pieces_of(num_rows)
    assert sum(pieces) == num_rows
    assert set(pieces[:-1]) <= {PIECE}
    assert len(pieces) == 1 or PIECE / 2 < pieces[-1] <= PIECE * 3 / 2


@needs_onednn
def test_a_rows_product_does_not_depend_on_how_many_rows_there_are() -> None:
    x, weight = torch.randn(70, 160), torch.randn(224, 160)
    assert torch.equal(product(x, weight)[:40], product(x[:40], weight))


@needs_onednn
def test_empty_batches_and_other_number_formats_are_left_to_torch() -> None:
    ours, theirs = twins(160, 224)
    assert ours(torch.randn(2, 0, 160)).shape == (2, 0, 224)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.randn(40, 160)
        assert ours(x).dtype == torch.bfloat16
        assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.double()(x.double()), theirs.double()(x.double()))


@needs_onednn
def test_a_traced_graph_takes_any_number_of_rows() -> None:
    ours, theirs = twins(160, 224)
    traced = torch.jit.trace(ours.eval(), torch.randn(40, 160))
    x = torch.randn(77, 160)
    assert torch.equal(traced(x), theirs(x))
