"""Sparsely-gated experts: routers choose for each frame which `top_k` of `num_experts` feed-forwards compute it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.model.expert_products import ExpertWeights, gated_experts
from shared_moe_conformer.model.packing import valid_indexes


class RouterLosses(NamedTuple):
    """What one router decided on a batch, and what that costs; or those of L routers stacked.

    Source: load balancing: Fedus et al. 2022, Switch Transformers, eq. 4-6 (arXiv 2101.03961);
    z loss: Zoph et al. 2022, ST-MoE, eq. 5 (arXiv 2202.08906).
    """

    load_balancing_loss: Tensor
    """() or (L,); 1 when frames and probabilities are spread evenly, E when one expert gets all."""
    router_z_loss: Tensor
    """() or (L,); mean square of the logits' log-sum-exp."""
    frames_per_expert: Tensor
    """(E,) or (L, E); frames that each expert computed, without gradient."""
    mean_probs: Tensor
    """(E,) or (L, E); each expert's probability, averaged over frames."""
    expert_ids: Tensor
    """(N, T, K) or (L, N, T, K); the experts that computed each frame, -1 at padding; (M, K) of valid frames alone."""


class Routing(NamedTuple):
    """Which experts compute each frame, and with what weight."""

    expert_ids: Tensor
    """(M, K), int64."""
    gates: Tensor
    """(M, K)."""


class Router(nn.Module):
    """Linear map from a frame to one logit per expert, in float32."""

    balancing_bias: Tensor | None
    """(E,), for `choose_experts`; None: without."""

    def __init__(
        self, encoder_dim: int, num_experts: int, *, jitter: float = 0.0, balancing_bias_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.jitter = jitter
        self.balancing_bias_rate = balancing_bias_rate
        self.linear = nn.Linear(encoder_dim, num_experts, bias=False)
        self.register_buffer("balancing_bias", torch.zeros(num_experts) if balancing_bias_rate else None)

    def forward(self, x: Tensor) -> Tensor:
        """Return router_logits (M, E), float32, of frames (M, C)."""
        x = x.float()
        if self.training and self.jitter > 0:
            x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, self.linear.weight.float())

    @torch.no_grad()
    def balance(self, frames_per_expert: Tensor) -> None:
        """Make experts with less than their share of an update's frames likelier in the next, and the others less so.

        Source: Wang et al. 2024, Auxiliary-loss-free load balancing strategy for mixture-of-experts, algorithm 1
        (arXiv 2408.15664); there the biases are added to probabilities, here to logits.

        Args:
          frames_per_expert: (E,), of the whole update.
        """
        if self.balancing_bias is not None and self.training:
            error = frames_per_expert.mean() - frames_per_expert
            self.balancing_bias += self.balancing_bias_rate * error.sign().to(self.balancing_bias)


def choose_experts(router_logits: Tensor, top_k: int, *, balancing_bias: Tensor | None = None) -> Routing:
    """The `top_k` most probable experts of each frame.

    With one expert its probability is the gate, which is how the router learns; with several the gates sum to 1.

    Source: Fedus et al. 2022, Switch Transformers, eq. 1-2 (arXiv 2101.03961) for k = 1;
    Lepikhin et al. 2020, GShard, algorithm 1 (arXiv 2006.16668) for the renormalised k = 2.

    Args:
      router_logits: (M, E).
      top_k: K.
      balancing_bias: added to the logits for the choice, (E,); the gates are those without it.
    """
    probs = router_logits.t().contiguous().softmax(dim=0).t()  # 8 times as fast as along short rows
    if balancing_bias is None:
        gates, expert_ids = probs.max(dim=-1, keepdim=True) if top_k == 1 else probs.topk(top_k, dim=-1)
    else:
        expert_ids = (router_logits + balancing_bias).topk(top_k, dim=-1).indices
        gates = probs.gather(-1, expert_ids)
    if top_k > 1:
        gates = gates / gates.sum(dim=-1, keepdim=True)
    return Routing(expert_ids, gates)


def router_losses(router_logits: Tensor, expert_ids: Tensor) -> RouterLosses:
    """The losses of one router over the valid frames of a batch; 0 when there is none.

    Args:
      router_logits: (M, E).
      expert_ids: (M, K).
    """
    num_frames, num_experts = router_logits.shape
    frames_per_expert = torch.bincount(expert_ids.flatten(), minlength=num_experts).to(router_logits.dtype)
    by_expert = router_logits.t().contiguous()
    log_probs = by_expert.log_softmax(dim=0)
    log_sum = by_expert[0] - log_probs[0]
    mean_probs = log_probs.exp().sum(dim=1) / max(num_frames, 1)
    z_loss = log_sum.dot(log_sum) / max(num_frames, 1)
    balancing = load_balancing_loss(frames_per_expert, mean_probs)
    return RouterLosses(balancing, z_loss, frames_per_expert, mean_probs, expert_ids)


def load_balancing_loss(frames_per_expert: Tensor, mean_probs: Tensor) -> Tensor:
    """1 where frames and probabilities (E,) are spread evenly, E where one expert gets all, 0 without frames."""
    share = frames_per_expert / frames_per_expert.sum().clamp(min=1)
    return len(share) * (share * mean_probs).sum()


def balanced_together(losses: list[RouterLosses]) -> list[RouterLosses]:
    """The losses of routers that choose among the same experts, each with the load-balancing loss of all together."""
    frames = torch.stack([loss.frames_per_expert for loss in losses]).sum(dim=0)
    probs = torch.stack([loss.mean_probs for loss in losses]).mean(dim=0)
    together = load_balancing_loss(frames, probs)
    return [loss._replace(load_balancing_loss=together) for loss in losses]


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
        expert_ids = routing.expert_ids.flatten()
        order = expert_ids.argsort(stable=True)
        counts = torch.bincount(expert_ids, minlength=len(self.hidden_weight))
        index = valid.index_select(0, order // routing.expert_ids.size(1))
        return gated_experts(x, index, routing.gates.flatten().index_select(0, order), counts, self.weights())

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

    def forward(self, x: Tensor, padding_mask: Tensor, router: Router) -> tuple[Tensor, RouterLosses]:
        """Return the experts' output (N, T, C), 0 at padding, and the router's losses over valid frames.

        Args:
          x: frames, (N, T, C).
          padding_mask: True where a frame is padding, (N, T); padding is never routed.
          router: the calling layer's router.
        """
        frames, valid = x.flatten(0, 1), valid_indexes(padding_mask)
        router_logits = router(frames).index_select(0, valid)
        routing = choose_experts(router_logits, self.top_k, balancing_bias=router.balancing_bias)
        out = self.experts(frames, routing, valid).view_as(x)
        expert_ids = _in_places(routing.expert_ids, valid, len(frames)).view(*padding_mask.shape, -1)
        return out, router_losses(router_logits, routing.expert_ids)._replace(expert_ids=expert_ids)


def _in_places(expert_ids: Tensor, valid: Tensor, num_frames: int) -> Tensor:
    """expert_ids (M, K) of valid frames among all, -1 for the others, (M', K)."""
    nothing = expert_ids.new_full((num_frames, expert_ids.size(1)), -1)
    return nothing.scatter(0, valid.unsqueeze(1).expand_as(expert_ids), expert_ids)
