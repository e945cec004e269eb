"""The loss of the rows that matter equals that of all rows, and so do its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.kernels.rows import ROWS_AT_ONCE, loss_of_rows

NUM_ROWS = 2 * ROWS_AT_ONCE + 100


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def loss_of(results: Tensor) -> Tensor:
    """A loss to which few rows matter, as those of a transducer's lattice."""
    return results.square().sum(dim=1).mul(6.0).logsumexp(dim=0)


def test_value_and_gradients_equal_those_of_all_rows() -> None:
    x, weight = torch.randn(NUM_ROWS, 5, requires_grad=True), torch.randn(5, 2, requires_grad=True)
    computed: list[int] = []

    def compute(rows: Tensor) -> Tensor:
        computed.append(len(rows) if torch.is_grad_enabled() else 0)
        return x[rows].tanh() @ weight

    numbers = torch.arange(NUM_ROWS)
    found, expected = loss_of_rows(compute, loss_of, numbers), loss_of(x.tanh() @ weight)
    assert computed[:3] == [0, 0, 0] and 0 < sum(computed) < NUM_ROWS / 2, "few rows have a gradient"
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(3.0 * loss, [x, weight]) for loss in (found, expected))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(loss_of_rows(compute, loss_of, numbers), expected)


def test_what_is_not_a_number_is_not_left_out() -> None:
    x = torch.tensor([[1.0], [torch.nan]], requires_grad=True)
    loss = loss_of_rows(lambda rows: x[rows] * 2, torch.sum, torch.arange(2))
    assert loss.isnan()
    (gradient,) = torch.autograd.grad(loss_of_rows(lambda rows: x[rows].square(), torch.prod, torch.arange(2)), x)
    assert gradient.isnan().all()


def test_no_rows_have_a_loss_too() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    loss = loss_of_rows(lambda rows: x[rows], torch.sum, torch.arange(0))
    assert loss.item() == 0 and loss.requires_grad
