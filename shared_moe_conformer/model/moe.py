"""Sparsely-gated experts: a router chooses for each frame which `top_k` of `num_experts` feed-forwards compute it.

Padding is never routed, no frame is dropped, and an utterance's result does not depend on its batch-mates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.config import EncoderConfig, RouterGates
from shared_moe_conformer.kernels.linear import linear
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.norms import as_wide_as


class Routing(NamedTuple):
    """Decisions of a router on M valid frames, utterance by utterance; or those of L routers, stacked."""

    router_logits: Tensor
    """(M, E) or (L, M, E), float32."""
    expert_ids: Tensor
    """The experts that compute each frame, the first choice first, (M, K) or (L, M, K), int64."""
    gates: Tensor
    """The weights of their outputs, (M, K) or (L, M, K), float32."""


class Router(nn.Module):
    """Linear map from a frame to one logit per expert, in float32."""

    balancing_bias: Tensor | None
    """Added to the logits for the choice alone, (E,); None: without."""

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
        """Make experts that had less than their share of an update's frames, (E,), likelier in the next.

        Source: Wang et al. 2024, Auxiliary-loss-free load balancing strategy for mixture-of-experts, algorithm 1
        (arXiv 2408.15664); there the biases are added to probabilities, here to logits.
        """
        if self.balancing_bias is not None and self.training:
            error = frames_per_expert.mean() - frames_per_expert
            self.balancing_bias += self.balancing_bias_rate * error.sign().to(self.balancing_bias)


def choose_experts(
    router_logits: Tensor,
    top_k: int,
    *,
    balancing_bias: Tensor | None = None,
    kind: RouterGates = "softmax",
    scale: float = 1.0,
) -> Routing:
    """The `top_k` most probable experts of each frame.

    With one expert its probability is the gate, which is how the router learns; several gates sum to 1, unless they are
    sigmoids, which do not compete.

    Source: Fedus et al. 2022, Switch Transformers, eq. 1-2 (arXiv 2101.03961) for k = 1;
    Lepikhin et al. 2020, GShard, algorithm 1 (arXiv 2006.16668) for the renormalised k = 2;
    Csordás et al. 2023, Approximating two-layer feedforward networks, section 5 (arXiv 2310.10837) for sigmoids.

    Args:
      router_logits: (M, E).
      top_k: K.
      balancing_bias: added to the logits for the choice, (E,); the gates are those without it.
      kind, scale: of the gates.
    """
    biased = router_logits if balancing_bias is None else router_logits + balancing_bias
    expert_ids = biased.topk(top_k, dim=-1).indices
    probs = router_logits.sigmoid() if kind == "sigmoid" else router_logits.softmax(dim=-1)
    gates = probs.gather(-1, expert_ids)
    if kind == "softmax" and top_k > 1:
        gates = gates / gates.sum(dim=-1, keepdim=True)
    return Routing(router_logits, expert_ids, scale * gates)


class Experts(nn.Module):
    """`num_experts` feed-forwards of equal shape as stacked tensors."""

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

    def forward(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Return (R, C), where expert 0 computes the first counts[0] of the rows (R, C), expert 1 the next, ..."""
        weights = (self.hidden_weight, self.hidden_bias, self.output_weight, self.output_bias)
        parts = zip(rows.split(counts), *(weight.unbind() for weight in weights))
        return torch.cat([linear(F.silu(linear(x, w1.t(), b1)), w2.t(), b2) for x, w1, b1, w2, b2 in parts])


class MoeFeedForward(nn.Module):
    """Feed-forward whose frames are each computed by `top_k` of `num_experts` experts.

    The experts belong to the group; each layer passes its own router. Outputs of experts may be normalised, before the
    gates: the router learns by these. A common expert may compute every frame besides.

    Source: Bai et al. 2022, abstract (arXiv 2209.08326); Fedus et al. 2022, Switch Transformers (arXiv 2101.03961);
    Dai et al. 2024, DeepSeekMoE, eq. 9 (arXiv 2401.06066) for the common expert.
    """

    def __init__(self, config: EncoderConfig, common_expert: nn.Module | None = None) -> None:
        super().__init__()
        self.num_experts, self.top_k = config.num_experts, config.top_k
        self.gates, self.gate_scale = config.router_gates, config.gate_scale
        self.experts = Experts(config.encoder_dim, config.expert_dim or config.feed_forward_dim, config.num_experts)
        self.norm = nn.LayerNorm(config.encoder_dim) if config.expert_norm else nn.Identity()
        self.common_expert = common_expert

    def choose(self, rows: Tensor, router: Router) -> Routing:
        """A router's decisions on frames (M, C)."""
        bias = router.balancing_bias
        return choose_experts(router(rows), self.top_k, balancing_bias=bias, kind=self.gates, scale=self.gate_scale)

    def forward(self, x: Tensor, frames: Frames, router: Router) -> tuple[Tensor, Routing]:
        """Return frames (N, T, C), whose values at padding have no meaning, and the router's decisions.

        Args:
          x: frames, (N, T, C).
          frames: the batch's frames; padding is never routed.
          router: the calling layer's router.
        """
        rows = frames.pack(x)
        routing = self.choose(rows, router)
        expert_ids = routing.expert_ids.flatten()
        by_expert = expert_ids.argsort(stable=True)  # places in (M * K,), expert by expert
        counts = torch.bincount(expert_ids, minlength=self.num_experts).tolist()
        index = by_expert // self.top_k  # the frame of each row
        out = self.norm(self.experts(rows.index_select(0, index), counts))
        gated = out * routing.gates.flatten()[by_expert].unsqueeze(1)  # float32 under autocast, too
        routed = frames.unpack(as_wide_as(x, gated.new_zeros(rows.shape).index_add_(0, index, gated)))
        return routed if self.common_expert is None else routed + self.common_expert(x), routing


class ExpertUsage(NamedTuple):
    """The use of experts by L routers on a batch."""

    frames: Tensor
    """Frames that each expert computed, (L, E), without gradient."""
    mean_probs: Tensor
    """Mean probability of each expert, (L, E)."""


def expert_usage(routing: Routing) -> ExpertUsage:
    """The use of experts by L routers, whose decisions are stacked."""
    num_routers, num_frames, num_experts = routing.router_logits.shape
    frames = count_frames(routing.expert_ids, num_experts)
    mean_probs = routing.router_logits.softmax(dim=-1).sum(dim=1) / max(num_frames, 1)
    return ExpertUsage(frames.to(mean_probs.dtype), mean_probs)


def count_frames(expert_ids: Tensor, num_experts: int) -> Tensor:
    """Frames that each expert computed, (L, E), by the experts of each frame, (L, M, K)."""
    num_routers = len(expert_ids)
    first = torch.arange(num_routers, device=expert_ids.device).mul(num_experts).view(-1, 1, 1)
    return torch.bincount((expert_ids + first).flatten(), minlength=num_routers * num_experts).view(num_routers, -1)


def load_balancing_loss(usage: ExpertUsage) -> Tensor:
    """1 when frames and probabilities are spread evenly, E when one expert gets all, 0 without frames; (L,).

    Source: Fedus et al. 2022, Switch Transformers, eq. 4-6 (arXiv 2101.03961).
    """
    shares = usage.frames / usage.frames.sum(dim=1, keepdim=True).clamp(min=1)
    return usage.frames.size(1) * (shares * usage.mean_probs).sum(dim=1)


def router_z_loss(router_logits: Tensor) -> Tensor:
    """Mean square of the log-sum-exp of each frame's logits (L, M, E), (L,); 0 without frames.

    Source: Zoph et al. 2022, ST-MoE, eq. 5 (arXiv 2202.08906).
    """
    return router_logits.logsumexp(dim=-1).square().sum(dim=1) / max(router_logits.size(1), 1)
