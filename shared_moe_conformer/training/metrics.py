"""From the losses of a batch to the one number that is minimised, and to averages that can be read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

SUMMED = ("simple_loss", "pruned_loss", "ctc_loss")
DISTILLED = ("hidden_distillation_loss", "ctc_distillation_loss", "transducer_distillation_loss")
AVERAGED = ("load_balancing_loss", "router_z_loss")


class AsrLossesLike(Protocol):
    """What the trainer reads of a model's output; `model.asr_model.AsrLosses` is one."""

    @property
    def simple_loss(self) -> Tensor:
        """Summed over utterances."""

    @property
    def pruned_loss(self) -> Tensor:
        """Summed over utterances."""

    @property
    def ctc_loss(self) -> Tensor:
        """Summed over utterances."""

    @property
    def load_balancing_loss(self) -> Tensor:
        """Averaged over valid frames, summed over expert feed-forwards."""

    @property
    def router_z_loss(self) -> Tensor:
        """Averaged over valid frames, summed over expert feed-forwards."""

    @property
    def num_frames(self) -> Tensor:
        """Valid encoder frames."""

    @property
    def frames_per_expert(self) -> Tensor | None:
        """(L, E)."""


class LossScales(NamedTuple):
    """Weight of each loss in the one that is minimised."""

    simple_loss: float
    pruned_loss: float
    ctc_loss: float
    load_balancing_loss: float
    router_z_loss: float
    hidden_distillation_loss: float = 0.0
    ctc_distillation_loss: float = 0.0
    transducer_distillation_loss: float = 0.0


class NonFiniteError(ValueError):
    """A loss or a gradient is infinite or not a number: the training has diverged, or a cut is bad."""


def weighted_loss(losses: AsrLossesLike, scales: LossScales) -> Tensor:
    """The loss to minimise, per valid encoder frame.

    The transducer, CTC and distillation losses are sums over frames and are divided by their number; the routers'
    losses are averages over frames already, and are not.
    """
    summed = sum(getattr(scales, name) * getattr(losses, name) for name in _summed_names(losses))
    per_frame = summed / losses.num_frames
    return per_frame + sum(getattr(scales, name) * getattr(losses, name) for name in AVERAGED)


@dataclass
class LossTotals:
    """Losses added up over batches, so that their averages weigh each frame alike."""

    num_frames: int = 0
    """Valid encoder frames."""
    sums: dict[str, float] = field(default_factory=dict)
    """Each loss summed over frames; under `loss` the weighted one."""
    frames_per_expert: Tensor | None = None
    """(L, E), on the CPU; None without experts."""

    @classmethod
    def of_batch(cls, losses: AsrLossesLike, loss: Tensor) -> LossTotals:
        """Those of one batch.

        Args:
          losses: the model's.
          loss: `weighted_loss` of them.
        """
        summed = _summed_names(losses)
        names = (*summed, *AVERAGED, "num_frames")
        values = torch.stack([loss.detach(), *(getattr(losses, name).detach().to(loss) for name in names)])
        total, *parts, frames = values.double().tolist()
        layers = 1 if losses.frames_per_expert is None else len(losses.frames_per_expert)
        factors = (*(1.0,) * len(summed), *(frames / layers,) * len(AVERAGED))
        sums = {name: part * factor for name, part, factor in zip(names, parts, factors)}
        usage = None if losses.frames_per_expert is None else losses.frames_per_expert.detach().cpu()
        return cls(round(frames), {"loss": total * frames, **sums}, usage)

    def add(self, other: LossTotals) -> None:
        """Count another batch, or several, in."""
        self.num_frames += other.num_frames
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in other.sums.items()}
        if self.frames_per_expert is None:
            self.frames_per_expert = other.frames_per_expert
        elif other.frames_per_expert is not None:
            self.frames_per_expert = self.frames_per_expert + other.frames_per_expert

    def averages(self) -> dict[str, float]:
        """Each loss per valid encoder frame; the routers' losses per expert feed-forward as well."""
        return {name: value / max(self.num_frames, 1) for name, value in self.sums.items()}


def _summed_names(losses: AsrLossesLike) -> list[str]:
    """The losses that are sums over frames; those of distillation only where there is a teacher."""
    return [*SUMMED, *(name for name in DISTILLED if getattr(losses, name, None) is not None)]


def expert_shares(frames_per_expert: Tensor) -> Tensor:
    """Share (L, E) of its feed-forward's frames that each expert computed; each row sums to 1."""
    return frames_per_expert / frames_per_expert.sum(dim=1, keepdim=True).clamp(min=1)


def non_finite(values: dict[str, float]) -> str:
    """Those of the values that are infinite or not a number, for reading; empty if there is none."""
    return ", ".join(f"{name} is {value}" for name, value in values.items() if not math.isfinite(value))
