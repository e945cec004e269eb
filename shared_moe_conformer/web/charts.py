"""Word error rates as a picture: a table of each test set's searches, a bar beside each rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from shared_moe_conformer.release.manifest import is_default_search

MAX_ROWS = 100
"""Bars of a test set at most; a recipe has about thirty."""
LONGEST_LABEL = 80
"""Characters of a name that are shown."""


def wer_chart(error_rates: Mapping[str, Mapping[str, float]]) -> str:
    """Tables of the word error rates in percent, one for each test set; an empty text where there are none.

    Bars of all test sets have one scale, and the search by which a zoo compares models stands out and is first.

    Args:
      error_rates: perhaps anybody's: names of any kind, rates that are no numbers.
    """
    most = max((rate for rates in error_rates.values() for rate in rates.values() if _is_rate(rate)), default=0.0)
    return "\n".join(_table(test_set, rates, most=most) for test_set, rates in error_rates.items() if rates)


def _table(test_set: str, rates: Mapping[str, float], *, most: float) -> str:
    in_order = sorted(rates.items(), key=lambda item: not is_default_search(item[0]))
    rows = [_row(method, rate, most=most) for method, rate in in_order[:MAX_ROWS]]
    return "\n".join([f'<table class="chart"><caption>{_shortened(test_set)}</caption>', *rows, "</table>"])


def _row(method: str, rate: float, *, most: float) -> str:
    fits = _is_rate(rate)
    share = 100 * rate / most if fits and most > 0 else 0.0
    value = f"{rate:.2f} %" if fits else "no number"
    compared = ' class="compared"' if is_default_search(method) else ""
    bar = f'<svg aria-hidden="true"><rect width="{share:.1f}%" height="100%" rx="2"/></svg>'
    return (
        f'<tr{compared}><th scope="row">{_shortened(method)}</th>'
        f'<td class="bar">{bar}</td><td class="number">{value}</td></tr>'
    )


def _is_rate(rate: float) -> bool:
    return math.isfinite(rate) and 0 <= rate < 1e6


def _shortened(text: str) -> str:
    shown = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}\u2026"
    return escape(shown).replace("_", "_<wbr/>")  # where a line may break
