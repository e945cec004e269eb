"""n-gram language models with back-off: their estimation, their ARPA files, and the automaton that scores words."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.text import counted

BOS, EOS = "<s>", "</s>"
EPSILON, BACKOFF = "<eps>", "#0"
RESERVED = (EPSILON, BACKOFF, BOS, EOS)
"""Symbols of graphs over words that no text may hold as words."""
NEVER = -99.0
"""log10 of the probability that ARPA files give to a word that is never predicted."""
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Discounts where too few n-grams were seen one to four times. Source: kenlm's lmplz --discount_fallback."""
Ngram = tuple[str, ...]


@dataclass(frozen=True)
class NgramModel:
    """Probabilities of words after histories of up to `order - 1` words."""

    order: int
    log_probs: dict[Ngram, float]
    """Natural log-probability of each n-gram's last word after the others."""
    backoffs: dict[Ngram, float]
    """Natural logarithm of each history's back-off weight."""

    @property
    def words(self) -> list[str]:
        """The words that can be predicted, without the end of a sentence."""
        return sorted(ngram[0] for ngram in self.log_probs if len(ngram) == 1 and ngram[0] not in (BOS, EOS))

    def save(self, path: Path) -> None:
        """Write an ARPA file."""
        ngrams = [sorted(ngram for ngram in self.log_probs if len(ngram) == n) for n in range(1, self.order + 1)]
        ngrams[0] = [(BOS,), *ngrams[0]]
        counts = "".join(f"ngram {n}={len(of_order)}\n" for n, of_order in enumerate(ngrams, start=1))
        sections = [
            f"\\{n}-grams:\n" + "".join(map(self._line, of_order)) for n, of_order in enumerate(ngrams, start=1)
        ]
        write_whole(path, "\n".join([f"\\data\\\n{counts}", *sections, "\\end\\\n"]))

    def _line(self, ngram: Ngram) -> str:
        columns = [
            f"{self.log_probs[ngram] / math.log(10):.7f}" if ngram != (BOS,) else f"{NEVER:.0f}",
            " ".join(ngram),
        ]
        if ngram in self.backoffs:
            columns.append(f"{self.backoffs[ngram] / math.log(10):.7f}")
        return "\t".join(columns) + "\n"

    @classmethod
    def load(cls, path: Path) -> NgramModel:
        """The model of an ARPA file.

        Raises:
          FileNotFoundError: no such file.
          ValueError: not an ARPA file, or one that predicts no word.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no n-gram in {path}: run ./prepare.sh first")
        try:
            model = _parse(path.read_text(encoding="utf-8").splitlines())
        except (IndexError, ValueError) as error:
            raise ValueError(f"{path} is not an ARPA file ({error}): delete it and run ./prepare.sh again") from error
        if not model.words:
            raise ValueError(f"the n-gram {path} has no word: train it on texts (local/train_ngram.py)")
        return model


def _parse(lines: Sequence[str]) -> NgramModel:
    log_probs: dict[Ngram, float] = {}
    backoffs: dict[Ngram, float] = {}
    order = 0
    for line in map(str.strip, lines[lines.index("\\data\\") + 1 : lines.index("\\end\\")]):
        if line.endswith("-grams:"):
            order = int(line[1 : -len("-grams:")])
        elif line and order:
            log_prob, *columns = line.split()
            ngram = tuple(columns[:order])
            if ngram != (BOS,):
                log_probs[ngram] = float(log_prob) * math.log(10)
            if columns[order:]:
                backoffs[ngram] = float(columns[order]) * math.log(10)
    return NgramModel(order, log_probs, backoffs)


def train_ngram(
    sentences: Iterable[Sequence[str]], order: int, *, vocabulary: Collection[str] = frozenset()
) -> NgramModel:
    """Estimate an n-gram model from sentences by interpolated modified Kneser-Ney smoothing.

    Args:
      order: length of the longest n-grams.
      vocabulary: further words that get a probability.

    Raises:
      ValueError: no sentence has a word, or the order is below 1.

    Source: Chen and Goodman 1999, An empirical study of smoothing techniques for language modeling, section 3 and
    appendix.
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


Backoff = Literal["exact", "epsilon"]


class NgramAutomaton:
    """An `Automaton` over the output labels of a lexicon's words; its states are histories."""

    def __init__(self, model: NgramModel, words: Sequence[str], *, backoff: Backoff = "exact") -> None:
        """Score words by a model.

        Args:
          model: the n-gram.
          words: the word of each label.
          backoff: "exact" scores a word by the longest n-gram that has it, as ARPA files are defined. "epsilon" allows
            backing off anywhere, as the epsilon arcs of Kaldi's and icefall's G do, and takes the best; no sentence
            then scores worse than by "exact".

        Raises:
          ValueError: the n-gram lacks one of the words.
        """
        known = {ngram[0] for ngram in model.log_probs if len(ngram) == 1}
        missing = [word for word in words if word not in known and word not in RESERVED]
        if missing:
            raise ValueError(
                f"the n-gram lacks {counted(len(missing), 'word')} of the graph, {missing[0]!r} first: train it on "
                "texts with them (local/train_ngram.py)"
            )
        self._model, self._words, self._backoff = model, words, backoff
        self._histories: list[Ngram] = [self._history((BOS,))]
        self._numbers = {self._histories[0]: 0}

    def step(self, state: int, label: int) -> list[tuple[int, float]]:
        """See `Automaton.step`."""
        return [(self._number(history), score) for history, score in self._ways(state, self._words[label])]

    def end(self, state: int) -> float:
        """See `Automaton.end`."""
        return max(score for _, score in self._ways(state, EOS))

    def score(self, labels: Sequence[int]) -> float:
        """Log-probability (nats) of a whole sentence, its end included."""
        at = {0: 0.0}
        for label in labels:
            following: dict[int, float] = {}
            for state, before in at.items():
                for reached, score in self.step(state, label):
                    following[reached] = max(following.get(reached, -np.inf), before + score)
            at = following
        return max(before + self.end(state) for state, before in at.items())

    def _ways(self, state: int, word: str) -> list[tuple[Ngram, float]]:
        """The possible histories after a word, and the word's log-probability with each."""
        history, backoff, ways = self._histories[state], 0.0, []
        while True:
            ngram = (*history, word)
            if ngram in self._model.log_probs:
                ways.append((self._history(ngram), backoff + self._model.log_probs[ngram]))
                if self._backoff == "exact":
                    return ways
            if not history:
                return ways
            backoff += self._model.backoffs.get(history, 0.0)
            history = history[1:]

    def _history(self, words: Ngram) -> Ngram:
        """The longest suffix of these words that is a history of some n-gram."""
        words = words[max(0, len(words) - self._model.order + 1) :]
        while words and words not in self._model.backoffs:
            words = words[1:]
        return words

    def _number(self, history: Ngram) -> int:
        if history not in self._numbers:
            self._numbers[history] = len(self._histories)
            self._histories.append(history)
        return self._numbers[history]
