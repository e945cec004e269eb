"""Lattices of a batch in bounded memory, whatever its posteriors, by k2 or by the embedded engine.

An untrained model's posteriors are flat, so all states stay within the beam; such utterances are searched again with
narrower beams. An utterance that was cut off may lead to no final state; it is searched again with every state final.
A warning tells of either.

The embedded engine needs only NumPy: it is a frame-synchronous search that keeps a lattice.
kaldi-decoder's lattice search has no limit on its active states, so flat posteriors make it fill the memory. The
embedded engine limits them, as k2's does, and gives up at a number of arcs. Every arc of a graph consumes a frame, so
no epsilon has to be followed within a frame.

Source: token passing with beam and maximum of active states, Young et al. 1989; k2.intersect_dense_pruned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import (
    EMPTY,
    MIN_ACTIVE,
    Beams,
    Lattice,
    LatticeEngine,
    lattice_of_arcs,
    spans,
    warn_once,
)
from shared_moe_conformer.lattice.paths import group_starts, pruned

EngineName = Literal["auto", "k2", "embedded"]


@functools.cache
def lattice_engine(name: EngineName = "auto") -> LatticeEngine:
    """The engine of this name; "auto" is k2 where it is installed, and the embedded engine otherwise.

    Raises:
      ValueError: k2 is asked for and not installed.
    """
    if name == "embedded":
        return EmbeddedEngine()
    try:
        from shared_moe_conformer.lattice.k2_engine import K2Engine
    except ImportError as error:
        if name == "auto":
            return EmbeddedEngine()
        raise ValueError(
            f"no k2 ({error}): make install ENGINE=k2, or search with --lattice-engine embedded"
        ) from error
    return K2Engine()


def transducer_search() -> Callable[..., Any]:
    """k2's search for transducers (`k2_engine.search`); no other engine has one.

    Raises:
      ValueError: k2 is not installed.
    """
    try:
        from shared_moe_conformer.lattice.k2_engine import search
    except ImportError as error:
        raise ValueError(
            f"the fast_beam_search methods need k2 ({error}): make install ENGINE=k2, or decode with "
            "modified_beam_search, which needs none"
        ) from error
    return search


MAX_SEARCHED_ARCS = 4_000_000
"""Most arcs that a search keeps for an utterance: about 200 MB."""
MAX_LATTICE_ARCS = 50_000
"""Most arcs of a lattice, with which N-best lists and rescoring take up to two seconds."""
NARROWER = 0.25
"""Factor of the search beam when it was too wide."""
NARROWEST = 1e-3
"""Search beam (nats) below which the search gives up."""


def find_lattices(
    engine: LatticeEngine,
    log_probs: Tensor,
    lens: Tensor,
    graph: Graph,
    beams: Beams,
    *,
    max_searched: int = MAX_SEARCHED_ARCS,
    max_arcs: int = MAX_LATTICE_ARCS,
) -> list[Lattice]:
    """Return the lattice of each utterance; `EMPTY` where it has no frame or the graph no path of its length.

    Args:
      log_probs, lens, graph, beams: see `LatticeEngine.lattices`.
      max_searched: most arcs that the search keeps for an utterance.
      max_arcs: most arcs of each lattice that is returned.

    Raises:
      ValueError: even the narrowest beam is too wide.
    """
    found = _search(engine, log_probs, lens, graph, beams, max_searched=max_searched)
    unfinished = [index for index, lattice in enumerate(found) if not lattice.num_arcs and lens[index] > 0]
    if unfinished:
        again = _search(
            engine, log_probs[unfinished], lens[unfinished], graph.ending_anywhere, beams, max_searched=max_searched
        )
        if any(lattice.num_arcs for lattice in again):
            warn_once("an utterance ends where the graph may not, such as inside a word: it is taken as it is")
        for index, lattice in zip(unfinished, again):
            found[index] = lattice
    if any(lattice.num_arcs > max_arcs for lattice in found):
        warn_once("the lattice of an utterance was too large: its least likely arcs were left out")
    return [pruned(lattice, max_arcs) for lattice in found]


def _search(
    engine: LatticeEngine, log_probs: Tensor, lens: Tensor, graph: Graph, beams: Beams, *, max_searched: int
) -> list[Lattice]:
    """The lattices, searched again with narrower beams where they are too large."""
    found: dict[int, Lattice] = {}
    waiting = list(range(len(lens)))
    while True:
        lattices = engine.lattices(log_probs[waiting], lens[waiting], graph, beams, max_arcs=max_searched)
        found |= {index: lattice for index, lattice in zip(waiting, lattices) if lattice is not None}
        waiting = [index for index in waiting if index not in found]
        if not waiting:
            return [found[index] for index in range(len(lens))]
        if beams.search_beam < NARROWEST:
            raise ValueError(f"an utterance of {int(lens[waiting].max())} frames is too long for a lattice: cut it")
        warn_once("the lattice of an utterance was too large: searched again with narrower beams")
        max_active = max(2, min(beams.max_active, graph.num_states) // 2)
        beams = beams._replace(search_beam=NARROWER * beams.search_beam, max_active=max_active)


LAST_FRAMES, WIDENING = 4, 1.25
"""Number of last frames, and factor by which the search beam grows on each of them, so that a final state survives.

Source: k2.intersect_dense_pruned."""


class EmbeddedEngine:
    """Searches one utterance after the other, on the CPU."""

    name = "embedded"

    def lattices(
        self, log_probs: Tensor, lens: Tensor, graph: Graph, beams: Beams, *, max_arcs: int
    ) -> list[Lattice | None]:
        """See `LatticeEngine.lattices`."""
        rows = log_probs.float().cpu().numpy()
        return [find_lattice(row[:n], graph, beams, max_arcs=max_arcs) for row, n in zip(rows, lens.tolist())]


class _Step(NamedTuple):
    """The arcs that consume one frame; states are numbered within their frame."""

    src: np.ndarray
    dst: np.ndarray
    arc: np.ndarray
    """The graph's arc that each one takes."""
    score: np.ndarray
    """Log-probability of the best path from the start through each arc."""
    best: np.ndarray
    """Score of the best arc into each state."""

    def taken(self, which: np.ndarray) -> _Step:
        """The step with only these arcs."""
        return _Step(self.src[which], self.dst[which], self.arc[which], self.score[which], self.best)


def find_lattice(log_probs: np.ndarray, graph: Graph, beams: Beams, *, max_arcs: int) -> Lattice | None:
    """Return the lattice of one utterance: `EMPTY` where there is no path, None where it has too many arcs.

    Args:
      log_probs: log-probabilities of frame labels, (T, V).
      graph, beams: see `LatticeEngine.lattices`.
      max_arcs: most arcs that the search may keep.
    """
    steps: list[_Step] = []
    active, scores, num_arcs = np.zeros(1, dtype=np.int64), np.zeros(1), 0
    for left, frame in zip(reversed(range(len(log_probs))), log_probs):
        search_beam = beams.search_beam * WIDENING ** max(0, LAST_FRAMES - left)
        step = _step(graph, active, scores, frame, beams._replace(search_beam=search_beam))
        num_arcs += len(step.arc)
        if num_arcs > max_arcs:
            return None
        if len(step.arc) == 0:
            return EMPTY
        steps.append(step)
        active, scores = graph.dst[step.arc[group_starts(step.dst)]], step.best
    if not steps:
        return EMPTY
    kept = _backward(steps, graph.ending[active], beams.output_beam)
    first = np.cumsum([0, 1, *(len(step.best) for step in steps)])  # first state of each frame
    return lattice_of_arcs(
        np.concatenate([step.src + number for step, number in zip(kept, first)]),
        np.concatenate([step.dst + number for step, number in zip(kept, first[1:])]),
        np.concatenate([step.arc for step in kept]),
        log_probs=log_probs,
        graph=graph,
    )


def _step(graph: Graph, active: np.ndarray, scores: np.ndarray, frame: np.ndarray, beams: Beams) -> _Step:
    """The arcs from active states into the best next states, within the beam, ordered by next state."""
    begin, end = graph.first_arcs[active], graph.first_arcs[active + 1]
    arcs, src = spans(begin, end), np.repeat(np.arange(len(active)), end - begin)
    reached = scores[src] + graph.weight[arcs] + frame[graph.ilabel[arcs]]
    good = _within_beam(reached, beams.search_beam)
    order = good[np.argsort(graph.dst[arcs[good]], kind="stable")]
    arcs, src, reached = arcs[order], src[order], reached[order]
    starts = group_starts(graph.dst[arcs])
    dst = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(arcs))))
    best = np.maximum.reduceat(reached, starts) if len(starts) else reached
    return _at_most(beams.max_active, _Step(src, dst, arcs, reached, best))


def _within_beam(reached: np.ndarray, search_beam: float) -> np.ndarray:
    """The arcs within the beam, or the `MIN_ACTIVE` best ones if those are more."""
    good = reached >= reached.max(initial=-np.inf) - search_beam
    if np.count_nonzero(good) < MIN_ACTIVE < len(reached):
        good[np.argpartition(reached, -MIN_ACTIVE)[-MIN_ACTIVE:]] = True
    return np.flatnonzero(good & np.isfinite(reached))


def _at_most(max_active: int, step: _Step) -> _Step:
    """The step into the `max_active` best states."""
    if len(step.best) <= max_active:
        return step
    kept = np.zeros(len(step.best), dtype=bool)
    kept[np.argpartition(step.best, -max_active)[-max_active:]] = True
    step = step.taken(kept[step.dst])
    return step._replace(dst=(np.cumsum(kept) - 1)[step.dst], best=step.best[kept])


def _backward(steps: list[_Step], after: np.ndarray, output_beam: float) -> list[_Step]:
    """The steps' arcs that lie on a path at most `output_beam` worse than the best one.

    Args:
      after: log-probability of ending in each state after the last step.
    """
    worst = (steps[-1].best + after).max() - output_beam
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
            after[src[starts]] = np.maximum.reduceat(rest, starts)
        kept.append(step)
    return kept[::-1]
