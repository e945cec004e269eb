"""Word error rates as a picture: a table of each test set's searches, a bar beside each rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from shared_moe_conformer.release.manifest import is_default_search

MAX_ROWS = 100
"""Bars of a test set at most; a recipe has about thirty."""
LONGEST_LABEL = 250
"""Characters of a name that are shown; a search with all its options has about two hundred."""


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
    by_method: dict[str, list[tuple[str, float]]] = {}
    for settings, rate in in_order[:MAX_ROWS]:
        method, _, options = _cut(settings).partition("-")
        by_method.setdefault(method, []).append((options, rate))
    rows = [row for method, found in by_method.items() for row in _rows(method, found, most=most)]
    return "\n".join([f'<table class="chart"><caption>{_shown(_cut(test_set))}</caption>', *rows, "</table>"])


def _rows(method: str, found: Sequence[tuple[str, float]], *, most: float) -> list[str]:
    """The rows of a method: one that names all its options, or one with what several searches by it have in common,
    and under it one for each."""
    kind = ' class="compared"' if is_default_search(method) else ""
    if len(found) == 1:
        [(options, rate)] = found
        return [_row(f'<tr{kind}><th scope="row">{_name(method, options)}</th>', rate, most=most)]
    common, own = told_apart([options for options, _ in found])
    head = f'<tr{kind}><th scope="rowgroup" colspan="3">{_name(method, common)}</th></tr>'
    of = kind or ' class="one"'
    rows = [
        _row(f'<tr{of}><th scope="row">{_shown(name)}</th>', rate, most=most) for name, (_, rate) in zip(own, found)
    ]
    return [head, *rows]


def told_apart(options: Sequence[str]) -> tuple[str, list[str]]:
    """What settings have in common, with an ellipsis where they differ; and what each has there, after the word before.

    Of settings that are not alike: nothing, and each one whole.
    """
    words = [text.split("-") for text in options]
    if len({len(of_one) for of_one in words}) > 1:
        return "", list(options)
    differs = [len(set(column)) > 1 for column in zip(*words)]
    common = "-".join("\u2026" if differ else word for differ, word in zip(differs, words[0]))
    places = [i for i, differ in enumerate(differs) if differ]
    return common, [", ".join(" ".join(of_one[max(0, i - 1) : i + 1]) for i in places) for of_one in words]


def _name(method: str, options: str) -> str:
    return f"{_shown(method)}<small>{_shown(options)}</small>" if options else _shown(method)


def _row(label: str, rate: float, *, most: float) -> str:
    """A row that begins with its label."""
    fits = _is_rate(rate)
    share = 100 * rate / most if fits and most > 0 else 0.0
    value = f"{rate:.2f} %" if fits else "no number"
    bar = f'<svg aria-hidden="true"><rect width="{share:.1f}%" height="100%" rx="2"/></svg>'
    return f'{label}<td class="bar">{bar}</td><td class="number">{value}</td></tr>'


def _is_rate(rate: float) -> bool:
    return math.isfinite(rate) and 0 <= rate < 1e6


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}\u2026"


def _shown(text: str) -> str:
    return escape(text).replace("_", "_<wbr/>")  # where a line may break
