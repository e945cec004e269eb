"""What confidences are worth: more of the words with a high one should be right than of those with a low one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import kaldialign

from shared_moe_conformer.decoding.comparison import aligned_columns
from shared_moe_conformer.decoding.scoring import GAP

EDGES = (0.5, 0.8, 0.95)
"""Confidences at which the next bin begins."""
BINS = ("below 0.5", "0.5 to 0.8", "0.8 to 0.95", "0.95 or more")

Judged = tuple[float, bool]
"""A word's confidence, and whether it is right."""


def judged_words(ref: Sequence[str], hyp: Sequence[tuple[str, float | None]]) -> list[Judged]:
    """Those of an utterance's recognised words that have a confidence.

    Args:
      ref: the words that were said.
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
