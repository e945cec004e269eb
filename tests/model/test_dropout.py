from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.model.dropout import Dropout, random_bytes


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.999])
def test_it_drops_the_share_it_says_and_keeps_the_mean(p: float) -> None:
    y = Dropout(p)(torch.ones(400, 500))
    share = min(max(round(p * 256), 1), 255) / 256
    assert abs((y == 0).float().mean().item() - share) < 5 * (share / y.numel()) ** 0.5
    torch.testing.assert_close(y.max().item(), 1 / (1 - share))
    assert abs(y.mean().item() - 1) < 5 * (share / (1 - share) / y.numel()) ** 0.5


def test_gradients_pass_where_the_output_did() -> None:
    x = torch.randn(30, 40, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, y)


def test_nothing_is_dropped_in_evaluation_or_at_zero() -> None:
    x = torch.randn(30, 40)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_bytes_are_uniform_and_repeat_with_the_seed() -> None:
    torch.manual_seed(0)
    draws = random_bytes(torch.Size([1000, 333]))
    counts = torch.bincount(draws.flatten().long(), minlength=256)
    expected = draws.numel() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 350  # chi-square with 255 degrees of freedom: p < 1e-4
    torch.manual_seed(0)
    assert torch.equal(random_bytes(torch.Size([1000, 333])), draws)
