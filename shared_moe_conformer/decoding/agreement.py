"""Whether the lattice engines find the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.searches import label


def agreement_note(found: Mapping[DecodingConfig, Sequence[Hypothesis]]) -> str | None:
    """In how many utterances k2 and the embedded engine find the same words or tokens, search by search, and how far
    the scores of these differ; None: no search was made by both.

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
    """In how many utterances the engines agree: those searches that do not agree in all are named."""
    fewer = ", ".join(f"in {count} of {total} by {name}" for name, count in counts.items() if count < total)
    some_agree = total in counts.values()
    return ", but ".join([f"in all {total} utterances"] * some_agree + [fewer] * bool(fewer))


def _output(hyp: Hypothesis) -> Sequence[str] | Sequence[int]:
    return hyp.tokens if hyp.words is None else hyp.words
