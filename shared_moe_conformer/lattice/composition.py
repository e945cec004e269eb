"""A lattice composed with an automaton over its output labels, and rescored by one, such as that of an n-gram."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from shared_moe_conformer.lattice.lattice import EMPTY, Lattice, spans, trimmed, warn_once
from shared_moe_conformer.lattice.paths import pruned


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


MAX_COMPOSED_ARCS = 200_000
"""Most arcs of a lattice composed with an n-gram: half a second."""


def rescored(lattice: Lattice, lm: Automaton, *, max_arcs: int = MAX_COMPOSED_ARCS) -> Lattice:
    """The lattice with the log-probabilities of `lm` instead of its graph's.

    Args:
      max_arcs: most arcs of the result; where it would have more, the lattice loses its least likely arcs first.
    """
    while True:
        try:
            return composed(lattice.scaled(0.0), lm, max_arcs=max(max_arcs, lattice.num_frames))
        except TooManyArcs:
            warn_once("the lattice of an utterance is too large for the n-gram: its least likely arcs were left out")
            lattice = pruned(lattice, lattice.num_arcs // 4)
