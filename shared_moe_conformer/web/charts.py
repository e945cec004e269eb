"""Word error rates as a picture: bars in an SVG that stands in a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape

LABELS, BARS, ROW, HEAD = 245, 230, 22, 26
"""Width of the labels and of the longest bar, height of a row and of a test set's heading, in pixels."""
MAX_ROWS = 100
"""Bars at most; a recipe has about ten."""
LONGEST_LABEL = 36
"""Characters of a label that are shown."""
LONGEST_TITLE = 300
"""Characters that one sees who points at it."""


def wer_chart(error_rates: Mapping[str, Mapping[str, float]]) -> str:
    """Bars of the word error rates in percent, by test set and search; an empty text where there are none.

    Args:
      error_rates: perhaps anybody's: names of any kind, rates that are no numbers.
    """
    shown = [rate for rates in error_rates.values() for rate in rates.values() if _is_rate(rate)]
    if not any(error_rates.values()):
        return ""
    parts, y = [], 0
    for kind, label, rate in list(_rows(error_rates))[:MAX_ROWS]:
        parts.append(_heading(label, y) if kind == "test set" else _bar(label, rate, y, most=max(shown, default=0.0)))
        y += HEAD if kind == "test set" else ROW
    best = f", the best {min(shown):.2f} %" if shown else ""
    opening = (
        f'<svg class="chart" role="img" aria-label="Word error rates{best}" viewBox="0 0 {LABELS + BARS + 80} {y}">'
    )
    return "\n".join([opening, *parts, "</svg>"])


def _rows(error_rates: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, str, float]]:
    for test_set, rates in error_rates.items():
        yield "test set", test_set, 0.0
        for method, rate in rates.items():
            yield "search", method, rate


def _heading(test_set: str, y: int) -> str:
    return f'<text class="set" x="0" y="{y + 18}">{_shortened(test_set)}</text>'


def _bar(method: str, rate: float, y: int, *, most: float) -> str:
    fits = _is_rate(rate)
    width = BARS * rate / most if fits and most > 0 else 0.0
    value = f"{rate:.2f} %" if fits else "no number"
    return (
        f'<text x="0" y="{y + 15}">{_shortened(method)}<title>{escape(method[:LONGEST_TITLE])}</title></text>'
        f'<rect x="{LABELS}" y="{y + 3}" width="{width:.1f}" height="{ROW - 6}" rx="2"/>'
        f'<text class="rate" x="{LABELS + width + 6:.1f}" y="{y + 15}">{value}</text>'
    )


def _is_rate(rate: float) -> bool:
    return math.isfinite(rate) and 0 <= rate < 1e6


def _shortened(text: str) -> str:
    return escape(text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}\u2026")
