from __future__ import annotations

import math

from shared_moe_conformer.decoding.agreement import agreement_note
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.methods import DecodingConfig

ONE = DecodingConfig(decoding_method="1best", lattice_engine="k2")
OTHER = DecodingConfig(decoding_method="1best", lattice_engine="embedded")
TOKENS = DecodingConfig(decoding_method="nbest", graph="H", lattice_engine="k2")
OTHER_TOKENS = DecodingConfig(decoding_method="nbest", graph="H", lattice_engine="embedded")


def hyp(score: float, *words: str, tokens: tuple[int, ...] = (1,)) -> Hypothesis:
    return Hypothesis(list(tokens), [0], score, list(words) if words else None)


def test_words_and_tokens_are_compared_and_scores_where_they_are_the_same() -> None:
    nothing = hyp(-math.inf, tokens=())
    found = {
        ONE: [hyp(-3.0, "A"), hyp(-5.0, "B"), hyp(-2.0, "C", tokens=(7,))],
        OTHER: [hyp(-3.25, "A"), hyp(-9.0, "X"), hyp(-2.0, "C", tokens=(8,))],
        TOKENS: [hyp(-1.0), hyp(-1.0, tokens=(2,)), nothing],
        OTHER_TOKENS: [hyp(-1.0), hyp(-1.0, tokens=(3,)), nothing],
        DecodingConfig(): [hyp(-1.0)] * 3,
    }
    assert agreement_note(found) == (
        "k2 and embedded, 2 searches: the same text in 2 of 3 by 1best over HLG, in 2 of 3 by nbest over H; "
        "and there scores that differ by 0.2 at most"
    )
    assert agreement_note(found | {OTHER: found[ONE]}) == (
        "k2 and embedded, 2 searches: the same text in all 3 utterances, but in 2 of 3 by nbest over H; "
        "and there the same score"
    )
    assert agreement_note({ONE: found[ONE], OTHER: found[ONE]}) == (
        "k2 and embedded, 1 search: the same text in all 3 utterances; and there the same score"
    )


def test_one_engine_has_nobody_to_agree_with() -> None:
    assert agreement_note({ONE: [hyp(-1.0)], DecodingConfig(): [hyp(-1.0)]}) is None
