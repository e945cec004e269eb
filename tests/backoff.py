"""What an n-gram with back-off says, word by word: the reference of automata, graphs and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from shared_moe_conformer.lattice.ngram import BOS, EOS, NgramModel


def log_prob(model: NgramModel, word: str, history: Sequence[str]) -> float:
    """Log-probability (nats) of a word; -inf for a word that the model does not know.

    Source: the definition of back-off in Katz 1987, as ARPA files are read by everybody.
    """
    ngram, backoff = (*history[max(0, len(history) - model.order + 1) :], word), 0.0
    while ngram not in model.log_probs:
        if len(ngram) == 1:
            return -math.inf
        backoff += model.backoffs.get(ngram[:-1], 0.0)
        ngram = ngram[1:]
    return backoff + model.log_probs[ngram]


def sentence_log_prob(model: NgramModel, words: Sequence[str]) -> float:
    """Log-probability (nats) of a whole sentence, its end included."""
    said = [BOS, *words, EOS]
    return sum(log_prob(model, word, said[:index]) for index, word in enumerate(said) if index > 0)
