"""The loss to minimise and its weights, averages of all losses, and the report of an update."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.config import TrainingConfig

if TYPE_CHECKING:
    from shared_moe_conformer.model.asr_model import AsrLosses

SUMMED = ("simple_loss", "pruned_loss", "ctc_loss")
OPTIONAL = ("hidden_distillation_loss", "ctc_distillation_loss", "transducer_distillation_loss", "cr_loss")
AVERAGED = ("load_balancing_loss", "router_z_loss")


class LossScales(NamedTuple):
    """Weight of each loss in the loss to minimise."""

    simple_loss: float
    pruned_loss: float
    ctc_loss: float
    load_balancing_loss: float
    router_z_loss: float
    hidden_distillation_loss: float = 0.0
    ctc_distillation_loss: float = 0.0
    transducer_distillation_loss: float = 0.0
    cr_loss: float = 0.0


def loss_scales(config: TrainingConfig, step: int | None = None) -> LossScales:
    """Weights of the losses at a step, counted from 0; None: after the warm-up.

    Source: icefall, egs/librispeech/ASR/pruned_transducer_stateless7/train.py, compute_loss.
    """
    done = 1.0 if step is None or step >= config.loss_warmup_steps else step / config.loss_warmup_steps
    return LossScales(
        simple_loss=1.0 - done * (1.0 - config.simple_loss_scale),
        pruned_loss=0.1 + 0.9 * done,
        ctc_loss=config.ctc_loss_scale,
        load_balancing_loss=config.load_balancing_loss_scale,
        router_z_loss=config.router_z_loss_scale,
        hidden_distillation_loss=config.hidden_distillation_loss_scale,
        ctc_distillation_loss=config.ctc_distillation_loss_scale,
        transducer_distillation_loss=config.transducer_distillation_loss_scale,
        cr_loss=done * config.cr_loss_scale,
    )


class NonFiniteError(ValueError):
    """A loss or a gradient is infinite or not a number: the training has diverged, or a cut is bad."""


def weighted_loss(losses: AsrLosses, scales: LossScales) -> Tensor:
    """The loss to minimise, per valid encoder frame.

    The transducer, CTC, distillation and consistency losses are sums over frames and are divided by the number of
    frames. The routers' losses are averages already. With two copies of each utterance the frames of both count, so
    that each loss is the mean of the copies'.
    """
    summed = sum(getattr(scales, name) * getattr(losses, name) for name in _summed_names(losses))
    per_frame = summed / losses.num_frames
    return per_frame + sum(getattr(scales, name) * getattr(losses, name) for name in AVERAGED)


@dataclass
class LossTotals:
    """Losses summed over batches; their averages give each frame the same weight."""

    num_frames: int = 0
    """Valid encoder frames; for language models tokens, ends of sentences included."""
    sums: dict[str, float] = field(default_factory=dict)
    """Each loss summed over frames; `loss` is the weighted loss, `nll` that of a language model."""
    frames_per_expert: Tensor | None = None
    """(L, E), on the CPU; None without experts."""

    @classmethod
    def of_batch(cls, losses: AsrLosses, loss: Tensor) -> LossTotals:
        """Totals of one batch; without experts, routers have no losses.

        Args:
          loss: their `weighted_loss`.
        """
        summed = _summed_names(losses)
        averaged = AVERAGED if losses.frames_per_expert is not None else ()
        names = (*summed, *averaged, "num_frames")
        values = torch.stack([loss.detach(), *(getattr(losses, name).detach().to(loss) for name in names)])
        total, *parts, frames = values.double().tolist()
        layers = 1 if losses.frames_per_expert is None else len(losses.frames_per_expert)
        factors = (*(1.0,) * len(summed), *(frames / layers,) * len(averaged))
        sums = {name: part * factor for name, part, factor in zip(names, parts, factors)}
        usage = None if losses.frames_per_expert is None else losses.frames_per_expert.detach().cpu()
        return cls(round(frames), {"loss": total * frames, **sums}, usage)

    def add(self, other: LossTotals) -> None:
        """Add the totals of another batch, or of several."""
        self.num_frames += other.num_frames
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in other.sums.items()}
        if self.frames_per_expert is None:
            self.frames_per_expert = other.frames_per_expert
        elif other.frames_per_expert is not None:
            self.frames_per_expert = self.frames_per_expert + other.frames_per_expert

    def averages(self) -> dict[str, float]:
        """Each loss per valid encoder frame; the routers' losses also per expert feed-forward; perplexity per token."""
        found = {name: value / max(self.num_frames, 1) for name, value in self.sums.items()}
        return {**found, "perplexity": math.exp(min(found["nll"], 700.0))} if "nll" in found else found


def _summed_names(losses: AsrLosses) -> list[str]:
    """The losses that are sums over frames; a teacher's or those of copies only if there are any."""
    return [*SUMMED, *(name for name in OPTIONAL if getattr(losses, name, None) is not None)]


def expert_shares(frames_per_expert: Tensor) -> Tensor:
    """Share (L, E) of a feed-forward's frames that each expert computed; each row sums to 1."""
    return frames_per_expert / frames_per_expert.sum(dim=1, keepdim=True).clamp(min=1)


def non_finite(values: dict[str, float]) -> str:
    """A message about the values that are infinite or not a number; empty if there is none."""
    return ", ".join(f"{name} is {value}" for name, value in values.items() if not math.isfinite(value))


@dataclass
class TrainState:
    """The progress of a training."""

    epoch: int = 1
    """The epoch that is being trained, from 1."""
    num_batches: int = 0
    """Batches of this epoch that each process has done."""
    step: int = 0
    """Updates done."""
    progress: float = 0.0
    """Share of the training done, in epochs."""
    progress_at_peak: float = 0.0
    """Share of the training done when the learning rate reached its peak."""
    num_skipped: int = 0
    """Updates skipped because a loss or the gradient was not finite."""
    skipped_in_a_row: int = 0
    """Updates skipped since the last update that was made."""

    @property
    def num_tried(self) -> int:
        """Updates done and skipped."""
        return self.step + self.num_skipped

    def next_epoch(self) -> None:
        """Move to the beginning of the next epoch."""
        self.epoch, self.num_batches = self.epoch + 1, 0


class StepReport(NamedTuple):
    """The report of one update, over the batches of all processes."""

    totals: LossTotals
    num_feature_frames: int
    """Feature frames of the batches, 10 ms each; only the first of two copies counts."""
    learning_rate: float
    grad_norm: float
    """Norm of the gradient before clipping."""
    num_batches: int = 1
    """Batches of this process."""
    frames_to_balance: Tensor | None = None
    """Frames of each expert that are balanced within each row, (L, E); None without experts and if skipped."""
    clipped: bool = False
    """Whether the gradient was longer than the config allows."""
    skipped: str = ""
    """Why the update was skipped; empty: it was made."""
    suspects: tuple[str, ...] = ()
    """Cuts of a skipped update whose features are not finite, or all its cuts if there are none."""
