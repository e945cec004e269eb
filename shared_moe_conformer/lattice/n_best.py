"""The N best label sequences of a lattice, all different, in exact order.

Every state remembers the N best sequences that lead to it, told apart by what they give: whatever follows is the same
for all of them, so that no other sequence can become one of the N best. Sampling paths, as icefall does, misses some.

Source: Chow and Schwartz 1989, The N-best algorithm: an efficient procedure for finding top N sentence hypotheses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shared_moe_conformer.lattice.lattice import Lattice, LatticePath, spans
from shared_moe_conformer.lattice.posteriors import backward, best_of, group_starts


class _Partials(NamedTuple):
    """The best partial paths to the states of one frame, in the order of these states."""

    state: np.ndarray
    sequence: np.ndarray
    """Hash of the output labels so far, uint64; among millions, two collide in one of a million lattices."""
    score: np.ndarray
    before: np.ndarray
    """The partial path of the frame before that each one continues."""
    arc: np.ndarray


def n_best(lattice: Lattice, num_paths: int, *, beam: float = np.inf) -> list[LatticePath]:
    """Return the best path of each of the N best output sequences, best first; fewer if the lattice has fewer.

    Args:
      lattice: the lattice of an utterance.
      num_paths: N.
      beam: sequences this much (nats) worse than the best one are left out.
    """
    if not lattice.num_arcs:
        return []
    after = backward(lattice, best_of)
    worst = after[0] - beam
    start = np.zeros(1, dtype=np.int64)
    ways = [_Partials(start, start.astype(np.uint64), np.zeros(1), start, start)]
    bounds = lattice.first_arcs
    for begin, end in zip(bounds, bounds[1:]):
        longer = _continued(lattice, np.arange(begin, end), ways[-1])
        promising = longer.score + after[longer.state] >= worst
        ways.append(_best_different(_taken(longer, promising), num_paths))
    return [lattice.path(_trace_back(ways, last)) for last in _best_at_the_end(ways[-1], after, num_paths)]


def _continued(lattice: Lattice, arcs: np.ndarray, ways: _Partials) -> _Partials:
    """All partial paths, each continued by each arc that leaves its state."""
    first = np.searchsorted(ways.state, lattice.src[arcs])
    end = np.searchsorted(ways.state, lattice.src[arcs], side="right")
    before, arcs = spans(first, end), np.repeat(arcs, end - first)
    sequence, label = ways.sequence[before], lattice.olabel[arcs]
    return _Partials(
        lattice.dst[arcs],
        np.where(label > 0, _hash(sequence, label), sequence),
        ways.score[before] + lattice.score[arcs],
        before,
        arcs,
    )


def _hash(sequence: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Source: Steele et al. 2014, Fast splittable pseudorandom number generators (SplitMix64's constants)."""
    x = (sequence + label.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return x ^ (x >> np.uint64(27))


def _taken(ways: _Partials, which: np.ndarray) -> _Partials:
    return _Partials(*(column[which] for column in ways))


def _best_different(ways: _Partials, num_paths: int) -> _Partials:
    """The best partial path of each sequence to each state; of these, the N best of each state."""
    by_score = np.argsort(-ways.score, kind="stable")
    which = _hash(ways.sequence, ways.state)[by_score]
    _, first = np.unique(which, return_index=True)
    best = by_score[np.sort(first)]
    best = best[np.argsort(ways.state[best], kind="stable")]
    starts = group_starts(ways.state[best])
    rank = np.arange(len(best)) - np.repeat(starts, np.diff(np.append(starts, len(best))))
    return _taken(ways, best[rank < num_paths])


def _best_at_the_end(ways: _Partials, after: np.ndarray, num_paths: int) -> list[int]:
    """The complete paths with the N best sequences."""
    order = np.argsort(-(ways.score + after[ways.state]), kind="stable")
    _, first = np.unique(ways.sequence[order], return_index=True)
    return order[np.sort(first)][:num_paths].tolist()


def _trace_back(ways: list[_Partials], last: int) -> np.ndarray:
    arcs = []
    for frame in reversed(ways[1:]):
        arcs.append(int(frame.arc[last]))
        last = int(frame.before[last])
    return np.array(arcs[::-1])
