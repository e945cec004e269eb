"""The training itself: epochs of updates, each with a checkpoint and a validation, from wherever it stopped."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from shared_moe_conformer.config import Config, require, to_dict
from shared_moe_conformer.training.checkpoint import (
    MID_EPOCH_NAME,
    epoch_path,
    keep_last,
    keep_last_steps,
    rng_state,
    save_checkpoint,
    save_if_best,
    set_rng_state,
    step_path,
)
from shared_moe_conformer.training.distributed import gather, world
from shared_moe_conformer.training.tracking import Tracker
from shared_moe_conformer.training.trainer import Trainer
from shared_moe_conformer.training.update import AsrBatchLike, SkippedSteps


@dataclass(frozen=True)
class RunOptions:
    """How a training runs; nothing here changes what is learned, so none of it is in config.json."""

    start_epoch: int = 1
    """First epoch to train: 1 begins, K goes on from epoch-(K-1).pt."""
    resume: bool = False
    """Go on from the newest checkpoint, if there is one; otherwise begin."""
    save_every_n_steps: int = 0
    """Updates between checkpoints inside an epoch (checkpoint.pt, replaced each time); 0: only at ends of epochs."""
    keep_last_k: int = 0
    """Checkpoints of epochs to keep; 0: all."""
    keep_last_k_steps: int = 0
    """Checkpoints of updates to keep as well (checkpoint-<update>.pt, at save_every_n_steps), for --iter; 0: none."""
    average_period: int = 0
    """Updates between those whose weights are summed up, for --use-averaged-model (icefall: 200); 0: no sums."""
    max_skipped_steps: int = 10
    """Updates in a row that may be skipped, since a loss or the gradient is not finite; one more ends the training."""
    log_every_n_steps: int = 50
    """Updates between lines in the log and points in TensorBoard; the end of an epoch gives one too."""
    num_threads: int = 0
    """Threads of torch; 0: as torch finds, from OMP_NUM_THREADS or the number of cores."""
    device: str = "auto"
    """Where to compute, e.g. cpu or cuda:0; auto: a GPU if there is one."""
    prescan: bool = False
    """Compute the largest batches first, to know at once whether they fit into memory; changes no result."""
    compile: bool = False
    """Compile attention and dense feed-forwards (torch.compile): a minute at the start, then perhaps faster."""
    checkpoint_activations: bool = False
    """Keep only the layers' inputs for the backward pass, which computes the rest again: less memory, more time."""

    def __post_init__(self) -> None:
        require(self.save_every_n_steps >= 0, f"save_every_n_steps is {self.save_every_n_steps}: give 0 or more")
        require(self.keep_last_k >= 0, f"keep_last_k is {self.keep_last_k}: give 0 or more")
        require(self.keep_last_k_steps >= 0, f"keep_last_k_steps is {self.keep_last_k_steps}: give 0 or more")
        require(
            self.keep_last_k_steps == 0 or self.save_every_n_steps > 0,
            f"keep_last_k_steps is {self.keep_last_k_steps}: give --save-every-n-steps too",
        )
        require(self.average_period >= 0, f"average_period is {self.average_period}: give 0 or more")
        require(self.max_skipped_steps >= 0, f"max_skipped_steps is {self.max_skipped_steps}: give 0 or more")
        require(self.log_every_n_steps >= 1, f"log_every_n_steps is {self.log_every_n_steps}: give 1 or more")
        require(self.num_threads >= 0, f"num_threads is {self.num_threads}: give 0 or more")


class TrainLoaderLike(Protocol):
    """What the loop asks of the training batches; `data.loaders.TrainLoader` is one.

    The batches of an epoch depend on nothing but its number: no draw from the global generators.
    """

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, from 1."""

    def __len__(self) -> int:
        """Batches in this process's part of the whole epoch, the same for every process."""

    def __iter__(self) -> Iterator[Any]:
        """The batches that are left of the epoch."""

    def state_dict(self) -> dict[str, int | str]:
        """The position after the last batch that was given out."""

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Go to a position."""


class Batches(NamedTuple):
    """Where the batches come from."""

    train: TrainLoaderLike
    """To train on."""
    dev: Iterable[AsrBatchLike]
    """To validate on."""
    word_errors: Callable[[Any], tuple[int, int]] | None = None
    """Word errors of the model on a batch, and its words; None: no error rate is shown."""


def fit(
    trainer: Trainer,
    batches: Batches,
    *,
    exp_dir: Path,
    config: Config,
    options: RunOptions,
    checkpoint: dict[str, Any] | None = None,
    between_steps: Callable[[], None] = lambda: None,
) -> None:
    """Train to the last epoch.

    Stopping and resuming gives the same weights, bit by bit, as not stopping: each epoch begins with seeds of its own,
    and a checkpoint inside an epoch holds the generators' states and the loader's position.
    Of several processes (`distributed.world`) the first alone writes.

    Args:
      trainer: the model in it is trained.
      batches: for training and validation.
      exp_dir: the experiment's folder, for checkpoints and TensorBoard.
      config: the experiment.
      options: how to run.
      checkpoint: where to go on from; None: the beginning.
      between_steps: called after each update and each batch of the validation; it may raise, to stop the training.
    """
    is_first = world().rank == 0
    tracker = Tracker(
        exp_dir,
        num_epochs=config.training.num_epochs,
        log_every_n_steps=options.log_every_n_steps,
        first_step=0 if checkpoint is None else trainer.restore(checkpoint).step,
        shown=is_first,
    )

    def save(path: Path, **more: Any) -> None:
        first, *others = gather(rng_state())
        if is_first:
            state = {**trainer.checkpoint(), "rng_state": first, "rng_states_of_others": others}
            save_checkpoint(path, {**state, "config": json.dumps(to_dict(config)), **more})

    def save_inside_epoch() -> None:
        position = {"train_loader": json.dumps(batches.train.state_dict())}
        if options.keep_last_k_steps:
            save(step_path(exp_dir, trainer.state.step), **position)
            if is_first:
                keep_last_steps(exp_dir, options.keep_last_k_steps)
        if trainer.state.num_batches < len(batches.train):
            save(exp_dir / MID_EPOCH_NAME, **position)

    def after_step() -> None:
        if options.save_every_n_steps and trainer.state.step % options.save_every_n_steps == 0:
            save_inside_epoch()
        between_steps()

    def validate() -> None:
        wer = _validate(trainer, batches, tracker, between_steps)
        if is_first and wer is not None:
            save_if_best(exp_dir, trainer.model.state_dict(), wer=wer, epoch=tracker.epoch)

    skipped = SkippedSteps(exp_dir, max_in_a_row=options.max_skipped_steps)
    try:
        if checkpoint is not None and trainer.state.num_batches == 0:  # it may have been stopped while it validated
            tracker.epoch = trainer.state.epoch - 1
            validate()
        for epoch in range(trainer.state.epoch, config.training.num_epochs + 1):
            _begin_epoch(epoch, config.training.seed, batches.train, checkpoint)
            _train_epoch(trainer, batches.train, tracker, skipped, after_step)
            trainer.state.next_epoch()
            save(epoch_path(exp_dir, epoch))
            if is_first:
                (exp_dir / MID_EPOCH_NAME).unlink(missing_ok=True)
                keep_last(exp_dir, options.keep_last_k)
            checkpoint = None
            validate()
    finally:
        tracker.close()


def seed_generators(seed: int, epoch: int) -> None:
    """Seed torch, numpy and Python for an epoch; 0 is the time before the first, when weights are initialised.

    Then all processes draw the same weights, later each its own dropout.
    """
    process = [world().rank] if epoch and world().rank else []
    seed = int(np.random.SeedSequence([seed, epoch, *process]).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _begin_epoch(epoch: int, seed: int, loader: TrainLoaderLike, checkpoint: dict[str, Any] | None) -> None:
    """Put loader and generators to the epoch's beginning, or to where in it the checkpoint was made."""
    seed_generators(seed, epoch)
    if checkpoint is None or "train_loader" not in checkpoint:
        loader.set_epoch(epoch)
        return
    loader.load_state_dict(json.loads(checkpoint["train_loader"]))
    states = [checkpoint["rng_state"], *checkpoint.get("rng_states_of_others", [])]
    set_rng_state(states[world().rank])


def _train_epoch(
    trainer: Trainer,
    loader: TrainLoaderLike,
    tracker: Tracker,
    skipped: SkippedSteps,
    after_step: Callable[[], None],
) -> None:
    """Train what is left of the current epoch."""
    state, num_batches = trainer.state, len(loader)
    if num_batches == 0:
        raise ValueError(f"epoch {state.epoch} has no batch: look at the training cuts and --max-duration")
    trainer.train_mode()
    watched = tracker.watch(loader, epoch=state.epoch, num_batches=num_batches, num_done=state.num_batches)
    report = None  # of the last update, which may have been before the checkpoint
    while update := tuple(itertools.islice(watched, trainer.config.accumulate_batches)):
        share_of_epoch = (state.num_batches + len(update)) / num_batches
        progress = (state.epoch - 1 + share_of_epoch) / trainer.config.num_epochs
        report = trainer.train_step(*update, progress=progress)
        tracker.stepped(report, state.step)
        if report.skipped:
            skipped.handle(report, update, state)
        after_step()
    if report is not None:
        tracker.trained(report, state.step)


def _validate(trainer: Trainer, batches: Batches, tracker: Tracker, between_steps: Callable[[], None]) -> float | None:
    """Show the losses on the validation set; return its word error rate in percent, if it has one."""
    counts: list[tuple[int, int]] = []

    def count_errors(batch: AsrBatchLike) -> None:
        between_steps()
        if batches.word_errors is not None:
            counts.append(batches.word_errors(batch))

    totals = trainer.validate(tracker.watch_dev(batches.dev), count_errors)
    everyone = [count for part in gather(counts) for count in part]
    errors, words = (sum(column) for column in zip(*everyone)) if everyone else (0, 0)
    wer = 100 * errors / words if words else None
    tracker.validated(totals, trainer.state.step, wer=wer)
    return wer
