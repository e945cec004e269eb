"""Comparisons of decoding methods, of engines, of confidences with errors, and of clean with distorted recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import kaldialign

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.methods import label
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.scoring import GAP, ErrorRate, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORACLE = " (oracle)"
UNKNOWN = "-"
SECONDS_OF_RTF = "RTF: seconds of encoder and search per second of audio"
HEADER = ("method", "WER % [95 %]", "ins", "del", "sub", "CER % [95 %]", "RTF", "MiB")

EDGES = (0.5, 0.8, 0.95)
"""Confidences at which the next bin begins."""
BINS = ("below 0.5", "0.5 to 0.8", "0.8 to 0.95", "0.95 or more")

Judged = tuple[float, bool]
"""A word's confidence, and whether it is right."""


def comparison_text(
    scores: Sequence[Scores], *, title: str, left_out: Mapping[str, str], agreement: str | None = None
) -> str:
    """The table, with notes below it.

    Args:
      left_out: methods that could not run, and why.
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


def agreement_note(found: Mapping[DecodingConfig, Sequence[Hypothesis]]) -> str | None:
    """A sentence about how often k2 and the embedded engine agree; None where no search was made by both.

    It counts the utterances in which they find the same words or tokens, and tells by how much scores differ there.

    Args:
      found: the hypotheses of each search, of the same utterances.
    """
    counts: dict[str, int] = {}
    largest = 0.0
    total = 0
    for config, hyps in found.items():
        others = found.get(replace_fields(config, {"lattice_engine": "embedded"}))
        if config.lattice_engine != "k2" or others is None:
            continue
        same = [(a.score, b.score) for a, b in zip(hyps, others, strict=True) if _output(a) == _output(b)]
        largest = max(largest, *(abs(a - b) for a, b in same if a != b), 0.0)
        counts[label(config).replace(" (k2)", "")] = len(same)
        total = len(hyps)
    if not counts:
        return None
    scores = f"scores that differ by {largest:.1g} at most" if largest else "the same score"
    searches = "1 search" if len(counts) == 1 else f"{len(counts)} searches"
    return f"k2 and embedded, {searches}: the same text {_where(counts, total)}; and there {scores}"


def _where(counts: Mapping[str, int], total: int) -> str:
    """The number of utterances in which the engines agree; searches that disagree in some are named."""
    fewer = ", ".join(f"in {count} of {total} by {name}" for name, count in counts.items() if count < total)
    some_agree = total in counts.values()
    return ", but ".join([f"in all {total} utterances"] * some_agree + [fewer] * bool(fewer))


def _output(hyp: Hypothesis) -> Sequence[str] | Sequence[int]:
    return hyp.tokens if hyp.words is None else hyp.words


def judged_words(ref: Sequence[str], hyp: Sequence[tuple[str, float | None]]) -> list[Judged]:
    """The recognised words of an utterance, without those that have no confidence.

    Args:
      hyp: each recognised word and its confidence.
    """
    pairs = [(said, word) for said, word in kaldialign.align(ref, [word for word, _ in hyp], GAP) if word != GAP]
    return [(sure, said == word) for (said, word), (_, sure) in zip(pairs, hyp, strict=True) if sure is not None]


def calibration_text(judged: Mapping[str, Sequence[Judged]], *, title: str) -> str:
    """A table: for each method, how many of its words are right, by their confidence."""
    rows = [("method", *BINS), *((method, *_bins(words)) for method, words in judged.items() if words)]
    return f"{title}: words that are right, by their confidence\n{aligned_columns(rows)}"


def _bins(words: Sequence[Judged]) -> list[str]:
    bins: list[list[bool]] = [[] for _ in BINS]
    for confidence, is_right in words:
        bins[sum(confidence >= edge for edge in EDGES)].append(is_right)
    return [f"{100 * sum(right) / len(right):.0f} % of {len(right)}" if right else "-" for right in bins]


def distortion_table(clean: Sequence[Scores], distorted: Sequence[Sequence[Scores]]) -> str:
    """Rows of Markdown: each method clean, then distorted, and by what factor its word error rate grows.

    Args:
      clean: of one test set, one per method.
      distorted: the same for each distortion; its test sets are named `<test set>-<distortion>`.
    """
    test_set = clean[0].test_set
    lines = [f"| {test_set} | WER % [95 %] | ins | del | sub | times clean |", "|---|---|---|---|---|---|"]
    for own in [clean, *distorted]:
        name = own[0].test_set.removeprefix(f"{test_set}-") if own is not clean else "clean"
        for before, score in zip(clean, own, strict=True):
            wer, method = score.wer, f", {score.method}" if len(clean) > 1 else ""
            rate = f"{wer.percent:.2f} [{wer.low:.2f}, {wer.high:.2f}]"
            times = f"{wer.percent / before.wer.percent:.2f}" if before.wer.errors else "-"
            counts = f"{wer.insertions} | {wer.deletions} | {wer.substitutions}"
            lines.append(f"| {name}{method} | {rate} | {counts} | {times} |")
    return "\n".join(lines) + "\n"
