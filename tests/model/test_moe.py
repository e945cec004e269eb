from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.model.feed_forward import FeedForward
from shared_moe_conformer.model.moe import (
    Experts,
    MoeFeedForward,
    Router,
    Routing,
    balanced_together,
    choose_experts,
    router_losses,
)

NO_PADDING = torch.zeros(2, 7, dtype=torch.bool)


def dense_copy(experts: Experts, e: int) -> FeedForward:
    """The feed-forward with expert e's weights."""
    dense = FeedForward(experts.hidden_weight.size(1), experts.hidden_weight.size(2))
    state = {
        "hidden.weight": experts.hidden_weight[e].T,
        "hidden.bias": experts.hidden_bias[e],
        "output.weight": experts.output_weight[e].T,
        "output.bias": experts.output_bias[e],
    }
    dense.load_state_dict(state)
    return dense


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_output_is_the_gated_sum_of_the_chosen_experts(top_k: int) -> None:
    """Against every expert computed densely for every frame."""
    experts = Experts(6, 10, num_experts=4)
    x = torch.randn(30, 6)
    routing = choose_experts(torch.randn(30, 4), top_k)
    all_outputs = torch.stack([dense_copy(experts, e)(x) for e in range(4)], dim=1)
    chosen = all_outputs.gather(1, routing.expert_ids.unsqueeze(-1).expand(-1, -1, 6))
    torch.testing.assert_close(experts(x, routing, torch.arange(30)), (chosen * routing.gates.unsqueeze(-1)).sum(dim=1))


def test_one_expert_is_the_feed_forward() -> None:
    moe = MoeFeedForward(6, 10, num_experts=1, top_k=1)
    x = torch.randn(2, 7, 6)
    y, losses = moe(x, NO_PADDING, Router(6, 1))
    torch.testing.assert_close(y, dense_copy(moe.experts, 0)(x))
    torch.testing.assert_close(losses.load_balancing_loss, torch.tensor(1.0))


def test_the_order_of_experts_changes_nothing() -> None:
    moe, router = MoeFeedForward(6, 10, num_experts=4, top_k=2), Router(6, 4)
    x = torch.randn(2, 7, 6)
    y, losses = moe(x, NO_PADDING, router)
    order = torch.tensor([2, 0, 3, 1])
    for parameter in (*moe.experts.parameters(), router.linear.weight):
        parameter.data = parameter.data[order]
    permuted, permuted_losses = moe(x, NO_PADDING, router)
    torch.testing.assert_close(permuted, y)
    torch.testing.assert_close(permuted_losses.load_balancing_loss, losses.load_balancing_loss)
    torch.testing.assert_close(permuted_losses.frames_per_expert, losses.frames_per_expert[order])


def test_padding_is_never_routed() -> None:
    moe, router = MoeFeedForward(6, 10, num_experts=4, top_k=1), Router(6, 4)
    x = torch.randn(2, 7, 6)
    padding_mask = torch.arange(7) >= torch.tensor([[7], [3]])
    y, losses = moe(x, padding_mask, router)
    assert losses.frames_per_expert.sum() == 10
    assert y[1, 3:].abs().max() == 0
    alone, _ = moe(x[1:, :3], NO_PADDING[:1, :3], router)
    torch.testing.assert_close(y[1:, :3], alone)


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_experts_of_each_frame_are_told(top_k: int) -> None:
    moe, router = MoeFeedForward(6, 10, num_experts=4, top_k=top_k), Router(6, 4)
    x = torch.randn(2, 7, 6)
    padding_mask = torch.arange(7) >= torch.tensor([[7], [3]])
    _, losses = moe(x, padding_mask, router)
    assert losses.expert_ids.shape == (2, 7, top_k)
    assert (losses.expert_ids[1, 3:] == -1).all()
    chosen = choose_experts(router(x[1, :3]), top_k).expert_ids
    assert losses.expert_ids[1, :3].tolist() == chosen.tolist()
    valid = losses.expert_ids[losses.expert_ids >= 0]
    assert torch.bincount(valid, minlength=4).tolist() == losses.frames_per_expert.tolist()


def test_a_batch_of_padding_alone_is_zero() -> None:
    moe = MoeFeedForward(6, 10, num_experts=4, top_k=2)
    y, losses = moe(torch.randn(2, 7, 6), ~NO_PADDING, Router(6, 4))
    assert y.abs().max() == 0
    assert losses.load_balancing_loss == 0 and losses.router_z_loss == 0


def test_an_expert_without_frames_has_a_zero_gradient() -> None:
    """So that data-parallel training needs no search for unused parameters."""
    experts = Experts(6, 10, num_experts=3)
    routing = Routing(torch.tensor([[0], [2], [0]]), torch.ones(3, 1))
    experts(torch.randn(3, 6), routing, torch.arange(3)).sum().backward()
    for parameter in experts.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].abs().max() == 0 and parameter.grad[0].abs().max() > 0


def test_the_router_learns_through_the_gate() -> None:
    moe, router = MoeFeedForward(6, 10, num_experts=4, top_k=1), Router(6, 4)
    moe(torch.randn(2, 7, 6), NO_PADDING, router)[0].square().sum().backward()
    assert router.linear.weight.grad is not None and router.linear.weight.grad.abs().max() > 0


@pytest.mark.parametrize(("logits", "expected"), [(torch.eye(4) * 9, 1.0), (torch.eye(4)[:1].expand(4, 4) * 99, 4.0)])
def test_load_balancing_loss_of_even_and_of_collapsed_routing(logits: Tensor, expected: float) -> None:
    losses = router_losses(logits, choose_experts(logits, 1).expert_ids)
    torch.testing.assert_close(losses.load_balancing_loss, torch.tensor(expected))


def test_routers_that_each_prefer_another_expert_are_balanced_together() -> None:
    logits = [torch.eye(2)[i].expand(3, 2) * 99 for i in (0, 1)]
    losses = [router_losses(each, choose_experts(each, 1).expert_ids) for each in logits]
    assert [loss.load_balancing_loss.item() for loss in losses] == [2.0, 2.0]
    assert [loss.load_balancing_loss.item() for loss in balanced_together(losses)] == [1.0, 1.0]
    assert [loss.load_balancing_loss.item() for loss in balanced_together(losses[:1] * 2)] == [2.0, 2.0]


def test_z_loss_is_the_mean_square_of_the_log_sum_exp() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    z = torch.tensor([2.0, 2 * torch.e]).log()
    losses = router_losses(logits, torch.zeros(2, 1, dtype=torch.int64))
    torch.testing.assert_close(losses.router_z_loss, z.square().mean())


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
    assert "balancing_bias" in router.state_dict() and "balancing_bias" not in Router(6, 4).state_dict()


def test_jitter_is_for_training_only() -> None:
    router = Router(6, 4, jitter=0.5)
    x = torch.randn(9, 6)
    assert not torch.equal(router(x), router(x))
    router.eval()
    assert torch.equal(router(x), router(x))


@pytest.mark.parametrize("num_experts", [1, 4, 8])
def test_multiply_adds_are_those_of_the_dense_feed_forward(num_experts: int) -> None:
    """However many experts there are; the router's come on top."""
    flop_counter = pytest.importorskip("torch.utils.flop_counter", reason="torch 2.1 counts operations")
    moe, router = MoeFeedForward(16, 64, num_experts=num_experts, top_k=1), Router(16, num_experts)
    dense, x = FeedForward(16, 64), torch.randn(2, 7, 16)
    with flop_counter.FlopCounterMode(display=False) as of_moe:
        moe(x, NO_PADDING, router)
    with flop_counter.FlopCounterMode(display=False) as of_dense:
        dense(x)
    routing = 2 * 14 * 16 * num_experts
    assert of_moe.get_total_flops() - routing == of_dense.get_total_flops() == 2 * 14 * 2 * 16 * 64
