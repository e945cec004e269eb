from __future__ import annotations

import torch
from torch import Tensor

from shared_moe_conformer.model.router import Router, choose_experts


def test_a_balancing_bias_changes_the_choice_and_not_the_gates() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    routing = choose_experts(logits, 1, balancing_bias=torch.tensor([0.0, 1.5, 0.0]))
    assert routing.expert_ids.tolist() == [[1], [2]]
    torch.testing.assert_close(routing.gates, logits.softmax(-1).gather(1, routing.expert_ids))
    plain, unbiased = choose_experts(logits, 2), choose_experts(logits, 2, balancing_bias=torch.zeros(3))
    assert torch.equal(plain.expert_ids, unbiased.expert_ids) and torch.equal(plain.gates, unbiased.gates)


def test_balancing_evens_out_the_load_without_a_loss() -> None:
    """A router that prefers the first expert for nearly all frames, and never learns."""
    router = Router(6, 4, balancing_bias_rate=0.05)
    router.linear.weight.data[0] += 1
    x = torch.randn(400, 6) + 1

    def loads() -> Tensor:
        routing = choose_experts(router(x), 1, balancing_bias=router.balancing_bias)
        return torch.bincount(routing.expert_ids.flatten(), minlength=4).float()

    assert loads().max() > 300
    for _ in range(300):
        router.balance(loads())
    assert loads().max() < 130 and loads().min() > 70
    assert not router.balancing_bias.requires_grad  # type: ignore[union-attr]


def test_the_bias_rises_by_the_rate_for_experts_with_less_than_the_mean() -> None:
    router = Router(6, 4, balancing_bias_rate=0.25)
    router.balance(torch.tensor([10.0, 0.0, 4.0, 2.0]))
    assert router.balancing_bias.tolist() == [-0.25, 0.25, 0.0, 0.25]  # type: ignore[union-attr]
    router.eval().balance(torch.tensor([10.0, 0.0, 4.0, 2.0]))
    assert router.balancing_bias.tolist() == [-0.25, 0.25, 0.0, 0.25], "a frozen one"  # type: ignore[union-attr]
    assert "balancing_bias" in router.state_dict() and "balancing_bias" not in Router(6, 4).state_dict()


def test_jitter_is_for_training_only() -> None:
    router = Router(6, 4, jitter=0.5)
    x = torch.randn(9, 6)
    assert not torch.equal(router(x), router(x))
    router.eval()
    assert torch.equal(router(x), router(x))
