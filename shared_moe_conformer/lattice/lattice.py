"""Lattices as plain arrays, the paths that a search kept through one utterance; and the interface of engines."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, dijkstra
from torch import Tensor

from shared_moe_conformer.lattice.graphs import Graph


class LatticePath(NamedTuple):
    """One path through a graph."""

    frame_labels: list[int]
    """Frame label of every frame."""
    output_labels: list[int]
    """Output labels, without the 0 of arcs that have none."""
    output_frames: list[int]
    """Frame of the arc that has each output label."""
    score: float
    """Log-probability of frames and graph together; -inf where no path was found."""
    am_score: float = float("-inf")
    """The model's part of the score, where the lattice is at hand."""


NO_PATH = LatticePath([], [], [], float("-inf"))


class AlignedPath(NamedTuple):
    """One path through a transducer's lattice."""

    path: LatticePath
    """Its frame labels are tokens and blanks."""
    log_probs: list[float]
    """The model's log-probability of each frame's label."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """An acyclic graph; each arc consumes one frame, and state 0 is the start.

    States are numbered frame by frame, and arcs are in the order of the states that they leave. Every arc lies on a
    path from the start to a final state; a search that found no path gives a lattice without arcs.
    """

    src: np.ndarray
    """State that each arc leaves, int32, ascending."""
    dst: np.ndarray
    """State that each arc enters, int32."""
    frame: np.ndarray
    """Frame that each arc consumes, int32, ascending."""
    ilabel: np.ndarray
    """Frame label of each arc: a unit of the CTC head, blank being 0, int32."""
    olabel: np.ndarray
    """Output label of each arc, 0 being nothing, int32."""
    am: np.ndarray
    """The model's log-probability of each arc's frame label, float64."""
    lm: np.ndarray
    """The graph's log-probability of each arc, float64."""
    final_state: np.ndarray
    """The final states, which no arc leaves, int32."""
    final_lm: np.ndarray
    """The graph's log-probability of ending in each of them, float64."""

    @property
    def num_arcs(self) -> int:
        """Number of arcs; 0 where no path was found."""
        return len(self.src)

    @property
    def num_frames(self) -> int:
        """Number of frames; every path has one arc for each."""
        return 1 + int(self.frame[-1]) if self.num_arcs else 0

    @property
    def num_states(self) -> int:
        """Number of states, with the start."""
        return 1 + int(self.dst.max(initial=0))

    @property
    def score(self) -> np.ndarray:
        """Log-probability of each arc, by model and graph together."""
        return self.am + self.lm

    @property
    def first_arcs(self) -> np.ndarray:
        """The first arc of each frame, and the number of arcs."""
        return np.searchsorted(self.frame, np.arange(self.num_frames + 1))

    def scaled(self, lm_scale: float) -> Lattice:
        """The lattice with the graph's log-probabilities multiplied by a scale."""
        return replace(self, lm=lm_scale * self.lm, final_lm=lm_scale * self.final_lm)

    def path(self, arcs: np.ndarray) -> LatticePath:
        """The path along these arcs, one a frame; `NO_PATH` for none."""
        if len(arcs) == 0:
            return NO_PATH
        given = self.olabel[arcs]
        frames = given.nonzero()[0]
        ending = self.final_lm[np.flatnonzero(self.final_state == self.dst[arcs[-1]])[0]]
        am, lm = float(self.am[arcs].sum()), float(self.lm[arcs].sum() + ending)
        return LatticePath(self.ilabel[arcs].tolist(), given[frames].tolist(), frames.tolist(), am + lm, am)


NO_ARCS = np.zeros(0, dtype=np.int32)
EMPTY = Lattice(
    src=NO_ARCS,
    dst=NO_ARCS,
    frame=NO_ARCS,
    ilabel=NO_ARCS,
    olabel=NO_ARCS,
    am=np.zeros(0),
    lm=np.zeros(0),
    final_state=NO_ARCS,
    final_lm=np.zeros(0),
)
"""The lattice without a path."""


def lattice_of_arcs(
    src: np.ndarray, dst: np.ndarray, arc: np.ndarray, *, log_probs: np.ndarray, graph: Graph
) -> Lattice:
    """The lattice of a search's arcs, whose states may have any numbers and lead nowhere; scores are looked up.

    Args:
      src, dst: states between which each arc leads; 0 is the start.
      arc: the graph's arc that each one takes.
      log_probs: log-probabilities of frame labels, (T, V).
    """
    frame_of_state = _frames(src, dst)
    used = frame_of_state[src] >= 0
    src, dst, arc, frame = src[used], dst[used], arc[used], frame_of_state[src[used]]
    is_last = frame == len(log_probs) - 1
    last, entering = np.unique(dst[is_last], return_index=True)
    ending = graph.ending[graph.dst[arc[is_last]][entering]]
    final = np.isfinite(ending)
    lattice = Lattice(
        src,
        dst,
        frame,
        graph.ilabel[arc],
        graph.olabel[arc],
        am=log_probs[frame, graph.ilabel[arc]].astype(np.float64),
        lm=graph.weight[arc].astype(np.float64),
        final_state=last[final].astype(np.int32),
        final_lm=ending[final],
    )
    return trimmed(_in_order(lattice))


def _frames(src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """The frame that arcs from each state consume; -1 for states that the start does not reach."""
    distance = dijkstra(_links(src, dst, 1 + max(src.max(initial=0), dst.max(initial=0))), indices=0, unweighted=True)
    return np.where(np.isfinite(distance), distance, -1).astype(np.int32)


def reached(src: np.ndarray, dst: np.ndarray, states: np.ndarray, num_states: int) -> np.ndarray:
    """The states that arcs lead to from some states, with themselves, as a mask (num_states,)."""
    before = np.full(len(states), num_states)  # a state that leads to all of them
    links = _links(np.append(src, before), np.append(dst, states), num_states + 1)
    mask = np.zeros(num_states + 1, dtype=bool)
    mask[breadth_first_order(links, num_states, return_predecessors=False)] = True
    return mask[:-1]


def _links(src: np.ndarray, dst: np.ndarray, num_states: int) -> csr_matrix:
    """Arcs as SciPy's algorithms on graphs take them."""
    return csr_matrix((np.ones(len(src), dtype=bool), (src, dst)), shape=(num_states, num_states))


def spans(first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The numbers first[0] .. end[0] - 1, first[1] .. end[1] - 1, and so on."""
    counts = end - first
    return np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())


def _in_order(lattice: Lattice) -> Lattice:
    """The lattice whose states are numbered frame by frame, without numbers that no arc uses."""
    states, frames = np.zeros(1 + lattice.dst.max(initial=0), dtype=np.int32), lattice.frame + 1
    states[lattice.dst] = frames
    numbers = np.zeros_like(states)
    used = np.unique(np.concatenate([[0], lattice.dst]))
    numbers[used[np.argsort(states[used], kind="stable")]] = np.arange(len(used))
    src, dst = numbers[lattice.src], numbers[lattice.dst]
    order = np.argsort(src, kind="stable")
    arrays = {
        name: getattr(lattice, name)[order].astype(np.int32, copy=False) for name in ("frame", "ilabel", "olabel")
    }
    return replace(
        lattice,
        **arrays,
        src=src[order],
        dst=dst[order],
        am=lattice.am[order],
        lm=lattice.lm[order],
        final_state=numbers[lattice.final_state],
    )


def trimmed(lattice: Lattice, keep: np.ndarray | None = None) -> Lattice:
    """The lattice of those of the arcs to keep (all of them) that lie on a path from the start to a final state."""
    keep = np.ones(lattice.num_arcs, dtype=bool) if keep is None else keep
    src, dst, num_states = lattice.src[keep], lattice.dst[keep], lattice.num_states
    states = reached(src, dst, np.zeros(1, dtype=np.int32), num_states)
    states &= reached(dst, src, lattice.final_state, num_states)
    keep = keep & states[lattice.src] & states[lattice.dst]
    if not keep.any():
        return EMPTY
    numbers = np.cumsum(states, dtype=np.int32) - 1
    ends = states[lattice.final_state]
    return Lattice(
        src=numbers[lattice.src[keep]],
        dst=numbers[lattice.dst[keep]],
        **{name: getattr(lattice, name)[keep] for name in ("frame", "ilabel", "olabel", "am", "lm")},
        final_state=numbers[lattice.final_state[ends]],
        final_lm=lattice.final_lm[ends],
    )


MIN_ACTIVE = 30
"""Arcs or states that are kept on a frame even outside the search beam. Source: icefall's min_active_states."""
logger = logging.getLogger("shared_moe_conformer")


class Beams(NamedTuple):
    """The width of a search. Source of the names: icefall's get_lattice."""

    search_beam: float
    """Partial paths this much (nats) worse than a frame's best are dropped."""
    output_beam: float
    """Paths this much (nats) worse than the utterance's best are left out of its lattice."""
    max_active: int
    """Most states that are kept on a frame, 2 or more."""


class LatticeEngine(Protocol):
    """The interface of both engines."""

    name: str

    def lattices(
        self, log_probs: Tensor, lens: Tensor, graph: Graph, beams: Beams, *, max_arcs: int
    ) -> list[Lattice | None]:
        """Return the lattice of each utterance: `EMPTY` where there is no path, None where it has too many arcs.

        Args:
          log_probs: log-probabilities of frame labels, (N, T, V).
          lens: valid frames of each utterance, (N,).
          graph: the graph to search.
          beams: the width of the search.
          max_arcs: most arcs of an utterance; an engine may count arcs that only its search keeps.
        """


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, the first time only."""
    logger.warning(message)
