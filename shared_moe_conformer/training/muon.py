"""Muon: all directions of a matrix's momentum weigh alike in its update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
NUM_ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5: singular values from 0.01 to 1 come between 0.7 and 1.2 in five iterations."""
SIZE_OF_ADAMW_UPDATES = 0.2
"""Root mean square of an update's entries, as a share of the learning rate, as AdamW's usually have it."""


class MuonAdamW(torch.optim.AdamW):
    """Muon for groups with `"muon": True`, whose parameters are matrices or stacks of them; AdamW for the others.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; size of the updates and weight
    decay: Liu et al. 2025, Muon is scalable for LLM training, eq. 4 (arXiv 2502.16982).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters that have a gradient."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            for parameter in group["params"] if group["muon"] else ():
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["weight_decay"])
        return loss

    def _update(self, parameter: Tensor, grad: Tensor, learning_rate: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(parameter))  # AdamW reads each state's step
        state["step"] += 1
        momentum = state["momentum"].lerp_(grad, 1 - MOMENTUM)
        direction = orthogonalised(grad.lerp(momentum, MOMENTUM))  # Nesterov's
        size = SIZE_OF_ADAMW_UPDATES * max(parameter.shape[-2:]) ** 0.5
        parameter.mul_(1 - learning_rate * weight_decay).add_(direction, alpha=-learning_rate * size)


def orthogonalised(x: Tensor) -> Tensor:
    """Nearly U V^T of matrices U S V^T, (..., A, B), by a Newton-Schulz iteration of fifth order; 0 of 0."""
    linear, cubic, quintic = COEFFICIENTS
    is_tall = x.size(-2) > x.size(-1)
    x = x.transpose(-2, -1) if is_tall else x
    x = x / x.flatten(-2).norm(dim=-1).clamp(min=1e-12)[..., None, None]
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.transpose(-2, -1)
        x = linear * x + (cubic * gram + quintic * gram @ gram) @ x
    return x.transpose(-2, -1) if is_tall else x
