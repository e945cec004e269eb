"""A training's own records, TensorBoard's scalars and the log, and the charts of its course."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shared_moe_conformer.config import require
from shared_moe_conformer.reporting.charts import Curve, line_chart
from shared_moe_conformer.reporting.page import Markup

MAX_WARNINGS = 200


class Chart(NamedTuple):
    """A chart of a training."""

    title: str
    curves: Mapping[str, str]
    """Tags of scalars by the curves' names."""
    from_zero: bool = False
    x_name: str = "updates"


CHARTS = (
    Chart("Loss per frame", {"training": "train/loss", "dev": "dev/loss"}),
    Chart("WER on dev in percent, CTC greedy", {"WER": "WER by epoch"}, x_name="epoch"),
    Chart("Losses on dev", {name.removesuffix("_loss"): f"dev/{name}" for name in
                            ("loss", "pruned_loss", "simple_loss", "ctc_loss")}),
    Chart("Learning rate", {"learning rate": "train/learning_rate"}, from_zero=True),
    Chart("Gradient norm before clipping", {"mean": "train/mean_grad_norm", "of one update": "train/grad_norm"}),
    Chart("Share of updates that were clipped", {"share": "train/share_clipped"}, from_zero=True),
    Chart("Hours of audio per hour", {"throughput": "speed/hours_of_audio_per_hour"}, from_zero=True),
    Chart("Share of the time spent waiting for data", {"share": "speed/share_waiting_for_data"}, from_zero=True),
    Chart("Largest memory, MiB", {"process": "speed/peak_memory_mib", "GPU": "speed/peak_gpu_memory_mib"},
          from_zero=True),
    Chart("Routers' losses on dev, all layers' mean",
          {"load balancing": "dev/load_balancing_loss", "z loss": "dev/router_z_loss"}),
    Chart("Skipped updates", {"skipped": "skipped so far"}),
)  # fmt: skip


class Series(NamedTuple):
    """A quantity over the training."""

    steps: list[int]
    values: list[float]


class TrainingLog(NamedTuple):
    """The parts of the log that a report shows, from all runs of a training."""

    environment: dict[str, str]
    """Environment of the last run; empty where the version that trained did not log it."""
    beginning: str
    """The line with which the last run began."""
    warnings: list[str]


def read_history(exp_dir: Path) -> dict[str, Series]:
    """TensorBoard's scalars by their tags; what a resumed training has done again counts once.

    Raises:
      FileNotFoundError: the folder holds no training.
      ValueError: nothing has been written yet.
    """
    folder = exp_dir / "tensorboard"
    if not folder.is_dir():
        raise FileNotFoundError(f"no training in {exp_dir}: train first (./train.py), or name another folder")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of what a resumed training has done again
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    history = {}
    for tag in events.Tags()["scalars"]:
        points = {event.step: event.value for event in events.Scalars(tag)}
        history[tag] = Series(*map(list, zip(*sorted(points.items()))))  # type: ignore[arg-type]
    require(bool(history), f"{folder} holds no point yet: wait for the first epoch's end")
    return history


def dev_epochs(history: Mapping[str, Series]) -> list[int]:
    """The epoch of each point of the validation set; older trainings did not write it and validated each from 1."""
    if "dev/epoch" in history:
        return [round(epoch) for epoch in history["dev/epoch"].values]
    return list(range(1, len(history["dev/loss"].steps) + 1)) if "dev/loss" in history else []


def wer_by_epoch(history: Mapping[str, Series]) -> Series:
    """The epochs with a word error rate on the validation set, and the rates, in percent."""
    rates = history.get("dev/ctc_greedy_wer", Series([], []))
    by_step = dict(zip(*rates))
    points = zip(history["dev/loss"].steps, dev_epochs(history)) if by_step else ()
    found = [(epoch, by_step[step]) for step, epoch in points if step in by_step]
    return Series([epoch for epoch, _ in found], [rate for _, rate in found])


def training_charts(history: Mapping[str, Series]) -> list[Markup]:
    """The charts of everything that was written."""
    skipped = history.get("train/num_skipped", Series([], []))
    totals = [*accumulate(skipped.values)] if any(skipped.values) else []
    every = {**history, "WER by epoch": wer_by_epoch(history), "skipped so far": Series(skipped.steps, totals)}
    distillation = {
        tag.split("/")[1].removesuffix("_loss"): tag for tag in history if "dev/" in tag and "distil" in tag
    }
    drawn = []
    for chart in CHARTS:
        tags = {**chart.curves, **(distillation if chart.title == "Losses on dev" else {})}
        curves = [Curve(name, *every[tag]) for name, tag in tags.items() if tag in every and every[tag].values]
        if curves:
            drawn.append(line_chart(curves, title=chart.title, x_name=chart.x_name, from_zero=chart.from_zero))
    return drawn


def read_log(exp_dir: Path) -> TrainingLog:
    """The parts of log/train-log-*.txt that a report shows; empty where there is none."""
    found = TrainingLog({}, "", [])
    for path in sorted((exp_dir / "log").glob("train-log-*.txt")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            match = re.fullmatch(r"\S+ \S+ (DEBUG|INFO|WARNING) (.*)", line)
            if match and match[1] == "WARNING":
                found = found._replace(warnings=[*found.warnings, match[2]][-MAX_WARNINGS:])
            elif match and match[2].startswith("environment: "):
                found = found._replace(environment=_environment(match[2].removeprefix("environment: ")))
            elif match and re.match(r"(beginning|going on from .*): [\d.]+ million parameters", match[2]):
                found = found._replace(beginning=match[2])
    return found


def _environment(text: str) -> dict[str, str]:
    try:
        values = json.loads(text)
    except ValueError:  # a run was killed while it wrote
        return {}
    return {str(name): str(value) for name, value in values.items()} if isinstance(values, dict) else {}
