"""A lattice composed with an automaton over its output labels, such as that of an n-gram."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from shared_moe_conformer.lattice.lattice import EMPTY, Lattice, spans, trimmed
from shared_moe_conformer.lattice.ngram import BOS, EOS, RESERVED, Ngram, NgramModel
from shared_moe_conformer.text import counted

Backoff = Literal["exact", "epsilon"]


class Automaton(Protocol):
    """Weights of sequences of output labels; states are numbered from the start, 0."""

    def step(self, state: int, label: int) -> Sequence[tuple[int, float]]:
        """The states that a label leads to, and the log-probability of each of these arcs."""

    def end(self, state: int) -> float:
        """Log-probability of ending in a state; -inf where nothing may end."""


class _Pairs(NamedTuple):
    """The states of the composition at one frame, in the order of the lattice's states."""

    state: np.ndarray
    other: np.ndarray
    """The automaton's state."""


class _Arcs(NamedTuple):
    src: np.ndarray
    dst: np.ndarray
    arc: np.ndarray
    """The lattice's arc that each one takes."""
    weight: np.ndarray
    """The automaton's log-probability."""


class TooManyArcs(ValueError):
    """The composition would have too many arcs."""


def composed(lattice: Lattice, automaton: Automaton, *, max_arcs: float = np.inf) -> Lattice:
    """The lattice with the automaton's log-probabilities added to the graph's.

    Give `lattice.scaled(0)` to replace the graph's log-probabilities instead.

    Raises:
      TooManyArcs: it would have more than `max_arcs` arcs, dead ends included.
    """
    pairs = [_Pairs(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))]
    found = []
    number, num_arcs = 0, 0
    bounds = lattice.first_arcs

    @functools.cache
    def step(state: int, label: int) -> Sequence[tuple[int, float]]:
        return automaton.step(state, label) if label else [(state, 0.0)]

    for begin, end in zip(bounds, bounds[1:]):
        arcs, reached = _step(lattice, np.arange(begin, end), pairs[-1], step)
        num_arcs += len(arcs.arc)
        if num_arcs > max_arcs:
            raise TooManyArcs(f"the lattice would have more than {max_arcs} arcs")
        found.append(arcs._replace(src=arcs.src + number, dst=arcs.dst + number + len(pairs[-1].state)))
        number += len(pairs[-1].state)
        pairs.append(reached)
    if not found:
        return EMPTY
    src, dst, arc, weight = (np.concatenate(column) for column in zip(*found))
    order = np.argsort(src, kind="stable")
    src, dst, arc, weight = src[order], dst[order], arc[order], weight[order]
    final_lm = dict(zip(lattice.final_state.tolist(), lattice.final_lm.tolist()))
    ends = np.array([final_lm[s] + automaton.end(q) for s, q in zip(*(c.tolist() for c in pairs[-1]))])
    alive = np.flatnonzero(np.isfinite(ends))
    taken = {name: getattr(lattice, name)[arc] for name in ("frame", "ilabel", "olabel", "am")}
    whole = Lattice(
        src.astype(np.int32),
        dst.astype(np.int32),
        **taken,
        lm=lattice.lm[arc] + weight,
        final_state=(number + alive).astype(np.int32),
        final_lm=ends[alive],
    )
    return trimmed(whole)


def _step(
    lattice: Lattice, arcs: np.ndarray, pairs: _Pairs, step: Callable[[int, int], Sequence[tuple[int, float]]]
) -> tuple[_Arcs, _Pairs]:
    """The composition's arcs of one frame, between states numbered within their frames, and the states reached."""
    first = np.searchsorted(pairs.state, lattice.src[arcs])
    end = np.searchsorted(pairs.state, lattice.src[arcs], side="right")
    src, arcs = spans(first, end), np.repeat(arcs, end - first)
    together, which = _different(pairs.other[src], lattice.olabel[arcs])
    steps = [step(*pair) for pair in zip(*(column.tolist() for column in together))]
    counts = np.array([len(ways) for ways in steps], dtype=np.int64)
    flat = [way for ways in steps for way in ways]
    other = np.array([reached for reached, _ in flat], dtype=np.int64)
    weight = np.array([log_prob for _, log_prob in flat], dtype=np.float64)
    taken = spans((np.cumsum(counts) - counts)[which], np.cumsum(counts)[which])
    src, arcs = (np.repeat(column, counts[which]) for column in (src, arcs))
    reached, dst = _different(lattice.dst[arcs], other[taken])
    return _Arcs(src, dst, arcs, weight[taken]), reached


def _different(first: np.ndarray, second: np.ndarray) -> tuple[_Pairs, np.ndarray]:
    """The distinct pairs of two columns, in ascending order, and the position of each row's pair among them."""
    keys, which = np.unique(first.astype(np.int64) << 32 | second.astype(np.int64), return_inverse=True)
    return _Pairs(keys >> 32, keys & 0xFFFFFFFF), which


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
