"""Decoding methods side by side, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.decoding.scoring import ErrorRate, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORACLE = " (oracle)"
UNKNOWN = "-"
SECONDS_OF_RTF = "RTF: seconds of encoder and search per second of audio"
HEADER = ("method", "WER % [95 %]", "ins", "del", "sub", "CER % [95 %]", "RTF", "MiB")


def comparison_text(
    scores: Sequence[Scores], *, title: str, left_out: Mapping[str, str], agreement: str | None = None
) -> str:
    """The table, and what is to be known about it.

    Args:
      left_out: methods that could not run, and why.
      agreement: what `agreement_note` says.
    """
    notes = [f"{SECONDS_OF_RTF}, all methods in turn on each batch"]
    if any(s.peak_memory is not None for s in scores):
        notes.append("MiB: memory that the search of the largest batch takes at most, graphs as it loads them included")
    if any(s.is_oracle for s in scores):
        notes.append("oracle: chosen by the transcripts, a bound and no result")
    notes += [agreement] if agreement else []
    notes += [f"left out: {name}: {reason}" for name, reason in left_out.items()]
    return f"{title}\n{table_text(scores)}" + "".join(f"{note}\n" for note in notes)


def table_text(scores: Sequence[Scores]) -> str:
    """One line for each method; the intervals hold the rate with a probability of 95 %."""
    return aligned_columns([HEADER, *map(_row, scores)])


def aligned_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)


def _row(scores: Scores) -> tuple[str, ...]:
    return (
        name_of(scores),
        str(scores.wer).replace(" %", ""),
        *map(str, (scores.wer.insertions, scores.wer.deletions, scores.wer.substitutions)),
        str(scores.cer).replace(" %", ""),
        f"{scores.real_time_factor:.4f}",
        UNKNOWN if scores.peak_memory is None else f"{scores.peak_memory:.1f}",
    )


def name_of(scores: Scores) -> str:
    """The method, marked if it is an oracle."""
    return scores.method + ORACLE * scores.is_oracle


def draw(scores: Sequence[Scores], path: Path, *, title: str) -> None:
    """Write the picture as PNG: error rates with their intervals, real-time factors, and memory where it is known."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"font.size": 9}):
        figure, axes = plt.subplots(
            1, 3, sharey=True, figsize=(11, 1.4 + 0.27 * len(scores)), width_ratios=(2, 1, 1), layout="constrained"
        )
        _error_rates(axes[0], scores)
        _bars(axes[1], scores, [s.real_time_factor for s in scores], "real-time factor")
        _bars(axes[2], scores, [s.peak_memory or 0.0 for s in scores], "memory of the search, MiB")
        for axis in axes:
            _rows(axis, len(scores))
        axes[0].set_yticks(range(len(scores)), [name_of(s) for s in scores])
        figure.suptitle(title)
        with atomic_file(path) as file:
            figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
        plt.close(figure)


def _rows(axis: Axes, num_rows: int) -> None:
    """Every other row shaded, the first one at the top."""
    for row in range(0, num_rows, 2):
        axis.axhspan(row - 0.5, row + 0.5, color="0.95", zorder=0)
    axis.set_ylim(num_rows - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_axisbelow(True)


def _error_rates(axis: Axes, scores: Sequence[Scores]) -> None:
    rates: dict[str, list[ErrorRate]] = {"WER": [s.wer for s in scores], "CER": [s.cer for s in scores]}
    for shift, (name, of_methods), colour in zip((-0.2, 0.2), rates.items(), ("C0", "C1")):
        for place, (rate, of_method) in enumerate(zip(of_methods, scores)):
            axis.errorbar(
                rate.percent,
                place + shift,
                xerr=[[rate.percent - rate.low], [rate.high - rate.percent]],
                fmt="o",
                color=colour,
                markerfacecolor="white" if of_method.is_oracle else colour,
                capsize=2,
                markersize=4,
                label=name if place == 0 else None,
            )
            axis.annotate(
                f"{rate.percent:.1f}", (rate.high, place + shift), (4, 0), textcoords="offset points",
                fontsize=6.5, color=colour, va="center",
            )  # fmt: skip
    axis.set_xlabel("errors in %, with 95 % intervals; hollow, light: oracle; green: embedded")
    axis.grid(axis="x", alpha=0.3)
    axis.margins(x=0.12)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)


def _bars(axis: Axes, scores: Sequence[Scores], values: Sequence[float], label: str) -> None:
    colours = ["0.75" if s.is_oracle else "C2" if "(embedded)" in s.method else "0.5" for s in scores]
    bars = axis.barh(range(len(scores)), values, color=colours, height=0.6)
    axis.bar_label(bars, fmt="%.2g" if max(values, default=0) < 10 else "%.1f", padding=2, fontsize=7)
    axis.set_xlabel(label)
    axis.margins(x=0.3)
