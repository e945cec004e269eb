"""The training loop: epochs of updates, each with a checkpoint and a validation; it continues where it stopped."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from shared_moe_conformer.config import AnyConfig, from_dict, require, to_dict
from shared_moe_conformer.training.distributed import gather, world
from shared_moe_conformer.training.experiment import RunOptions
from shared_moe_conformer.training.faults import SkippedSteps
from shared_moe_conformer.training.folder import (
    MID_EPOCH_NAME,
    epoch_path,
    keep_last,
    keep_last_steps,
    logger,
    rng_state,
    save_checkpoint,
    save_if_best,
    set_rng_state,
    step_path,
)
from shared_moe_conformer.training.metrics import LossTotals
from shared_moe_conformer.training.optim import reschedule
from shared_moe_conformer.training.tracking import Tracker
from shared_moe_conformer.training.trainer import ModelTrainer

if TYPE_CHECKING:
    from shared_moe_conformer.data.batch import AsrBatch
    from shared_moe_conformer.data.loaders import ResumableLoader


class Batches(NamedTuple):
    """The batches of a training, and the function that counts errors on them."""

    train: ResumableLoader
    """Batches to train on."""
    dev: Iterable[AsrBatch]
    """Batches to validate on."""
    word_errors: Callable[[Any], tuple[int, int]] | None = None
    """Word errors of the model on a batch, and its words; None: no error rate is shown."""


def fit(
    trainer: ModelTrainer[Any],
    batches: Batches,
    *,
    exp_dir: Path,
    config: AnyConfig,
    options: RunOptions,
    checkpoint: dict[str, Any] | None = None,
    between_steps: Callable[[], None] = lambda: None,
) -> None:
    """Train to the last epoch or step.

    Stopping and resuming gives the same weights, bit for bit, as not stopping: each epoch begins with its own seeds,
    and a checkpoint inside an epoch holds the generators' states and the loader's position.
    Of several processes (`distributed.world`) only the first writes.

    Args:
      checkpoint: the one to continue; None: begin.
      between_steps: called after each update and each batch of the validation; it may raise, to stop the training.
    """
    if checkpoint is not None:
        trainer.restore(checkpoint)
        old = from_dict(type(config), json.loads(checkpoint["config"]))
        if jump := reschedule(trainer.state, old.training, config.training):
            logger.warning("%s", jump)
    tracker = Tracker(
        exp_dir,
        length=config.training.length,
        log_every_n_steps=options.log_every_n_steps,
        first_step=trainer.state.step,
        shown=world().rank == 0,
    )
    saver = _Saver(trainer, batches.train, exp_dir, config, options)
    skipped = SkippedSteps(exp_dir, max_in_a_row=options.max_skipped_steps)

    def after_step() -> None:
        saver.stepped()
        between_steps()

    def validate() -> None:
        totals, wer = _validate(trainer, batches, tracker, between_steps)
        saver.validated(trainer.value(totals, wer), tracker.epoch)

    try:
        if checkpoint is not None and trainer.state.num_batches == 0:  # it may have been stopped while it validated
            tracker.epoch = trainer.state.epoch - 1
            validate()
        while trainer.state.num_batches or not _has_ended(trainer):
            epoch = trainer.state.epoch
            _begin_epoch(epoch, config.training.seed, batches.train, checkpoint)
            _train_epoch(trainer, batches.train, tracker, skipped, after_step)
            saver.trained(epoch)
            checkpoint = None
            validate()
    finally:
        tracker.close()


class _Saver(NamedTuple):
    """Writes the checkpoints of a training; of several processes the first writes, with the states of all."""

    trainer: ModelTrainer[Any]
    loader: ResumableLoader
    exp_dir: Path
    config: AnyConfig
    options: RunOptions

    def stepped(self) -> None:
        """Save after an update, if the options say so and it was made."""
        state, every = self.trainer.state, self.options.save_every_n_steps
        if not every or state.step % every or state.skipped_in_a_row:
            return
        position = {"train_loader": json.dumps(self.loader.state_dict())}
        if self.options.keep_last_k_steps:
            self._save(step_path(self.exp_dir, state.step), **position)
            if world().rank == 0:
                keep_last_steps(self.exp_dir, self.options.keep_last_k_steps)
        if state.num_batches != len(self.loader):  # which may be an estimate
            self._save(self.exp_dir / MID_EPOCH_NAME, **position)

    def trained(self, epoch: int) -> None:
        """Save the end of an epoch, which is the beginning of the next."""
        self.trainer.state.next_epoch()
        self._save(epoch_path(self.exp_dir, epoch))
        if world().rank == 0:
            (self.exp_dir / MID_EPOCH_NAME).unlink(missing_ok=True)
            keep_last(self.exp_dir, self.options.keep_last_k)

    def validated(self, value: float | None, epoch: int) -> None:
        """Save the weights of an epoch if its word error rate, or the value in its place, is the lowest so far."""
        if value is not None and world().rank == 0:
            path = self.exp_dir / self.trainer.best_name
            save_if_best(path, self.trainer.model.state_dict(), value=value, epoch=epoch)

    def _save(self, path: Path, **more: Any) -> None:
        first, *others = gather(rng_state())
        if world().rank == 0:
            state = {**self.trainer.checkpoint(), "rng_state": first, "rng_states_of_others": others}
            save_checkpoint(path, {**state, "config": json.dumps(to_dict(self.config)), **more})


def seed_generators(seed: int, epoch: int) -> None:
    """Seed torch, numpy and Python for an epoch; 0 is the time before the first, when weights are initialised.

    At epoch 0 all processes draw the same weights, later each draws its own dropout.
    """
    process = [world().rank] if epoch and world().rank else []
    seed = int(np.random.SeedSequence([seed, epoch, *process]).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _begin_epoch(epoch: int, seed: int, loader: ResumableLoader, checkpoint: dict[str, Any] | None) -> None:
    """Set loader and generators to the epoch's beginning, or to the checkpoint's place in it."""
    seed_generators(seed, epoch)
    if checkpoint is None or "train_loader" not in checkpoint:
        loader.set_epoch(epoch)
        return
    loader.load_state_dict(json.loads(checkpoint["train_loader"]))
    states = [checkpoint["rng_state"], *checkpoint.get("rng_states_of_others", [])]
    if world().rank < len(states):  # streams without end may go on in more processes than before
        set_rng_state(states[world().rank])


def _has_ended(trainer: ModelTrainer[Any]) -> bool:
    """Whether the training has all its epochs or steps."""
    config, state = trainer.config, trainer.state
    return state.num_tried >= config.num_steps if config.num_steps else state.epoch > config.num_epochs


def refuse_empty(loader: ResumableLoader) -> None:
    """Raise `ValueError` if an epoch has no update."""
    require(
        len(loader) > 0,
        f"epoch {loader.epoch} has no batch: there are fewer training cuts than batches in an update, "
        "--accumulate-batches of each process",
    )


def _train_epoch(
    trainer: ModelTrainer[Any],
    loader: ResumableLoader,
    tracker: Tracker,
    skipped: SkippedSteps,
    after_step: Callable[[], None],
) -> None:
    """Train the rest of the current epoch, or less of it if the training ends before."""
    state, config, num_batches = trainer.state, trainer.config, len(loader)
    refuse_empty(loader)
    trainer.train_mode()
    watched = tracker.watch(loader, epoch=state.epoch, num_batches=num_batches, num_done=state.num_batches)
    report = None  # stays None if the checkpoint was made after the epoch's last update
    while not (_has_ended(trainer) or _all_have_ended(loader)) and (
        update := tuple(itertools.islice(watched, config.accumulate_batches))
    ):
        share_of_epoch = min((state.num_batches + len(update)) / num_batches, 1.0)
        by_steps = config.num_steps and (state.num_tried + 1) / config.num_steps
        progress = by_steps or (state.epoch - 1 + share_of_epoch) / config.num_epochs
        report = trainer.train_step(*update, progress=progress)
        tracker.stepped(report, state.step)
        if report.skipped:
            skipped.handle(report, update, state)
        after_step()
    watched.close()  # takes the progress bar away where batches are left
    if report is not None:
        tracker.trained(report, state.step)


def _all_have_ended(loader: ResumableLoader) -> bool:
    """Whether all processes have had all their batches, whose numbers may differ."""
    return loader.has_ended is not None and all(gather(loader.has_ended))


def _validate(
    trainer: ModelTrainer[Any], batches: Batches, tracker: Tracker, between_steps: Callable[[], None]
) -> tuple[LossTotals, float | None]:
    """Show the losses on the validation set; return them and its word error rate in percent, if it has one."""
    counts: list[tuple[int, int]] = []

    def count_errors(batch: AsrBatch) -> None:
        between_steps()
        if batches.word_errors is not None:
            counts.append(batches.word_errors(batch))

    totals = trainer.validate(tracker.watch_dev(batches.dev), count_errors)
    everyone = [count for part in gather(counts) for count in part]
    errors, words = (sum(column) for column in zip(*everyone)) if everyone else (0, 0)
    wer = 100 * errors / words if words else None
    tracker.validated(totals, trainer.state.step, wer=wer)
    return totals, wer
