"""How many frames of a set each expert of each layer computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.router_losses import count_frames


class FeaturesLike(Protocol):
    """What is read of a batch."""

    @property
    def x(self) -> Tensor:
        """Features, (N, T, F)."""

    @property
    def x_lens(self) -> Tensor:
        """Valid feature frames, (N,)."""


@torch.inference_mode()
def frames_per_expert(model: AsrModel, batches: Iterable[FeaturesLike]) -> Tensor:
    """Valid frames that each expert computes, (L, E), rows in the order of depth.

    Args:
      model: in evaluation mode.
      batches: the set.

    Raises:
      ValueError: the model has no experts, or the set no batch.
    """
    device = next(model.parameters()).device
    total: Tensor | None = None
    for batch in batches:
        routing = model.encode(batch.x.to(device), batch.x_lens.to(device)).routing
        if routing is None:
            raise ValueError("the model has no experts: --experts-in was none")
        frames = count_frames(routing.expert_ids, routing.router_logits.size(2))
        total = frames if total is None else total + frames
    if total is None:
        raise ValueError("the set has no batch")
    return total.cpu()
