"""Routers: which `top_k` of `num_experts` experts compute each frame, and with what weight."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Routing(NamedTuple):
    """What a router decided on M valid frames, utterance by utterance; or what L routers did, stacked."""

    router_logits: Tensor
    """(M, E) or (L, M, E)."""
    expert_ids: Tensor
    """The experts that compute each frame, the first choice first, (M, K) or (L, M, K), int64."""
    gates: Tensor
    """The weights of their outputs, (M, K) or (L, M, K)."""


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
    probs = router_logits.t().contiguous().softmax(dim=0)  # (E, M): 8 times as fast as along short rows
    if balancing_bias is not None:
        expert_ids = (router_logits + balancing_bias).topk(top_k, dim=-1).indices
        gates = probs.t().gather(-1, expert_ids)
    elif top_k == 1:
        gates, expert_ids = (found.unsqueeze(1) for found in probs.max(dim=0))
    else:
        gates, expert_ids = probs.t().topk(top_k, dim=-1)
    if top_k > 1:
        gates = gates / gates.sum(dim=-1, keepdim=True)
    return Routing(router_logits, expert_ids, gates)
