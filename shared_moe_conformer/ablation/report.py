"""The report of an ablation: tables, each with a picture, written between two marks in a page of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shared_moe_conformer.ablation.results import Rates, Result, RunKey, error_rates
from shared_moe_conformer.ablation.variants import Variant
from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.config import require
from shared_moe_conformer.reporting.page import CURVES, INK, Rate, draw_intervals, drawing, standalone
from shared_moe_conformer.text import counted, markdown_table
from shared_moe_conformer.web import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEGIN = "<!-- written by local/ablation.py --report; do not edit -->"
END = "<!-- end of what local/ablation.py wrote -->"
REFERENCE = "full"
LEGEND = """\
In brackets, and in the picture as lines through the points, are the intervals that hold the numbers with a probability
of 95 %, over utterances and seeds. Orange are the variants that no other beats in both stored parameters and errors.
Bars are the parameters that the encoder stores, strokes those that compute a frame."""
OTHER_METHODS = ("modified_beam_search", "ctc_greedy_search")


class Row(NamedTuple):
    """A variant in the table."""

    variant: Variant
    runs: list[Result]
    unique: int
    """Parameters that the encoder stores."""
    words: Rates
    """Word error rates of greedy search."""
    characters: Rates
    """Character error rates of greedy search."""
    others: list[Rates]
    """Word error rates of the other searches."""


def write_report(page: Path, results: Iterable[Result], variants: dict[str, dict[str, Variant]]) -> None:
    """Replace the text between the marks of a page, and draw the pictures beside the page.

    Args:
      page: a Markdown file of the recipe; one that is missing is made.
      variants: by named config, the variants of its ablation.

    Raises:
      ValueError: the page lacks the marks, or there is nothing to report.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Comparisons\n\n{BEGIN}\n{END}\n"
    require(
        text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END),
        f"{page} lacks the two lines between which the report goes: {BEGIN} and {END}",
    )
    tables = [_section(runs, variants[runs[0].config], page.parent) for runs in _budgets(results)]
    require(bool(tables), "there is no result to report: run the ablation first")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    write_whole(page, before + BEGIN + "\n\n" + "\n\n".join(tables) + "\n\n" + after)


def _budgets(results: Iterable[Result]) -> list[list[Result]]:
    """Groups of comparable results: the same config and options, numbers of epochs and of averaged epochs."""
    groups: dict[RunKey, list[Result]] = {}
    for result in results:
        groups.setdefault(result.key._replace(variant="", seed=0), []).append(result)
    return list(groups.values())


def _section(runs: list[Result], variants: dict[str, Variant], folder: Path) -> str:
    """One table with its picture, in Markdown."""
    rows = _rows(runs, variants)
    first = runs[0]
    name = "-".join(filter(None, (first.config, first.config_digest)))
    averaged = f"-avg-{first.avg}" if first.avg > 1 else ""
    picture = folder / f"ablation-{name}-{first.num_epochs}-epochs{averaged}.svg"
    title = f"{first.config}, {counted(first.num_epochs, 'epoch')}"
    write_whole(picture, standalone(_picture(rows, title=f"{title}: errors of greedy search, and parameters")))
    image = f"![Error rates and parameters of each variant]({picture.name})"
    return "\n\n".join([f"**{title}.** {_description(runs)}", LEGEND, image, _table(rows)])


def _rows(results: Sequence[Result], variants: dict[str, Variant]) -> list[Row]:
    """The variants that have results, in the order of their table; older ones, which it lacks today, are the last."""
    names = sorted({run.variant for run in results}, key=[*variants, *(run.variant for run in results)].index)
    by_variant = {name: [run for run in results if run.variant == name] for name in names}
    words, *others = (
        error_rates(by_variant, method=method, level="word", reference=REFERENCE)
        for method in ("greedy_search", *OTHER_METHODS)
    )
    letters = error_rates(by_variant, method="greedy_search", level="character", reference=REFERENCE)
    return [
        Row(
            variants.get(name, Variant(name, "no variant of today's table")),
            found,
            found[0].encoder_unique,
            words[name],
            letters[name],
            [rates[name] for rates in others],
        )
        for name, found in by_variant.items()
    ]


def _description(runs: Sequence[Result]) -> str:
    """The facts that all runs of a table have in common, as a sentence and a list."""
    first = runs[0]
    numbers = [run.updates for run in runs]
    updates = " to ".join(f"{n:,}" for n in sorted({min(numbers), max(numbers)}))
    minutes = sum(run.minutes for run in runs)
    commits = sorted({(run.commit or "unknown")[:7] for run in runs})
    hardware = sorted({f"{re.sub(', 1 threads$', ', 1 thread', run.hardware)}, {run.engine}" for run in runs})
    flags = "".join(f" `--{name.replace('_', '-')} {value}`" for name, value in first.base_options.items())
    test_set = f"{len(first.words)} utterances, {sum(first.words):,} words, {sum(first.characters):,} characters"
    facts = {
        "test set": test_set,
        "weights": f"mean of the last {first.avg} epochs" if first.avg > 1 else "last epoch",
        "options": f"{first.config_digest}{flags}",
        "commit": ", ".join(commits),
        "machine": "; ".join(hardware),
    }
    listed = [f"* {name}: {fact}" for name, fact in facts.items() if fact]
    return "\n".join(
        [f"{counted(len(runs), 'run')} of {updates} updates, {minutes:.0f} minutes together:", "", *listed]
    )


def _table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    full = next((row.unique for row in rows if row.variant.name == REFERENCE), None)
    head = ["variant", "", "seeds", "stored", "of `full`", "active", "WER %, greedy", "seed by seed", "times `full`",
            "CER %, greedy", "times `full`", "WER %, beam", "WER %, CTC"]  # fmt: skip
    cells = [[
        f"`{row.variant.name}`",
        row.variant.title,
        str(len(row.runs)),
        f"{row.unique / 1e6:.2f} M",
        f"{row.unique / full:.2f}" if full else "",
        f"{row.runs[0].encoder_active / 1e6:.2f} M",
        str(row.words.percent),
        ", ".join(
            f"{100 * sum(run.method('greedy_search').word_errors) / sum(run.words):.1f}"
            for run in sorted(row.runs, key=lambda run: run.seed)
        ),
        _times(row.words),
        str(row.characters.percent),
        _times(row.characters),
        *(f"{rates.percent.mean:.1f}" for rates in row.others),
    ] for row in rows]  # fmt: skip
    return markdown_table(head, cells)


def _times(rates: Rates) -> str:
    """A ratio to the reference, empty where there is none."""
    ratio = rates.ratio
    return "" if ratio.mean != ratio.mean else f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def frontier(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other point beats in both size and error rate, the smallest first.

    Args:
      points: size and error rate; less is better in both.
    """
    best: list[tuple[float, float]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def _picture(rows: Sequence[Row], *, title: str) -> Markup:
    """A row for each variant, the fewest word errors first: both rates with intervals; stored and active parameters.

    The rates of the frontier are orange.
    """
    rows = sorted(rows, key=lambda row: row.words.percent.mean)
    sizes = [row.unique / 1e6 for row in rows]

    def draw(words: Axes, characters: Axes, stored: Axes) -> None:
        for axes, kind, label in ((words, "words", "WER %"), (characters, "characters", "CER %")):
            rates = [Rate(row.variant.name, *getattr(row, kind).percent) for row in rows]
            best = frontier((size, rate.value) for size, rate in zip(sizes, rates))
            draw_intervals(axes, rates, [CURVES[(size, r.value) in best] for size, r in zip(sizes, rates)])
            axes.set_xlabel(label)
        stored.barh(range(len(rows)), sizes, height=0.5, color=CURVES[0], alpha=0.6)
        active = [row.runs[0].encoder_active / 1e6 for row in rows]
        stored.scatter(active, range(len(rows)), marker="|", s=150, color=INK)
        stored.set_xlabel("millions of parameters")
        stored.grid(axis="x")

    return drawing(draw, title=title, width=800, height=90 + 18 * len(rows), panels=3)
