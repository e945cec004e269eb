"""Interpolated modified Kneser-Ney estimation of n-gram language models.

Source: Chen and Goodman 1999, An empirical study of smoothing techniques for language modeling, section 3 and appendix.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from shared_moe_conformer.lattice.ngram import BOS, EOS, Ngram, NgramModel

# Used where too few n-grams were seen one to four times. Source: kenlm's lmplz --discount_fallback.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


def train_ngram(
    sentences: Iterable[Sequence[str]], order: int, *, vocabulary: Collection[str] = frozenset()
) -> NgramModel:
    """Estimate an n-gram model from sentences.

    Args:
      sentences: words of each sentence.
      order: length of the longest n-grams.
      vocabulary: further words that get a probability.

    Raises:
      ValueError: no sentence has a word, or the order is below 1.
    """
    if order < 1:
        raise ValueError(f"the order of the n-gram is {order}: give 1 or more")
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise ValueError("no words to train an n-gram on: are the transcripts empty?")
    counts = adjusted_counts(sentences, order)
    unseen = sorted(set(vocabulary) - {word for (word,) in counts[0]})
    uniform = 1 / (len(counts[0]) + len(unseen))
    probs: dict[Ngram, float] = {}
    backoffs: dict[Ngram, float] = {}
    for of_order in counts:
        left_over = _add_order(of_order, probs, uniform=uniform)
        probs.update({(word,): left_over[()] * uniform for word in unseen if () in left_over})
        backoffs.update({history: math.log(mass) for history, mass in left_over.items() if history})
    return NgramModel(order, {ngram: math.log(prob) for ngram, prob in probs.items()}, backoffs)


def adjusted_counts(sentences: Sequence[Sequence[str]], order: int) -> list[Counter[Ngram]]:
    """Counts of n-grams, for each length.

    The longest n-grams, and those that begin a sentence, are counted as often as they occur; all others once for each
    distinct word that they follow.
    """
    seen: list[Counter[Ngram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = [BOS, *sentence, EOS]
        for n, counts in enumerate(seen, start=1):
            counts.update(zip(*(words[i:] for i in range(n))))
    result = [
        Counter(ngram[1:] for ngram in longer) + Counter({ngram: c for ngram, c in counts.items() if ngram[0] == BOS})
        for counts, longer in zip(seen, seen[1:])
    ] + seen[-1:]
    del result[0][(BOS,)]
    return result


def discounts(counts: Iterable[int]) -> tuple[float, float, float]:
    """The discounts of n-grams seen once, twice, and more often."""
    seen = Counter(counts)
    n1, n2, n3, n4 = (seen[c] for c in (1, 2, 3, 4))
    if not n1 * n2 * n3 * n4:
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    estimated = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return estimated if all(0 < d < c for c, d in enumerate(estimated, start=1)) else FALLBACK_DISCOUNTS


def _add_order(counts: Counter[Ngram], probs: dict[Ngram, float], *, uniform: float) -> dict[Ngram, float]:
    """Add the probabilities of n-grams of one length, and return the mass that each history leaves to shorter ones."""
    discount = discounts(counts.values())
    total: defaultdict[Ngram, int] = defaultdict(int)
    taken: defaultdict[Ngram, float] = defaultdict(float)
    for ngram, count in counts.items():
        total[ngram[:-1]] += count
        taken[ngram[:-1]] += discount[min(count, 3) - 1]
    left_over = {history: taken[history] / total[history] for history in total}
    for ngram, count in counts.items():
        history = ngram[:-1]
        shorter = probs[ngram[1:]] if history else uniform
        probs[ngram] = (count - discount[min(count, 3) - 1]) / total[history] + left_over[history] * shorter
    return left_over
