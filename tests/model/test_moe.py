from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.model.feed_forward import FeedForward
from shared_moe_conformer.model.moe import Experts, MoeFeedForward
from shared_moe_conformer.model.router import Router, Routing, choose_experts

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
    y, _ = moe(x, NO_PADDING, Router(6, 1))
    torch.testing.assert_close(y, dense_copy(moe.experts, 0)(x))


def test_the_order_of_experts_changes_nothing() -> None:
    moe, router = MoeFeedForward(6, 10, num_experts=4, top_k=2), Router(6, 4)
    x = torch.randn(2, 7, 6)
    y, routing = moe(x, NO_PADDING, router)
    order = torch.tensor([2, 0, 3, 1])
    for parameter in (*moe.experts.parameters(), router.linear.weight):
        parameter.data = parameter.data[order]
    permuted, permuted_routing = moe(x, NO_PADDING, router)
    torch.testing.assert_close(permuted, y)
    assert torch.equal(order[permuted_routing.expert_ids], routing.expert_ids)


@pytest.mark.parametrize("top_k", [1, 2])
def test_padding_is_never_routed(top_k: int) -> None:
    moe, router = MoeFeedForward(6, 10, num_experts=4, top_k=top_k), Router(6, 4)
    x = torch.randn(2, 7, 6)
    padding_mask = torch.arange(7) >= torch.tensor([[7], [3]])
    y, routing = moe(x, padding_mask, router)
    assert y[1, 3:].abs().max() == 0
    alone, alone_routing = moe(x[1:, :3], NO_PADDING[:1, :3], router)
    torch.testing.assert_close(y[1:, :3], alone)
    assert routing.expert_ids.shape == routing.gates.shape == (10, top_k)
    assert torch.equal(routing.expert_ids[7:], alone_routing.expert_ids)


def test_a_batch_of_padding_alone_is_zero() -> None:
    moe = MoeFeedForward(6, 10, num_experts=4, top_k=2)
    y, routing = moe(torch.randn(2, 7, 6), ~NO_PADDING, Router(6, 4))
    assert y.abs().max() == 0
    assert routing.expert_ids.shape == (0, 2)


def test_an_expert_without_frames_has_a_zero_gradient() -> None:
    """So that data-parallel training needs no search for unused parameters."""
    experts = Experts(6, 10, num_experts=3)
    routing = Routing(torch.randn(3, 3), torch.tensor([[0], [2], [0]]), torch.ones(3, 1))
    experts(torch.randn(3, 6), routing, torch.arange(3)).sum().backward()
    for parameter in experts.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].abs().max() == 0 and parameter.grad[0].abs().max() > 0


def test_the_router_learns_through_the_gate() -> None:
    moe, router = MoeFeedForward(6, 10, num_experts=4, top_k=1), Router(6, 4)
    moe(torch.randn(2, 7, 6), NO_PADDING, router)[0].square().sum().backward()
    assert router.linear.weight.grad is not None and router.linear.weight.grad.abs().max() > 0


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
