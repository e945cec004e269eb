"""The file of a report, and its charts as SVG, which matplotlib draws in the page's colours, by day and by night."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from shared_moe_conformer.web import STYLE, Markup, read_page, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def page(title: str, *parts: Markup | None) -> str:
    """The whole file. It loads nothing, and its policy forbids the browser to."""
    text = read_page("report.html").replace("<!-- title -->", escape(title))
    return text.replace("<!-- body -->", tag("main", *parts))


COLOURS = dict(re.findall(r"--([\w-]+): (#\w{6});", STYLE.partition("@media")[0]))
"""The pages' colours by day, by their CSS variables. Charts are drawn in them; variables then take their places."""
INK, FAINT, LINE, CARD, WARN = (COLOURS[name] for name in ("ink", "soft", "grid", "card", "bad"))
CURVES = [COLOURS[name] for name in ("e0", "e1", "e2", "e3", "e5", "e7")]
"""Six colours that can be told apart."""
MAX_POINTS = 300
"""Points of a curve; more are averaged."""
LOGARITHMIC_FROM = 20.0
"""Largest value over smallest from which an axis is logarithmic."""
DRAWING: dict[Any, Any] = {
    "font.size": 12,
    "font.sans-serif": ["DejaVu Sans"],
    "text.parse_math": False,
    "text.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "chart",
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": LINE,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


class Curve(NamedTuple):
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Rate(NamedTuple):
    """A rate and its interval."""

    name: str
    value: float
    low: float
    high: float


def drawing(draw: Callable[..., None], *, title: str, width: float, height: float, panels: int = 1) -> Markup:
    """A picture with a title and a size in pixels; the urls of its artists become tooltips.

    Args:
      draw: called with the axes of each panel; those of several, side by side, have the same rows.
    """
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(DRAWING):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        figure.suptitle(title, x=0.012, ha="left")
        draw(*figure.subplots(1, panels, sharey=True, squeeze=False)[0])
        figure.savefig(file, format="svg", transparent=True)
    drawn = file.getvalue().partition("<svg")[2].partition(">")[2]
    drawn = re.sub(
        r'<metadata>.*?</metadata>|(?<=<g) id="[^"]*"| transform="rotate\(-0 .*?"', "", drawn, flags=re.DOTALL
    )
    drawn = re.sub(r'<a xlink:href="([^"]*)"[^>]*>', r'<g class="hint"><title>\1</title>', drawn).replace(
        "</a>", "</g>"
    )
    drawn = drawn.replace("'DejaVu Sans'", "system-ui")  # matplotlib measured with this font, which is wider than most
    drawn = re.sub(' [dxy]="[^"]*"', lambda numbers: re.sub(r"(\.\d)\d+", r"\1", numbers[0]), drawn)
    for name, colour in COLOURS.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    head = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img"'
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Markup(f'<svg {head} aria-label="{escape(title)}" {spaces}>{tag("title", title)}{drawn.strip()}')


def standalone(picture: Markup) -> Markup:
    """A picture as a file of its own, with its colours and a background."""
    ground = f'<style>{STYLE}</style><rect width="100%" height="100%" fill="var(--card)" rx="6"/>'
    return Markup(picture.replace("<title>", f"{ground}<title>", 1) + "\n")


def line_chart(curves: Sequence[Curve], *, title: str, x_name: str, from_zero: bool = False) -> Markup:
    """Curves in one chart; the vertical axis is logarithmic if the values span a wide range.

    Args:
      curves: points that are not finite are left out.
      title: the quantity shown, and its unit.
      x_name: the unit of the horizontal axis.
      from_zero: the vertical axis begins at 0.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    curves = [thin(curve) for curve in curves]
    values = [value for curve in curves for value in curve.y]
    logarithmic = not from_zero and bool(values) and 0 < min(values) * LOGARITHMIC_FROM <= max(values)

    def draw(axes: Axes) -> None:
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.minorticks_off()
        for curve, colour in zip(curves, CURVES):
            axes.plot(curve.x, curve.y, color=colour, linewidth=1.8, label=curve.name)
            hints = [f"{curve.name}, {x:g}: {y:.4g}" for x, y in zip(curve.x, curve.y)]
            axes.scatter(curve.x, curve.y, s=30, color=colour, alpha=0.001 if len(hints) > 1 else 1, urls=hints)
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(curves) > 1:
            axes.legend(facecolor=CARD, edgecolor=LINE, framealpha=0.8)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.set_xlabel(x_name, loc="right")

    return drawing(draw, title=title + " (logarithmic)" * logarithmic, width=500, height=250)


def thin(curve: Curve) -> Curve:
    """The finite points; if there are more than 300, means of neighbouring ones."""
    points = [(x, y) for x, y in zip(curve.x, curve.y) if math.isfinite(y)]
    size = math.ceil(len(points) / MAX_POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return Curve(curve.name, [g[-1][0] for g in groups], [sum(y for _, y in g) / len(g) for g in groups])


def interval_chart(rates: Sequence[Rate], *, title: str) -> Markup:
    """A row for each rate: a dot on the line of its interval."""

    def draw(axes: Axes) -> None:
        draw_intervals(axes, rates)
        for row, rate in enumerate(rates):
            axes.text(1.02, row, f"{rate.value:.2f}", va="center", transform=axes.get_yaxis_transform())
        axes.set_xlim(left=0)

    return drawing(draw, title=title, width=640, height=60 + 26 * len(rates))


def draw_intervals(axes: Axes, rates: Sequence[Rate], colours: Sequence[str] | None = None) -> None:
    """Draw what `interval_chart` does, without the numbers, each row in its colour."""
    rows, colours = range(len(rates)), colours or CURVES[:1] * len(rates)
    axes.hlines(rows, [r.low for r in rates], [r.high for r in rates], color=colours, alpha=0.35, linewidth=5)
    hints = [f"{r.name}: {r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in rates]
    axes.scatter([r.value for r in rates], rows, color=colours, zorder=2, urls=hints)
    axes.set_yticks(rows, [rate.name for rate in rates], color=INK)
    axes.set_ylim(len(rates) - 0.5, -0.5)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x")
