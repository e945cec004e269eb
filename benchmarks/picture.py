"""The picture of benchmarks/README.md: every floor and what was measured."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from benchmarks.tables import Floor, Report, shown

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "benchmarks"  # the same picture from the same numbers

from matplotlib import pyplot  # noqa: E402

REACHED, MISSED = "#2a7f62", "#c1440e"
BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


def draw(results: dict[str, dict[str, Report]], path: Path) -> None:
    """Bars of measured over target; left of 1 the floor is reached."""
    floors = [
        (f"{floor.name} ({engine})", floor)
        for engine, reports in results.items()
        for report in reports.values()
        for floor in report.floors
    ]
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.3 * max(len(floors), 1)))
    for row, (_, floor) in enumerate(reversed(floors)):
        share = floor.median / floor.target
        axes.barh(row, share, color=REACHED if floor.reached else MISSED, height=0.7)
        axes.text(share + 0.015, row, label_of(floor), va="center", fontsize=8, bbox=BEHIND_TEXT)
    axes.set_yticks(range(len(floors)), [name for name, _ in reversed(floors)], fontsize=8)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_ylim(-0.7, len(floors) - 0.3)
    axes.set_xlim(0, max([1.3, *(floor.median / floor.target + 0.3 for _, floor in floors)]))
    axes.set_xlabel("measured / target: up to 1 the target is reached")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def label_of(floor: Floor) -> str:
    """The numbers behind a bar."""
    return f"{shown(floor.median)} of {floor.target:g}"
