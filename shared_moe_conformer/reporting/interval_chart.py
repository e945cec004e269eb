"""Rates with their intervals, one row for each, on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shared_moe_conformer.reporting.axis import axis_of, short
from shared_moe_conformer.reporting.markup import Markup, tag
from shared_moe_conformer.reporting.svg import drawing, label, text_width

WIDTH, ROW, TOP = 640.0, 26.0, 34.0


class Rate(NamedTuple):
    """A row."""

    name: str
    value: float
    low: float
    high: float


def interval_chart(rates: Sequence[Rate], *, title: str) -> Markup:
    """A spot for each rate in the line of its interval."""
    left, right = text_width([rate.name for rate in rates]) + 20, WIDTH - 60
    axis = axis_of([v for rate in rates for v in (rate.low, rate.high)], from_zero=True)
    bottom = TOP + ROW * len(rates)

    def x(value: float) -> float:
        return left + axis.place(value) * (right - left)

    parts = [label(12, 20, title, class_="title")]
    for tick in axis.ticks:
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=TOP, y2=bottom, class_="grid"))
        parts.append(label(x(tick), bottom + 14, short(tick), anchor="middle", class_="faint"))
    for row, rate in enumerate(rates):
        y = TOP + ROW * (row + 0.5)
        hint = tag("title", f"{rate.name}: {rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]")
        line = tag("line", x1=x(rate.low), x2=x(rate.high), y1=y, y2=y, stroke="var(--c0)", stroke_width=5,
                   stroke_opacity=0.35, stroke_linecap="round")  # fmt: skip
        spot = tag("circle", cx=x(rate.value), cy=y, r=5, fill="var(--c0)")
        parts.append(tag("g", hint, label(12, y + 4, rate.name), line, spot))
        parts.append(label(WIDTH - 12, y + 4, f"{rate.value:.2f}", anchor="end"))
    return drawing(WIDTH, bottom + 22, *parts, title=title)
