"""Sparsely-gated experts: a router chooses for each frame which `top_k` of `num_experts` feed-forwards compute it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from shared_moe_conformer.model.expert_products import ExpertWeights, gated_experts
from shared_moe_conformer.model.packing import valid_indexes
from shared_moe_conformer.model.router import Router, Routing, choose_experts


class Experts(nn.Module):
    """`num_experts` feed-forwards of equal shape as stacked tensors.

    Frames are sorted by expert, so that each expert computes one contiguous slice and nothing is padded or dropped.
    """

    def __init__(self, encoder_dim: int, feed_forward_dim: int, num_experts: int) -> None:
        super().__init__()
        self.hidden_weight = nn.Parameter(torch.empty(num_experts, encoder_dim, feed_forward_dim))
        self.hidden_bias = nn.Parameter(torch.empty(num_experts, feed_forward_dim))
        self.output_weight = nn.Parameter(torch.empty(num_experts, feed_forward_dim, encoder_dim))
        self.output_bias = nn.Parameter(torch.empty(num_experts, encoder_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise each expert as `nn.Linear` initialises itself: uniform within 1 / sqrt(fan_in)."""
        for weight, bias in ((self.hidden_weight, self.hidden_bias), (self.output_weight, self.output_bias)):
            bound = 1 / math.sqrt(weight.size(1))
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor, routing: Routing, valid: Tensor) -> Tensor:
        """Return the gated sum of the outputs of each frame's experts, 0 for frames that are not routed, (M', C).

        Args:
          x: frames, (M', C).
          routing: experts and gates of those that are routed, (M, K).
          valid: which frames these are, (M,).
        """
        expert_ids, top_k = routing.expert_ids.flatten(), routing.expert_ids.size(1)
        order = expert_ids.argsort(stable=True)
        counts = torch.bincount(expert_ids, minlength=len(self.hidden_weight))
        slots = valid.index_select(0, order // top_k) * top_k + order % top_k
        gates = routing.gates.flatten().index_select(0, order)
        return gated_experts(x, slots, gates, counts, self.weights(), top_k=top_k)

    def weights(self) -> ExpertWeights:
        """The stacked weights."""
        return ExpertWeights(self.hidden_weight, self.hidden_bias, self.output_weight, self.output_bias)


class MoeFeedForward(nn.Module):
    """Feed-forward whose frames are each computed by `top_k` of `num_experts` experts.

    The experts belong to the group; each layer passes its own router.

    Source: Bai et al. 2022, abstract (arXiv 2209.08326); Fedus et al. 2022, Switch Transformers (arXiv 2101.03961).
    """

    def __init__(self, encoder_dim: int, feed_forward_dim: int, *, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.experts = Experts(encoder_dim, feed_forward_dim, num_experts)

    def forward(self, x: Tensor, padding_mask: Tensor, router: Router) -> tuple[Tensor, Routing]:
        """Return the experts' output (N, T, C), 0 at padding, and what the router decided on valid frames.

        Args:
          x: frames, (N, T, C).
          padding_mask: True where a frame is padding, (N, T); padding is never routed.
          router: the calling layer's router.
        """
        frames, valid = x.flatten(0, 1), valid_indexes(padding_mask)
        router_logits = router(frames).index_select(0, valid)
        routing = choose_experts(router_logits, self.top_k, balancing_bias=router.balancing_bias)
        return self.experts(frames, routing, valid).view_as(x), routing
