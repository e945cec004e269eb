"""The picture of an ablation: error rates against the encoder's stored parameters, and the frontier between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shared_moe_conformer.ablation.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FONT_SIZE, LINE_HEIGHT = 7, 9.1
"""Of the points' names, in points."""
SMALLEST_HEIGHT, MARGINS = 3.6, 1.0
"""Of the picture, in inches; and what of its height is not the panels'."""


class Point(NamedTuple):
    """A variant in the picture."""

    name: str
    unique: int
    """Parameters that the encoder stores."""
    wer: Estimate
    cer: Estimate


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of which no other is both smaller and better, from the smallest on.

    Args:
      points: size and error rate; less is better in both.
    """
    best: list[tuple[float, float]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def draw(path: Path, points: Sequence[Point]) -> None:
    """Write the picture as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ablation", "font.size": 9}):
        height = max(SMALLEST_HEIGHT, MARGINS + 1.2 * LINE_HEIGHT * len(points) / 72)
        figure, axes = plt.subplots(1, 2, figsize=(10, height), layout="constrained")
        for axis, kind, name in zip(axes, ("wer", "cer"), ("WER", "CER")):
            _panel(axis, [(p.unique / 1e6, getattr(p, kind)) for p in points])
            axis.set(xlabel="parameters that the encoder stores, in millions", ylabel=f"{name} in %, greedy search")
        figure.draw_without_rendering()  # from here on it is known how high a point lies
        for axis, kind in zip(axes, ("wer", "cer")):
            _name(axis, {p.name: (p.unique / 1e6, getattr(p, kind).mean) for p in points})
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights, moved as little as it takes for each to be a gap away from the next; in the same order."""
    groups: list[tuple[float, list[int]]] = []
    for index in sorted(range(len(heights)), key=heights.__getitem__):
        middle, members = heights[index], [index]
        while groups and middle - groups[-1][0] < gap * (len(groups[-1][1]) + len(members)) / 2:
            members = groups.pop()[1] + members
            middle = sum(heights[member] for member in members) / len(members)
        groups.append((middle, members))
    places = {m: mid + gap * (i - (len(group) - 1) / 2) for mid, group in groups for i, m in enumerate(group)}
    return [places[index] for index in range(len(heights))]


def within(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The heights, so that `spread` by this gap leaves all between low and high if there is room for them."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    places = {
        index: max(min(heights[index], high - gap * (len(order) - 1 - i)), low + gap * i)
        for i, index in enumerate(order)
    }
    return [places[index] for index in range(len(heights))]


def _panel(axis: Axes, points: Sequence[tuple[float, Estimate]]) -> None:
    for size, rate in points:
        axis.errorbar(size, rate.mean, yerr=[[rate.mean - rate.low], [rate.high - rate.mean]], fmt="o", color="C0",
                      ecolor="0.75", markersize=4)  # fmt: skip
    best = frontier([(size, rate.mean) for size, rate in points])
    axis.step(*zip(*best), where="post", color="C1", linewidth=1)
    axis.margins(x=0.08)
    axis.grid(alpha=0.3)


def _name(axis: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write the points' names in a column to the right of the panel, each with a line to its point."""
    to_pixels = axis.transData
    heights, gap = [to_pixels.transform(point)[1] for point in points.values()], LINE_HEIGHT * axis.figure.dpi / 72
    places = spread(within(heights, gap, *axis.bbox.intervaly), gap)
    for (name, point), height in zip(points.items(), places):
        text = (1.05, float(to_pixels.inverted().transform((0, height))[1]))
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
        axis.annotate(name, point, text, textcoords=axis.get_yaxis_transform(), fontsize=FONT_SIZE, va="center",
                      arrowprops=line)  # fmt: skip
