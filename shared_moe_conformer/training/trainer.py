"""One update of the model, and one pass over the validation set."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shared_moe_conformer.config import TrainingConfig
from shared_moe_conformer.training.averaging import RunningSum
from shared_moe_conformer.training.distributed import (
    add_up,
    average_buffers,
    data_parallel,
    gather,
    total_losses,
    total_of_update,
    world,
)
from shared_moe_conformer.training.folder import BEST_NAME
from shared_moe_conformer.training.metrics import (
    LossScales,
    LossTotals,
    StepReport,
    TrainState,
    loss_scales,
    non_finite,
    weighted_loss,
)
from shared_moe_conformer.training.optim import build_optimizer, freeze, learning_rate_factor
from shared_moe_conformer.training.precision import Precision

if TYPE_CHECKING:
    from shared_moe_conformer.data.batch import AsrBatch
    from shared_moe_conformer.model.asr_model import AsrLosses, AsrModel

M = TypeVar("M", bound=nn.Module)


class ModelTrainer(Generic[M]):
    """Updates a model of any kind batch by batch; a subclass says what its losses are."""

    best_name = BEST_NAME
    """File of the weights with the lowest `value`."""

    def __init__(
        self, model: M, config: TrainingConfig, *, device: torch.device | None = None, average_period: int = 0
    ) -> None:
        """Make the optimizer; several processes must be connected already (`distributed.connected`).

        Args:
          device: the device to compute on; None: the model's.
          average_period: updates between those whose weights are summed for averages; 0: none are.

        Raises:
          ValueError: this torch cannot compute with the config's precision.
        """
        self.device = device or next(model.parameters()).device
        self.model: M = model.to(self.device)
        self.config = config
        self._frozen = freeze(self.model, config.freeze)
        several = config.accumulate_batches * world().size > 1
        self.precision = Precision(config.precision, self.device, of_sums=several)
        self._parallel_model = data_parallel(self.model)
        self.optimizer = build_optimizer(model, config)
        self.state = TrainState()
        self._sum = RunningSum(self.model, average_period) if average_period else None

    def train_mode(self) -> None:
        """Put the model into training mode, except for its frozen parts."""
        self.model.train()
        for module in self._frozen:
            module.eval()

    def train_step(self, *batches: AsrBatch, progress: float) -> StepReport:
        """Update the model once; it must be in training mode.

        The gradient is that of the mean loss per frame over all batches of all processes. If a loss or the gradient is
        not finite, all processes skip the update: weights, statistics, optimizer and schedule stay as they were.

        Args:
          progress: share of the whole training done, these batches included; the learning rate follows it.
        """
        batches = tuple(batch.to(self.device) for batch in batches)
        step, state, buffers = self.state.step + 1, self.state, [buffer.clone() for buffer in self.model.buffers()]
        progress_at_peak = state.progress_at_peak
        learning_rate = self._set_learning_rate(step, progress)
        self.optimizer.zero_grad(set_to_none=True)
        self._before_update(batches)
        totals, frames = self._backward(batches)
        self.precision.unscale(self.optimizer)
        grad_norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm))
        fault = non_finite(totals.averages()) or non_finite({"gradient norm": grad_norm})  # the same in all processes
        state.num_batches += len(batches)
        state.progress = progress
        report = StepReport(totals, frames, learning_rate, grad_norm, len(batches))
        if fault:
            self._undo(buffers, progress_at_peak)
            self.precision.skip()
            return report._replace(skipped=f"step {step}: {fault}", suspects=suspects(batches))
        self.precision.step(self.optimizer)
        average_buffers(self.model)
        report = report._replace(frames_to_balance=self._balance_experts(totals))
        state.step, state.skipped_in_a_row = step, 0
        if self._sum is not None:
            self._sum.stepped(step)
        return report._replace(clipped=grad_norm > self.config.max_grad_norm)

    @torch.no_grad()
    def validate(
        self, batches: Iterable[AsrBatch], each: Callable[[AsrBatch], None] = lambda batch: None
    ) -> LossTotals:
        """The losses of a set in evaluation mode, with the weights that they have after the warm-up.

        Args:
          batches: the set, or this process's part of it.
          each: called with every batch while the model is in evaluation mode.
        """
        totals = LossTotals()
        self.model.eval()
        for batch in batches:
            totals.add(self.losses(self.model, batch, loss_scales(self.config))[1])
            each(batch)
        self.train_mode()
        return total_losses(totals)

    def checkpoint(self) -> dict[str, Any]:
        """The state of the training, as tensors and strings; the optimizer's options are in the config."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "train_state": json.dumps(dataclasses.asdict(self.state)),
            **self.precision.state(),
            **({} if self._sum is None else self._sum.state()),
        }

    def restore(self, checkpoint: dict[str, Any]) -> TrainState:
        """Go back to the state of a checkpoint.

        Raises:
          ValueError: its weights do not fit the model.
        """
        try:
            self.model.load_state_dict(checkpoint["model"])
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint's weights do not fit the model ({error}): use the version that wrote it"
            ) from error
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": checkpoint["optimizer"]})
        self.precision.restore(checkpoint)
        self.state = TrainState(**json.loads(checkpoint["train_state"]))
        if self._sum is not None:
            self._sum.restore(checkpoint, step=self.state.step)
        return self.state

    def _backward(self, batches: Sequence[AsrBatch]) -> tuple[LossTotals, int]:
        """Compute the gradient of the mean loss per frame; return the losses and feature frames of all processes."""
        scales = loss_scales(self.config, self.state.step)
        alone = len(batches) == world().size == 1
        totals = LossTotals()
        for number, batch in enumerate(batches, start=1):
            with self._exchange(number == len(batches)):
                with self.precision.autocast():
                    loss, more = self.losses(self._parallel_model, batch, scales)
                self.precision.scale(loss if alone else loss * more.num_frames).backward()
            totals.add(more)
        num_feature_frames = sum(int(batch.x_lens.sum()) // batch.num_copies for batch in batches)
        totals, frames = total_of_update(totals, num_feature_frames, self.device)
        if not alone:
            factor = world().size / max(totals.num_frames, 1)
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad *= factor
        return totals, frames

    def _exchange(self, is_last: bool) -> AbstractContextManager[None]:
        """A context in which processes exchange gradients only for the last batch of an update."""
        if is_last or not isinstance(self._parallel_model, DistributedDataParallel):
            return nullcontext()
        return self._parallel_model.no_sync()  # type: ignore[operator]

    def losses(self, model: nn.Module, batch: AsrBatch, scales: LossScales) -> tuple[Tensor, LossTotals]:
        """The loss of a batch that is minimised, per frame or token, and its parts."""
        raise NotImplementedError

    def value(self, totals: LossTotals, wer: float | None) -> float | None:
        """The value on the validation set that is lowest for the best weights; None: no weights are the best.

        Args:
          totals: the losses there.
          wer: the word error rate there in percent, if it was measured.
        """
        return wer

    def _before_update(self, batches: Sequence[AsrBatch]) -> None:
        """Look at the batches before the model computes them."""

    def _balance_experts(self, totals: LossTotals) -> Tensor | None:
        """Change the choice of experts after an update; the frames that were balanced, if the model has experts."""
        return None

    def _undo(self, buffers: Sequence[Tensor], progress_at_peak: float) -> None:
        """Restore the state before an update, and count the update as skipped."""
        for buffer, before in zip(self.model.buffers(), buffers):
            buffer.copy_(before)
        self.state.progress_at_peak = progress_at_peak
        self.state.num_skipped += 1
        self.state.skipped_in_a_row += 1

    def _set_learning_rate(self, step: int, progress: float) -> float:
        if step <= max(self.config.warmup_steps, 1):
            self.state.progress_at_peak = progress
        learning_rate = self.config.learning_rate * learning_rate_factor(
            self.config, step, progress=progress, progress_at_peak=self.state.progress_at_peak
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_scale"]
        return learning_rate


class Trainer(ModelTrainer["AsrModel"]):
    """Updates a recogniser batch by batch; its losses are weighed only here."""

    def __init__(
        self,
        model: AsrModel,
        config: TrainingConfig,
        *,
        device: torch.device | None = None,
        teacher: AsrModel | None = None,
        average_period: int = 0,
    ) -> None:
        """See `ModelTrainer`.

        Args:
          teacher: gives `teach(x, x_lens, y)` for the model to imitate; it is not trained.
        """
        super().__init__(model, config, device=device, average_period=average_period)
        self.teacher = None if teacher is None else teacher.to(self.device).eval().requires_grad_(False)

    def losses(self, model: nn.Module, batch: AsrBatch, scales: LossScales) -> tuple[Tensor, LossTotals]:
        """The weighted loss of a batch, per frame, and its parts."""
        batch = batch.to(self.device)
        x, x_lens, y, y_lens, *_ = batch
        taught = {}
        if self.teacher is not None:
            tokens = y if self.config.transducer_distillation_loss_scale else None
            taught["teacher"] = self.teacher.teach(x if batch.clean is None else batch.clean, x_lens, tokens)
        losses: AsrLosses = model(
            x,
            x_lens,
            y,
            y_lens,
            prune_range=self.config.prune_range,
            lm_only_scale=self.config.lm_only_scale,
            am_only_scale=self.config.am_only_scale,
            num_copies=batch.num_copies,
            **taught,
        )
        loss = weighted_loss(losses, scales)
        return loss, LossTotals.of_batch(losses, loss)

    def _before_update(self, batches: Sequence[AsrBatch]) -> None:
        """Count the features of all processes' batches in the model's statistics, before it normalises them."""
        norm = self.model.encoder.feature_norm
        totals = [norm.totals(batch.x, batch.x_lens) for batch in batches]
        everyones = add_up(torch.stack(totals).sum(dim=0).tolist(), self.device)
        norm.count(torch.tensor(everyones, dtype=torch.float64, device=self.device))

    def _balance_experts(self, totals: LossTotals) -> Tensor | None:
        if totals.frames_per_expert is None:
            return None
        return self.model.encoder.balance_experts(totals.frames_per_expert.to(self.device))


def suspects(batches: Sequence[AsrBatch]) -> tuple[str, ...]:
    """The cuts of all processes' batches whose features are not finite, or all cuts if there are none."""
    pairs = [
        (cut_id, bool(features[:frames].isfinite().all()))
        for batch in batches
        for cut_id, features, frames in zip(batch.cut_ids, batch.x, batch.x_lens)
    ]
    everyone = [pair for part in gather(pairs) for pair in part]
    bad = [cut_id for cut_id, finite in everyone if not finite] or [cut_id for cut_id, _ in everyone]
    return tuple(dict.fromkeys(bad))  # copies of an utterance share its name
