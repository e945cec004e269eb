"""The interface to finite-state engines, and the choice of one."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from shared_moe_conformer.lattice.graphs import Graph

EngineName = Literal["auto", "k2", "embedded"]


class LatticePath(NamedTuple):
    """One way through a graph."""

    frame_labels: list[int]
    """Frame label of every frame."""
    output_labels: list[int]
    """Output labels, without the 0 of arcs that give none."""
    output_frames: list[int]
    """Frame at which each output label was given."""
    score: float
    """Log-probability of frames and graph together; -inf where no path was found."""


NO_PATH = LatticePath([], [], [], float("-inf"))


def min_active(max_active: int) -> int:
    """States that are kept on a frame even outside of the search beam; engines want fewer than `max_active`.

    Source: icefall's min_active_states.
    """
    return min(30, max_active - 1)


def path_of_arcs(graph: Graph, arcs: list[int], score: float) -> LatticePath:
    """The path that takes these arcs of the graph, one per frame."""
    given = graph.olabel[arcs]
    frames = given.nonzero()[0]
    return LatticePath(graph.ilabel[arcs].tolist(), given[frames].tolist(), frames.tolist(), score)


class LatticeEngine(Protocol):
    """What both engines can do."""

    name: str

    def one_best(
        self,
        log_probs: Tensor,
        lens: Tensor,
        graph: Graph,
        *,
        search_beam: float,
        output_beam: float,
        max_active: int,
    ) -> list[LatticePath]:
        """Return the best path of each utterance, or `NO_PATH` where the search found none or there is no frame.

        Args:
          log_probs: log-probabilities of frame labels, (N, T, V).
          lens: valid frames of each utterance, (N,).
          graph: what frame labels may follow each other, and what they give.
          search_beam: paths this much (nats) worse than a frame's best are dropped.
          output_beam: paths this much (nats) worse than the utterance's best are no part of its lattice.
          max_active: states that are kept on a frame at most.
        """


@functools.cache
def lattice_engine(name: EngineName = "auto") -> LatticeEngine:
    """The engine of this name; "auto" is k2 where it is installed and the embedded one otherwise.

    Raises:
      ValueError: it is not installed.
    """
    choices = ("k2", "embedded") if name == "auto" else (name,)
    for choice in choices:
        try:
            return _ENGINES[choice]()
        except ImportError as error:
            reason = error
    raise ValueError(
        f"no lattice engine ({reason}): pip install kaldi-decoder kaldifst, or use a k2 environment "
        "(make install ENGINE=k2), or choose a decoding method that needs no lattice"
    ) from reason


def _k2_engine() -> LatticeEngine:
    from shared_moe_conformer.lattice.k2_engine import K2Engine

    return K2Engine()


def _embedded_engine() -> LatticeEngine:
    from shared_moe_conformer.lattice.embedded_engine import EmbeddedEngine

    return EmbeddedEngine()


_ENGINES = {"k2": _k2_engine, "embedded": _embedded_engine}
