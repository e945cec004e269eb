"""Display of a running training: TensorBoard, log lines and, in a terminal, a progress bar."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from shared_moe_conformer.config import FRAME_SHIFT
from shared_moe_conformer.device import memory_in_use
from shared_moe_conformer.text import duration
from shared_moe_conformer.training.faults import NUM_UPDATES, CollapseDetector, CollapsedExpert
from shared_moe_conformer.training.folder import logger
from shared_moe_conformer.training.metrics import LossTotals, StepReport, expert_shares

T = TypeVar("T")

FIRST_ESTIMATE = 10
"""Updates after which a training first says how long it will take."""
LONG = 3 * 3600.0
"""Seconds above which the log says how a training could be shorter."""


class Span:
    """Losses, audio and time of a stretch of training."""

    def __init__(self) -> None:
        self.totals = LossTotals()
        self.num_feature_frames = 0
        self.num_steps = 0
        self.num_skipped = 0
        self.num_clipped = 0
        self.grad_norms = 0.0
        self.waited = 0.0
        self._start = time.perf_counter()

    def add(self, report: StepReport) -> None:
        """Count an update, or a skipped update."""
        if report.skipped:
            self.num_skipped += 1
            return
        self.totals.add(report.totals)
        self.num_feature_frames += report.num_feature_frames
        self.num_steps += 1
        self.num_clipped += report.clipped
        self.grad_norms += report.grad_norm

    def speeds(self) -> dict[str, float]:
        """Audio per time, and the share of time spent waiting for data."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        return {
            "hours_of_audio_per_hour": self.num_feature_frames * FRAME_SHIFT / elapsed,
            "share_waiting_for_data": self.waited / elapsed,
            "seconds_per_step": elapsed / max(self.num_steps, 1),
            "seconds": elapsed,
        }

    def speed(self) -> str:
        """A text with the time taken and the speed; without audio, the speed counts tokens."""
        speeds = self.speeds()
        tokens = f"{self.totals.num_frames / speeds['seconds']:,.0f} tokens per second"
        audio = f"{speeds['hours_of_audio_per_hour']:.0f} hours of audio per hour"
        return f"{speeds['seconds']:.0f} s, {audio if self.num_feature_frames else tokens}"

    def gradients(self) -> dict[str, float]:
        """The mean norm before clipping, the share of clipped updates, and the number of skipped updates."""
        steps = max(self.num_steps, 1)
        return {
            "mean_grad_norm": self.grad_norms / steps,
            "share_clipped": self.num_clipped / steps,
            "num_skipped": float(self.num_skipped),
        }


class Tracker:
    """Shows the steps of a training and writes them to TensorBoard."""

    def __init__(
        self, exp_dir: Path, *, length: float, log_every_n_steps: int = 50, first_step: int = 0, shown: bool = True
    ) -> None:
        """Open TensorBoard's file.

        Args:
          length: of the training, in epochs.
          log_every_n_steps: updates between two lines or points of averages.
          first_step: updates already done; TensorBoard hides points that an earlier run wrote after them.
          shown: whether to show and write anything; only one of several processes does.
        """
        self.length, self.log_every_n_steps = length, log_every_n_steps
        self._shown = shown
        self._writer = SummaryWriter(str(exp_dir / "tensorboard"), purge_step=first_step + 1) if shown else None
        self._interval, self._epoch = Span(), Span()
        self._has_written = False
        self._collapse = CollapseDetector()
        self._bar: Any = None
        self._left = 0
        self._done = self._num_timed = 0
        self._began = 0.0
        self.epoch = 0
        """The epoch that is shown."""

    def watch(
        self, batches: Iterable[T], *, epoch: int, num_batches: int, num_done: int = 0
    ) -> Generator[T, None, None]:
        """The batches of an epoch, under a progress bar; the time until each arrives counts as waiting.

        Args:
          batches: the batches still to come.
          num_batches: batches of the whole epoch.
          num_done: batches already done.
        """
        self.epoch = epoch
        self._interval, self._epoch = Span(), Span()
        self._has_written = False
        self._left = round((self.length - epoch + 1) * num_batches) - num_done
        with self._new_bar(num_batches, num_done) as self._bar:
            asked = time.perf_counter()
            for batch in batches:
                self._wait(time.perf_counter() - asked)
                yield batch
                asked = time.perf_counter()

    def stepped(self, report: StepReport, step: int) -> None:
        """Show an update, and every `log_every_n_steps` write the averages since the last time."""
        self._interval.add(report)
        self._epoch.add(report)
        self._bar.update(report.num_batches)
        self._left -= report.num_batches
        self._time(report)
        if report.skipped:
            return
        for expert in self._collapse.add(report.frames_to_balance):
            self._warn_of_collapse(expert, step)
        if not self._bar.disable:
            self._bar.set_postfix_str(_shown(self._interval, report))
        if step % self.log_every_n_steps == 0 and self._interval_is_long():
            self._write_interval(report, step)
            level = logging.INFO if self._bar.disable else logging.DEBUG
            logger.log(level, "%s, step %d: %s; %s", self._label, step, _shown(self._interval, report), self._to_go())
            self._interval = Span()

    def trained(self, report: StepReport, step: int) -> None:
        """Show the training averages of an epoch after its last update."""
        if self._interval_is_long() or self._interval.num_skipped or not self._has_written:
            self._write_interval(report, step)
        logger.info("%s, step %d: train %s; %s", self._label, step, _shown(self._epoch, report), self._epoch.speed())

    def validated(self, totals: LossTotals, step: int, *, wer: float | None) -> None:
        """Show the losses and expert usage on the validation set, and its word error rate in percent."""
        self._write("dev", {**totals.averages(), "epoch": float(self.epoch)}, step)
        if totals.frames_per_expert is not None:
            self._write_usage("dev", totals.frames_per_expert, step)
        if wer is not None:
            self._write("dev", {"ctc_greedy_wer": wer}, step)
        shown = "" if wer is None else f", WER {wer:.1f} % (CTC, greedy)"
        logger.info("%s, step %d: dev %s%s", self._label, step, shown_losses(totals), shown)

    def watch_dev(self, batches: Iterable[T]) -> Iterable[T]:
        """The batches of the validation set, under a progress bar."""
        return tqdm(batches, desc=f"{self._label} dev", unit="batch", disable=self._no_bar(), leave=False)

    def close(self) -> None:
        """Write out what TensorBoard still buffers."""
        if self._writer is not None:
            self._writer.close()

    def _time(self, report: StepReport) -> None:
        """Time the batches; the first update, in which much is set up, does not count."""
        if not self._began:
            self._began = time.perf_counter()
            return
        self._done += report.num_batches
        self._num_timed += 1
        if self._num_timed == FIRST_ESTIMATE and self._left > 0:
            advice = "; --config small, fewer --num-epochs or --num-steps take less" * (self._seconds_to_go() > LONG)
            logger.info("%s: batches left: %s, validation not counted%s", self._to_go(), f"{self._left:,}", advice)

    def _seconds_to_go(self) -> float:
        return max(self._left, 0) * (time.perf_counter() - self._began) / max(self._done, 1)

    def _to_go(self) -> str:
        return f"about {duration(self._seconds_to_go())} to go"

    @property
    def _label(self) -> str:
        return f"epoch {self.epoch}/{math.ceil(self.length)}"

    def _new_bar(self, num_batches: int, num_done: int) -> Any:
        return tqdm(
            desc=self._label,
            total=num_batches,
            initial=num_done,
            bar_format="{desc} |{bar:20}| {n}/{total} [{elapsed}<{remaining}] {postfix}",
            disable=self._no_bar(),
            dynamic_ncols=True,
            leave=False,
        )

    def _no_bar(self) -> bool:
        return not (self._shown and sys.stderr.isatty())

    def _wait(self, seconds: float) -> None:
        self._interval.waited += seconds
        self._epoch.waited += seconds

    def _interval_is_long(self) -> bool:
        """Whether enough updates were made since the last point; averages of a few would make curves jagged."""
        return 2 * (self._interval.num_steps + self._interval.num_skipped) >= self.log_every_n_steps

    def _write_interval(self, report: StepReport, step: int) -> None:
        self._has_written = True
        totals = self._interval.totals
        rates = {"learning_rate": report.learning_rate, "grad_norm": report.grad_norm}
        self._write("train", {**totals.averages(), **rates, **self._interval.gradients()}, step)
        self._write("speed", {**self._interval.speeds(), **memory_in_use()}, step)
        if totals.frames_per_expert is not None:
            self._write_usage("train", totals.frames_per_expert, step)
            for layer, row in enumerate(expert_shares(totals.frames_per_expert)):
                values = {"busiest": row.max().item(), "least_used": row.min().item()}
                self._write(f"train_expert_share/feed_forward_{layer:02d}", values, step)

    def _write_usage(self, part: str, frames_per_expert: Tensor, step: int) -> None:
        for layer, row in enumerate(expert_shares(frames_per_expert).tolist()):
            values = {f"expert_{expert}": share for expert, share in enumerate(row)}
            self._write(f"{part}_expert_share/feed_forward_{layer:02d}", values, step)

    def _warn_of_collapse(self, found: CollapsedExpert, step: int) -> None:
        name = f"feed_forward_{found.feed_forward:02d}"
        self._write(f"collapsed_expert/{name}", {f"expert_{found.expert}": found.share}, step)
        logger.warning(
            "%s, step %d: expert_%d of %s computed %.2f %% of its frames in the last %d updates: it is hardly used "
            "(a larger --load-balancing-loss-scale spreads the frames)",
            *(self._label, step, found.expert, name, 100 * found.share, NUM_UPDATES),
        )

    def _write(self, prefix: str, values: dict[str, float], step: int) -> None:
        if self._writer is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(f"{prefix}/{name}", value, step)


def shown_losses(totals: LossTotals) -> str:
    """A text with the losses per frame and the shares of the least used and the busiest expert of all layers."""
    losses = ", ".join(f"{name.replace('_loss', '')} {value:.4g}" for name, value in totals.averages().items() if value)
    if totals.frames_per_expert is None:
        return losses
    shares = expert_shares(totals.frames_per_expert)
    return f"{losses}, experts {shares.min():.0%}-{shares.max():.0%}"


def _shown(span: Span, last: StepReport) -> str:
    waiting = span.speeds()["share_waiting_for_data"]
    return (
        f"{shown_losses(span.totals)}, lr {last.learning_rate:.2g}, |grad| {last.grad_norm:.2g}, waiting {waiting:.0%}"
    )
