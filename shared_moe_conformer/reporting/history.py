"""What a training has written about itself: TensorBoard's scalars, and the log."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shared_moe_conformer.config import require

MAX_WARNINGS = 200


class Series(NamedTuple):
    """A quantity over the training."""

    steps: list[int]
    values: list[float]


class TrainingLog(NamedTuple):
    """What is read of the log, of all runs of a training."""

    environment: dict[str, str]
    """Of the last run; empty where the version that trained did not log it."""
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
