"""An experiment as one page: its course, its experts, its results and its options."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from shared_moe_conformer.config import Config, load_config, options_by_name, to_dict
from shared_moe_conformer.reporting.experts import collapsed_experts, expert_charts
from shared_moe_conformer.reporting.page import Curve, Rate, interval_chart, line_chart, page
from shared_moe_conformer.reporting.records import (
    Result,
    Series,
    TrainingLog,
    most_frequent_errors,
    read_history,
    read_log,
    read_results,
    wer_by_epoch,
)
from shared_moe_conformer.text import counted
from shared_moe_conformer.web import Markup, cards, folded, listed, section, table, tag, tiles, warning, wide_card

MAX_LOG_LINES = 40
MAX_NAME = 30
PLAIN_SEARCH = "greedy_search"
"""Search whose word error rate comes first. The best of many, chosen on the test set itself, would flatter."""


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


class Experiment(NamedTuple):
    """The records of an experiment that a report shows."""

    name: str
    config: Config
    history: Mapping[str, Series]
    log: TrainingLog
    results: list[Result]


def read_experiment(exp_dir: Path) -> Experiment:
    """The experiment whose training and decodings are in a folder.

    Raises:
      FileNotFoundError: no training there.
      ValueError: its files are damaged, or nothing has been written yet.
    """
    config = load_config(exp_dir / "config.json")
    return Experiment(exp_dir.resolve().name, config, read_history(exp_dir), read_log(exp_dir), read_results(exp_dir))


def experiment_page(experiment: Experiment, *, parameters: Sequence[tuple[str, int]] = ()) -> str:
    """The page.

    Args:
      parameters: counts by their names.
    """
    config = experiment.config
    beginning = re.sub(r"going on from .*/", "going on from ", experiment.log.beginning)
    environment = experiment.log.environment
    about = f"{config.data.corpus}, {config.data.language}; {beginning}".rstrip("; ")
    return page(
        f"{experiment.name}: training report",
        tag("h1", experiment.name),
        tag("p", about, class_="soft"),
        tiles(_key_numbers(experiment, parameters)),
        *_warnings(experiment),
        section("Training", cards(*training_charts(experiment.history))),
        section("Experts", *expert_charts(experiment.history, config.model.encoder)),
        section("Results", *_results(experiment.results)),
        section("Most frequent errors", *_errors(experiment.results)),
        section("Options", *(folded(name, _option_table(values)) for name, values in to_dict(config).items())),
        section("Environment", wide_card(table(["", ""], [*environment.items()])) if environment else None),
    )


def training_charts(history: Mapping[str, Series]) -> list[Markup]:
    """A chart of each quantity that the training wrote."""
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


def _key_numbers(experiment: Experiment, parameters: Sequence[tuple[str, int]]) -> list[tuple[str, str]]:
    epochs, rates = wer_by_epoch(experiment.history)
    planned = math.ceil(experiment.config.training.length)
    numbers = [(f"{epochs[-1] if epochs else 0} of {planned}", "epochs")]
    if rates:
        best = min(range(len(rates)), key=rates.__getitem__)
        numbers.append((f"{rates[best]:.1f} %", f"best dev WER, CTC greedy, epoch {epochs[best]}"))
    plain: dict[str, Result] = {}
    for result in experiment.results:
        if result.method == PLAIN_SEARCH:
            plain.setdefault(result.test_set, result)
    numbers += [(f"{r.wer:.1f} %", f"WER on {name}, {r.method}, {r.checkpoint}") for name, r in plain.items()]
    numbers += [(f"{count / 1e6:.2f} M", name) for name, count in parameters]
    speed = experiment.history.get("speed/hours_of_audio_per_hour")
    if speed:
        numbers.append((f"{sorted(speed.values)[len(speed.values) // 2]:.0f} h/h", "hours of audio per hour, median"))
    return numbers


def _warnings(experiment: Experiment) -> list[Markup]:
    boxes = []
    found = collapsed_experts(experiment.history, experiment.config.model.encoder)
    if found:
        boxes.append(warning(tag("b", "Experts that are hardly used"), listed(found)))
    skipped = experiment.history.get("train/num_skipped")
    count = round(sum(skipped.values)) if skipped else 0
    if count:
        why = listed(["A loss or the gradient was not finite: see the log."])
        boxes.append(warning(tag("b", f"Skipped: {counted(count, 'update')}"), why))
    lines = experiment.log.warnings
    if lines:
        boxes.append(warning(folded(f"{counted(len(lines), 'warning')} in the log", listed(lines[-MAX_LOG_LINES:]))))
    return boxes


def _results(results: Sequence[Result]) -> list[Markup]:
    parts = []
    for test_set in dict.fromkeys(result.test_set for result in results):
        own = [result for result in results if result.test_set == test_set]
        rates = [Rate(name, r.wer, r.wer_low, r.wer_high) for name, r in zip(_row_names(own), own)]
        chart = interval_chart(rates[:20], title=f"{test_set}: WER in percent, with its 95 % interval")
        rows = [
            [r.settings, r.checkpoint, r.errors, f"{r.wer:.2f}", f"{r.cer:.2f}", f"{r.real_time_factor:.4f}"]
            for r in own
        ]
        columns = ["settings", "weights", f"errors of {own[0].words} words", "WER %", "CER %", "RTF"]
        parts.append(wide_card(chart, table(columns, rows, numbers=3)))
    return parts


def _row_names(results: Sequence[Result]) -> list[str]:
    """The methods, with options where a method occurs more than once, and with weights where these differ."""
    methods = Counter(result.method for result in results)
    several = len({result.checkpoint for result in results}) > 1
    names = []
    for result in results:
        name = result.method if methods[result.method] == 1 else result.settings
        short = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
        names.append(short + f" ({result.checkpoint})" * several)
    return names


def _errors(results: Sequence[Result]) -> list[Markup]:
    """The most frequent errors of the best method on each test set."""
    parts = []
    for test_set in dict.fromkeys(result.test_set for result in results):
        best = next(result for result in results if result.test_set == test_set)
        lists = [
            tag("div", tag("h3", kind.lower()), table(["", ""], [[what, str(n)] for n, what in found], numbers=1))
            for kind, found in most_frequent_errors(best).items()
        ]
        shown = cards(*lists)
        if shown:
            parts += [tag("p", f"{test_set}, {best.method} (reference -> recognised)", class_="soft"), shown]
    return parts


def _option_table(values: dict[str, Any]) -> Markup:
    rows = [
        [name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)]
        for name, value in options_by_name(values).items()
    ]
    return table(["option", "value"], rows)
