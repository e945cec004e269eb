"""The records of an experiment: TensorBoard's scalars, the log, and the error rates and errors of decoded test sets."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shared_moe_conformer.config import require

MAX_WARNINGS = 200
RATES = ("WER", "WER-low", "WER-high", "CER")
ERROR_KINDS = ("SUBSTITUTIONS", "DELETIONS", "INSERTIONS")
CHECKPOINT = r"(?:averaged-)?(?:epoch|iter)-\d+-avg-\d+|best-valid-wer"
"""Pattern of the names that `Selection.name` gives weights."""


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
    """TensorBoard's scalars by their tags; steps that a resumed training repeated count once.

    Raises:
      FileNotFoundError: the folder holds no training.
      ValueError: nothing has been written yet.
    """
    folder = exp_dir / "tensorboard"
    if not folder.is_dir():
        raise FileNotFoundError(f"no training in {exp_dir}: train first (./train.py), or name another folder")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of steps that a resumed training repeated
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    history = {}
    for tag in events.Tags()["scalars"]:
        points = {event.step: event.value for event in events.Scalars(tag)}
        history[tag] = Series(*map(list, zip(*sorted(points.items()))))  # type: ignore[arg-type]
    require(bool(history), f"{folder} holds no point yet: wait for the end of the first epoch")
    return history


def dev_epochs(history: Mapping[str, Series]) -> list[int]:
    """The epoch of each validation; older trainings did not write it and validated every epoch from 1."""
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


class Result(NamedTuple):
    """Error rates of one method on one test set."""

    test_set: str
    checkpoint: str
    """Name of the weights, e.g. epoch-30-avg-9."""
    method: str
    settings: str
    wer: float
    """Percent."""
    wer_low: float
    wer_high: float
    errors: str
    """Insertions, deletions and substitutions, in words."""
    words: int
    cer: float
    """Percent."""
    real_time_factor: float
    path: Path
    """The wer-summary file with these rates."""


def read_results(exp_dir: Path) -> list[Result]:
    """All results of an experiment by test set, best first; files that are damaged or of another form are skipped."""
    found = []
    for path in sorted(exp_dir.glob("*/wer-summary-*.txt")):
        match = re.fullmatch(rf"wer-summary-(.+?)-({CHECKPOINT})-.+\.txt", path.name)
        if match:
            found += [_result(row, match, path) for row in _rows(path)]
    return sorted(found, key=lambda result: (result.test_set, result.wer, result.settings))


def most_frequent_errors(result: Result, *, at_most: int = 15) -> dict[str, list[tuple[int, str]]]:
    """Words that were confused, lost or invented, with counts, most frequent first; empty without an errs- file."""
    path = result.path.with_name(result.path.name.replace("wer-summary-", "errs-", 1))
    if not path.is_file():
        return {}
    sections: dict[str, list[tuple[int, str]]] = {}
    current = None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        heading = re.match(r"([A-Z-]+(?: [A-Z]+)?): ", line)
        if heading:
            current = heading[1] if heading[1] in ERROR_KINDS else None
        match = re.fullmatch(r"(\d+)   (.+)", line)
        if current and match and len(sections.setdefault(current, [])) < at_most:
            sections[current].append((int(match[1]), match[2]))
    return sections


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        return [row for row in rows if row.get("settings") and all(map(_is_number, map(row.get, RATES)))]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and float(text) >= 0
    except ValueError:
        return False


def _result(row: dict[str, str], match: re.Match[str], path: Path) -> Result:
    return Result(
        test_set=match[1],
        checkpoint=match[2],
        method=path.parent.name,
        settings=row["settings"],
        wer=float(row["WER"]),
        wer_low=float(row["WER-low"]),
        wer_high=float(row["WER-high"]),
        errors=", ".join(f"{row.get(kind) or '?'} {kind}" for kind in ("ins", "del", "sub")),
        words=int(row["words"]) if (row.get("words") or "").isdigit() else 0,
        cer=float(row["CER"]),
        real_time_factor=float(row["RTF"]) if _is_number(row.get("RTF")) else float("nan"),
        path=path,
    )
