"""An n-gram as an automaton over words, by either convention of backing off.

exact: a word that the n-gram has seen after a history is scored by that n-gram, and by shorter ones only otherwise;
the score of a sentence is the ARPA file's, to the last digit. epsilon: backing off is always allowed, as by the epsilon
arcs of the transducer G in Kaldi and in icefall; the best way wins, so that no sentence scores worse than by `exact`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from shared_moe_conformer.lattice.arpa import BOS, EOS, Ngram, NgramModel
from shared_moe_conformer.lattice.lexicon import RESERVED
from shared_moe_conformer.text import counted

Backoff = Literal["exact", "epsilon"]


class NgramAutomaton:
    """An `Automaton` whose labels are those of a lexicon's words; its states are histories."""

    def __init__(self, model: NgramModel, words: Sequence[str], *, backoff: Backoff = "exact") -> None:
        """Args:
        model: the n-gram.
        words: the word of each label.
        backoff: see above.

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
        """The histories after a word, and what it scores on the way to each of them."""
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
        """The words at the end that still matter: the longest that some n-gram continues."""
        words = words[max(0, len(words) - self._model.order + 1) :]
        while words and words not in self._model.backoffs:
            words = words[1:]
        return words

    def _number(self, history: Ngram) -> int:
        if history not in self._numbers:
            self._numbers[history] = len(self._histories)
            self._histories.append(history)
        return self._numbers[history]
