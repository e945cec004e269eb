"""A frame-synchronous search in NumPy that keeps a whole lattice: what the embedded engine finds lattices with.

kaldi-decoder's lattice search has no limit on its active states, so that flat posteriors make it fill the memory; this
one counts them, as k2's does, and gives up at a number of arcs. Every arc of a graph consumes a frame, so that there
is no epsilon to follow within a frame.

Source: token passing with beam and maximum of active states, Young et al. 1989; k2.intersect_dense_pruned.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from shared_moe_conformer.lattice.forward_backward import best_of, group_starts
from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import EMPTY, Lattice, lattice_of_arcs, spans


class _Step(NamedTuple):
    """The arcs that consume one frame; states are numbered within their frame."""

    src: np.ndarray
    dst: np.ndarray
    arc: np.ndarray
    """The graph's arc that each one takes."""
    score: np.ndarray
    """Log-probability of the best way from the start through each arc."""
    best: np.ndarray
    """Of all arcs into each state, the best one's score."""

    def taken(self, which: np.ndarray) -> _Step:
        """The step of some of the arcs."""
        return _Step(self.src[which], self.dst[which], self.arc[which], self.score[which], self.best)


def find_lattice(
    log_probs: np.ndarray, graph: Graph, *, search_beam: float, output_beam: float, max_active: int, max_arcs: int
) -> Lattice | None:
    """Return the lattice of one utterance, without arcs where there is no path; None: it would have too many arcs.

    Args:
      log_probs: log-probabilities of frame labels, (T, V).
      graph: what frame labels may follow each other, and what they give.
      search_beam, output_beam, max_active: see `LatticeEngine.one_best`.
      max_arcs: arcs that are kept while searching, at most.
    """
    steps: list[_Step] = []
    active, scores, num_arcs = np.zeros(1, dtype=np.int64), np.zeros(1), 0
    for frame in log_probs:
        step = _step(graph, active, scores, frame, search_beam=search_beam, max_active=max_active)
        num_arcs += len(step.arc)
        if num_arcs > max_arcs:
            return None
        if len(step.arc) == 0:
            return EMPTY
        steps.append(step)
        active, scores = graph.dst[step.arc[group_starts(step.dst)]], step.best
    kept = _backward(steps, _final_scores(graph, active), output_beam)
    first = np.cumsum([0, 1, *(len(step.best) for step in steps)])
    return lattice_of_arcs(
        *(np.concatenate([np.zeros(0, dtype=np.int64), *column]) for column in (
            [step.src + number for step, number in zip(kept, first)],
            [step.dst + number for step, number in zip(kept, first[1:])],
            [step.arc for step in kept],
        )),
        log_probs=log_probs,
        graph=graph,
    )  # fmt: skip


def _step(
    graph: Graph, active: np.ndarray, scores: np.ndarray, frame: np.ndarray, *, search_beam: float, max_active: int
) -> _Step:
    """All arcs that leave an active state, within the beam, into the best states; in the order of these states."""
    first = _first_arcs(graph)
    begin, end = first[active], first[active + 1]
    arcs, src = spans(begin, end), np.repeat(np.arange(len(active)), end - begin)
    reached = scores[src] + graph.weight[arcs] + frame[graph.ilabel[arcs]]
    good = np.flatnonzero(reached >= reached.max(initial=-np.inf) - search_beam)
    order = good[np.argsort(graph.dst[arcs[good]], kind="stable")]
    arcs, src, reached = arcs[order], src[order], reached[order]
    starts = group_starts(graph.dst[arcs])
    dst = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(arcs))))
    best = best_of(reached, starts) if len(starts) else reached
    return _at_most(max_active, _Step(src, dst, arcs, reached, best))


def _at_most(max_active: int, step: _Step) -> _Step:
    """The step into the best states alone."""
    if len(step.best) <= max_active:
        return step
    kept = np.zeros(len(step.best), dtype=bool)
    kept[np.argpartition(step.best, -max_active)[-max_active:]] = True
    step = step.taken(kept[step.dst])
    return step._replace(dst=(np.cumsum(kept) - 1)[step.dst], best=step.best[kept])


def _final_scores(graph: Graph, states: np.ndarray) -> np.ndarray:
    """Log-probability of ending in each of the graph's states."""
    result = np.full(graph.num_states, -np.inf)
    result[graph.final_state] = graph.final_weight
    return result[states]


def _backward(steps: list[_Step], after: np.ndarray, output_beam: float) -> list[_Step]:
    """The steps' arcs through which there is a path at most `output_beam` worse than the best one.

    Args:
      after: log-probability of ending in each state after the last step.
    """
    worst = (steps[-1].best + after).max() - output_beam if steps else 0.0
    kept = []
    for number in reversed(range(len(steps))):
        step = steps[number]
        step = step.taken((step.score + after[step.dst] >= worst) & np.isfinite(worst))
        before = steps[number - 1].best if number else np.zeros(1)
        order = np.argsort(step.src, kind="stable")
        src, rest = step.src[order], (step.score - before[step.src] + after[step.dst])[order]
        starts = group_starts(src)
        after = np.full(len(before), -np.inf)
        if len(starts):
            after[src[starts]] = best_of(rest, starts)
        kept.append(step)
    return kept[::-1]


@functools.lru_cache(maxsize=8)
def _first_arcs(graph: Graph) -> np.ndarray:
    """The first arc that leaves each state, and the number of arcs."""
    return np.searchsorted(graph.src, np.arange(graph.num_states + 1))
