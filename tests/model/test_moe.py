from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared_moe_conformer.model.conformer import FeedForward
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.moe import (
    Experts,
    ExpertUsage,
    MoeFeedForward,
    Router,
    Routing,
    choose_experts,
    count_frames,
    expert_usage,
    load_balancing_loss,
    router_z_loss,
)
from tests.experts import make_moe

NO_PADDING = Frames(torch.tensor([7, 7]), 7, head_dim=2)


def routed(moe: MoeFeedForward, x: Tensor, routing: Routing) -> Tensor:
    """The output for frames (M, C) that a router sends where `routing` says."""

    class Decided(nn.Module):
        balancing_bias = None

        def forward(self, x: Tensor) -> Tensor:
            return routing.router_logits

    return moe(x[None], Frames(torch.tensor([len(x)]), len(x), head_dim=2), Decided())[0][0]  # type: ignore[arg-type]


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
    moe = make_moe(6, 10, num_experts=4, top_k=top_k)
    x = torch.randn(30, 6)
    routing = choose_experts(torch.randn(30, 4), top_k)
    all_outputs = torch.stack([dense_copy(moe.experts, e)(x) for e in range(4)], dim=1)
    chosen = all_outputs.gather(1, routing.expert_ids.unsqueeze(-1).expand(-1, -1, 6))
    torch.testing.assert_close(routed(moe, x, routing), (chosen * routing.gates.unsqueeze(-1)).sum(dim=1))


def test_one_expert_is_the_feed_forward() -> None:
    moe = make_moe(6, 10, num_experts=1, top_k=1)
    x = torch.randn(2, 7, 6)
    y, _ = moe(x, NO_PADDING, Router(6, 1))
    torch.testing.assert_close(y, dense_copy(moe.experts, 0)(x))


def test_the_order_of_experts_changes_nothing() -> None:
    moe, router = make_moe(6, 10, num_experts=4, top_k=2), Router(6, 4)
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
    moe, router = make_moe(6, 10, num_experts=4, top_k=top_k), Router(6, 4)
    x = torch.randn(2, 7, 6)
    y, routing = moe(x, Frames(torch.tensor([7, 3]), 7, head_dim=2), router)
    assert y[1, 3:].abs().max() == 0
    alone, alone_routing = moe(x[1:, :3], Frames(torch.tensor([3]), 3, head_dim=2), router)
    torch.testing.assert_close(y[1:, :3], alone)
    assert routing.expert_ids.shape == routing.gates.shape == (10, top_k)
    assert torch.equal(routing.expert_ids[7:], alone_routing.expert_ids)


def test_a_batch_of_padding_alone_is_zero() -> None:
    moe = make_moe(6, 10, num_experts=4, top_k=2)
    y, routing = moe(torch.randn(2, 7, 6), Frames(torch.tensor([0, 0]), 7, head_dim=2), Router(6, 4))
    assert y.abs().max() == 0
    assert routing.expert_ids.shape == (0, 2)


def test_an_expert_without_frames_has_a_zero_gradient() -> None:
    """So that data-parallel training needs no search for unused parameters."""
    experts = Experts(6, 10, num_experts=3)
    experts(torch.randn(3, 6), [2, 0, 1]).sum().backward()
    for parameter in experts.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].abs().max() == 0 and parameter.grad[0].abs().max() > 0


def test_the_router_learns_through_the_gate() -> None:
    moe, router = make_moe(6, 10, num_experts=4, top_k=1), Router(6, 4)
    moe(torch.randn(2, 7, 6), NO_PADDING, router)[0].square().sum().backward()
    assert router.linear.weight.grad is not None and router.linear.weight.grad.abs().max() > 0


def test_sigmoid_gates_are_each_experts_own_and_gates_are_scaled() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    routing = choose_experts(logits, 2, kind="sigmoid", scale=0.5)
    assert routing.expert_ids.tolist() == [[0, 1], [2, 1]]
    torch.testing.assert_close(routing.gates, 0.5 * torch.tensor([[2.0, 1.0], [3.0, 1.0]]).sigmoid())
    assert choose_experts(torch.zeros(1, 4), 1, scale=4).gates.item() == 1, "E * gate begins as a dense layer"


def test_narrow_experts_that_are_all_active_are_one_wide_feed_forward() -> None:
    """With gates of 1: the channels of all experts side by side."""
    narrow = make_moe(6, 24, expert_dim=3, num_experts=4, top_k=4, router_gates="sigmoid", gate_scale=2.0)
    wide, router, x = FeedForward(6, 12), Router(6, 4), torch.randn(2, 7, 6)
    nn.init.zeros_(router.linear.weight)
    experts = narrow.experts
    state = {
        "hidden.weight": experts.hidden_weight.transpose(1, 2).flatten(0, 1),
        "hidden.bias": experts.hidden_bias.flatten(),
        "output.weight": experts.output_weight.flatten(0, 1).T,
        "output.bias": experts.output_bias.sum(dim=0),
    }
    wide.load_state_dict(state)
    torch.testing.assert_close(narrow(x, NO_PADDING, router)[0], wide(x))


def test_experts_are_normalised_before_their_gates_and_the_common_expert_comes_on_top() -> None:
    """Normalised after its gate, one expert's output would no longer depend on it, and no router would learn."""
    plain, more, x = make_moe(6, 10), make_moe(6, 10, expert_norm=True, common_expert_dim=7), torch.randn(2, 7, 6)
    more.load_state_dict(plain.state_dict(), strict=False)
    router = Router(6, 8)
    (routed, routing), (found, found_routing) = (moe(x, NO_PADDING, router) for moe in (plain, more))
    gates = routing.gates.view(2, 7, 1)
    assert more.common_expert is not None
    expected = gates * nn.functional.layer_norm(routed / gates, (6,)) + more.common_expert(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all(map(torch.equal, found_routing, routing))
    found.square().sum().backward()
    assert router.linear.weight.grad is not None and router.linear.weight.grad.abs().max() > 0
    assert [name.split(".")[0] for name in plain.state_dict()] == ["experts"] * 4, "nothing else by default"


@pytest.mark.parametrize("num_experts", [1, 4, 8])
def test_multiply_adds_are_those_of_the_dense_feed_forward(num_experts: int) -> None:
    """However many experts there are; the router's come on top."""
    flop_counter = pytest.importorskip("torch.utils.flop_counter", reason="torch 2.1 counts operations")
    moe, router = make_moe(16, 64, num_experts=num_experts, top_k=1), Router(16, num_experts)
    dense, x = FeedForward(16, 64), torch.randn(2, 7, 16)
    with flop_counter.FlopCounterMode(display=False) as of_moe:
        moe(x, NO_PADDING, router)
    with flop_counter.FlopCounterMode(display=False) as of_dense:
        dense(x)
    routing = 2 * 14 * 16 * num_experts
    assert of_moe.get_total_flops() - routing == of_dense.get_total_flops() == 2 * 14 * 2 * 16 * 64


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


def stacked(*router_logits: Tensor, top_k: int = 1) -> Routing:
    """What routers with these logits, each (M, E), decide."""
    return Routing(*map(torch.stack, zip(*(choose_experts(each, top_k) for each in router_logits))))


@pytest.mark.parametrize(("logits", "expected"), [(torch.eye(4) * 9, 1.0), (torch.eye(4)[:1].expand(4, 4) * 99, 4.0)])
def test_load_balancing_loss_of_even_and_of_collapsed_routing(logits: Tensor, expected: float) -> None:
    torch.testing.assert_close(load_balancing_loss(expert_usage(stacked(logits))), torch.tensor([expected]))


def test_routers_that_each_prefer_another_expert_use_all_of_them_together() -> None:
    logits = [torch.eye(2)[i].expand(3, 2) * 99 for i in (0, 1)]
    usage = expert_usage(stacked(*logits))
    assert load_balancing_loss(usage).tolist() == [2.0, 2.0]
    together = ExpertUsage(*(rows.mean(dim=0, keepdim=True) for rows in usage))
    assert load_balancing_loss(together).tolist() == [1.0]


def test_z_loss_is_the_mean_square_of_the_log_sum_exp() -> None:
    z = torch.tensor([2.0, 2 * torch.e]).log()
    loss = router_z_loss(torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]))
    torch.testing.assert_close(loss, z.square().mean().unsqueeze(0))


@pytest.mark.parametrize("top_k", [1, 2])
def test_routers_together_lose_what_each_loses_alone(top_k: int) -> None:
    logits = torch.randn(3, 20, 4).mul_(3)
    together = expert_usage(stacked(*logits, top_k=top_k))
    alone = [expert_usage(stacked(each, top_k=top_k)) for each in logits]
    torch.testing.assert_close(together, ExpertUsage(*map(torch.cat, zip(*alone))))
    torch.testing.assert_close(router_z_loss(logits), torch.cat([router_z_loss(each[None]) for each in logits]))


def test_without_frames_there_is_no_loss() -> None:
    routing = stacked(torch.zeros(0, 4))
    assert load_balancing_loss(expert_usage(routing)).tolist() == router_z_loss(routing.router_logits).tolist() == [0.0]


@pytest.mark.parametrize("options", [{"experts_in": "both", "loudness_norm": True}, {"common_expert_dim": 8}])
def test_an_encoder_that_was_converted_to_bfloat16_computes_in_it(encoder_config: Any, options: dict[str, Any]) -> None:
    """As `from_pretrained(..., dtype=torch.bfloat16)` of transformers converts it."""
    encoder = Encoder(encoder_config(**options), num_mel_bins=20).eval()
    x, x_lens = torch.randn(2, 60, 20), torch.tensor([60, 31])
    expected = encoder(x, x_lens).encoder_out
    found = encoder.bfloat16()(x.bfloat16(), x_lens).encoder_out
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().mean() < 0.05, "a frame near a tie may go to another expert"


def test_gates_and_the_sum_of_experts_are_float32_under_autocast() -> None:
    """Against the same in float32: only the products of experts are rounded, not their weighted sum."""
    moe, router = make_moe(8, 16, num_experts=3, top_k=2), Router(8, 3)
    x = torch.randn(2, 7, 8)
    expected, _ = moe(x, NO_PADDING, router)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, routing = moe(x, NO_PADDING, router)
    assert found.dtype == routing.gates.dtype == routing.router_logits.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_frames_are_counted_for_each_router_and_each_of_its_choices() -> None:
    expert_ids = torch.tensor([[[0, 2], [2, 1]], [[1, 0], [1, 2]]])
    assert count_frames(expert_ids, 3).tolist() == [[1, 1, 2], [1, 2, 1]]
