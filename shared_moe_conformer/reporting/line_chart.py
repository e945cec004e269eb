"""Curves over the steps or epochs of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from shared_moe_conformer.reporting.axis import Axis, axis_of, short
from shared_moe_conformer.reporting.markup import Markup, tag
from shared_moe_conformer.reporting.style import NUM_COLOURS
from shared_moe_conformer.reporting.svg import CHARACTER_WIDTH, drawing, label, text_width

WIDTH, HEIGHT = 500.0, 250.0
TOP, BOTTOM, RIGHT = 46.0, 40.0, 14.0
MAX_POINTS = 300
"""Points of a curve; more are averaged."""


class Curve(NamedTuple):
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class _Frame(NamedTuple):
    """Where the chart's axes are."""

    left: float
    x: Axis
    y: Axis

    def point(self, x: float, y: float) -> tuple[float, float]:
        across, up = self.x.place(x), self.y.place(y)
        return self.left + across * (WIDTH - RIGHT - self.left), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)


def line_chart(curves: Sequence[Curve], *, title: str, x_name: str, from_zero: bool = False) -> Markup:
    """Curves in one frame; the vertical axis is logarithmic where the values need it.

    Args:
      curves: with at least one finite point among them; points that are not finite are left out.
      title: what is shown, and its unit.
      x_name: what the horizontal axis counts.
      from_zero: the vertical axis begins at 0.
    """
    thinned = [thin(curve) for curve in curves]
    y = axis_of([v for c in thinned for v in c.y], from_zero=from_zero, may_be_logarithmic=not from_zero)
    x = _across([v for c in thinned for v in c.x] or [0.0])
    frame = _Frame(18 + text_width([short(tick) for tick in y.ticks]), x, y)
    parts = [label(12, 20, title + (" (logarithmic)" if y.logarithmic else ""), class_="title")]
    parts += _grid(frame, x_name)
    parts += _legend([curve.name for curve in thinned])
    for number, curve in enumerate(thinned):
        parts += _curve(frame, curve, colour=f"var(--c{number % NUM_COLOURS})")
    return drawing(WIDTH, HEIGHT, *parts, title=title)


def thin(curve: Curve) -> Curve:
    """The finite points, or if they are many the means of as many as make 300."""
    points = [(x, y) for x, y in zip(curve.x, curve.y) if math.isfinite(y)]
    size = math.ceil(len(points) / MAX_POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return Curve(curve.name, [g[-1][0] for g in groups], [sum(y for _, y in g) / len(g) for g in groups])


def _across(values: Sequence[float]) -> Axis:
    """The horizontal axis, which ends where the values do."""
    low, high = min(values), max(values)
    return Axis(low, max(high, low + 1), [tick for tick in axis_of(values, num_steps=8).ticks if low <= tick <= high])


def _grid(frame: _Frame, x_name: str) -> list[Markup]:
    parts = []
    for tick in frame.y.ticks:
        _, y = frame.point(frame.x.low, tick)
        parts.append(tag("line", x1=frame.left, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(label(frame.left - 6, y + 4, short(tick), anchor="end", class_="faint"))
    for tick in frame.x.ticks:
        x, _ = frame.point(tick, frame.y.low)
        parts.append(label(x, HEIGHT - BOTTOM + 16, short(tick), anchor="middle", class_="faint"))
    return [*parts, label(WIDTH - RIGHT, HEIGHT - 8, x_name, anchor="end", class_="faint")]


def _legend(names: Sequence[str]) -> list[Markup]:
    """The curves' names in their colours; a single curve is what the title says."""
    parts, x = [], 12.0
    for number, name in enumerate(names if len(names) > 1 else []):
        parts.append(tag("rect", x=x, y=29, width=10, height=4, rx=2, fill=f"var(--c{number % NUM_COLOURS})"))
        parts.append(label(x + 14, 35, name, class_="faint"))
        x += 26 + CHARACTER_WIDTH * len(name)
    return parts


def _curve(frame: _Frame, curve: Curve, *, colour: str) -> list[Markup]:
    points = [frame.point(x, y) for x, y in zip(curve.x, curve.y)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    spots = [
        tag(
            "circle",
            tag("title", f"{curve.name}, {short(x)}: {y:.4g}"),
            cx=place[0],
            cy=place[1],
            r=4 if len(points) > 1 else 3,
            class_="spot" if len(points) > 1 else None,
            fill=colour,
        )
        for x, y, place in zip(curve.x, curve.y, points)
    ]
    return [tag("polyline", points=path, class_="curve", stroke=colour), *spots]
