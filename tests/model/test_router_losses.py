from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.model.router import Routing, choose_experts
from shared_moe_conformer.model.router_losses import RouterLosses, count_frames, router_losses


def stacked(*router_logits: Tensor, top_k: int = 1) -> Routing:
    """What routers with these logits, each (M, E), decide."""
    return Routing(*map(torch.stack, zip(*(choose_experts(each, top_k) for each in router_logits))))


@pytest.mark.parametrize(("logits", "expected"), [(torch.eye(4) * 9, 1.0), (torch.eye(4)[:1].expand(4, 4) * 99, 4.0)])
def test_load_balancing_loss_of_even_and_of_collapsed_routing(logits: Tensor, expected: float) -> None:
    torch.testing.assert_close(router_losses(stacked(logits)).load_balancing_loss, torch.tensor([expected]))


def test_routers_that_each_prefer_another_expert_can_be_balanced_together() -> None:
    logits = [torch.eye(2)[i].expand(3, 2) * 99 for i in (0, 1)]

    def loss(*of: Tensor, together: bool) -> list[float]:
        means = {"balanced": lambda rows: rows.mean(dim=0).repeat(2, 1)} if together else {}
        return router_losses(stacked(*of), **means).load_balancing_loss.tolist()

    assert loss(*logits, together=False) == [2.0, 2.0]
    assert loss(*logits, together=True) == [1.0, 1.0]
    assert loss(logits[0], logits[0], together=True) == [2.0, 2.0]


def test_z_loss_is_the_mean_square_of_the_log_sum_exp() -> None:
    z = torch.tensor([2.0, 2 * torch.e]).log()
    losses = router_losses(stacked(torch.tensor([[0.0, 0.0], [1.0, 1.0]])))
    torch.testing.assert_close(losses.router_z_loss, z.square().mean().unsqueeze(0))


@pytest.mark.parametrize("top_k", [1, 2])
def test_routers_together_lose_what_each_loses_alone(top_k: int) -> None:
    logits = torch.randn(3, 20, 4).mul_(3).requires_grad_()
    weights = torch.rand(2, 3)

    def gradient(losses: list[RouterLosses]) -> Tensor:
        rows = (torch.cat(parts) for parts in list(zip(*losses))[:2])
        return torch.autograd.grad((torch.stack(list(rows)) * weights).sum(), logits)[0]

    together = router_losses(stacked(*logits, top_k=top_k))
    alone = [router_losses(stacked(each, top_k=top_k)) for each in logits]
    for name in RouterLosses._fields:
        torch.testing.assert_close(getattr(together, name), torch.cat([getattr(loss, name) for loss in alone]))
    torch.testing.assert_close(gradient([together]), gradient(alone))


def test_without_frames_there_is_no_loss() -> None:
    losses = router_losses(stacked(torch.zeros(0, 4)))
    assert losses.load_balancing_loss.tolist() == losses.router_z_loss.tolist() == [0.0]


def test_frames_are_counted_for_each_router_and_each_of_its_choices() -> None:
    expert_ids = torch.tensor([[[0, 2], [2, 1]], [[1, 0], [1, 2]]])
    assert count_frames(expert_ids, 3).tolist() == [[1, 1, 2], [1, 2, 1]]
