"""Lattices of a batch in bounded memory, whatever its posteriors, and the interface of lattice engines.

An untrained model's posteriors are flat, so all states stay within the beam; such utterances are searched again with
narrower beams. An utterance that was cut off may lead to no final state; it is searched again with every state final.
A warning tells of either.
"""

from __future__ import annotations

import functools
import logging
from typing import NamedTuple, Protocol

from torch import Tensor

from shared_moe_conformer.lattice.composition import Automaton, TooManyArcs, composed
from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import Lattice
from shared_moe_conformer.lattice.paths import pruned

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


MAX_SEARCHED_ARCS = 4_000_000
"""Most arcs that a search keeps for an utterance: about 200 MB."""
MAX_LATTICE_ARCS = 50_000
"""Most arcs of a lattice, with which N-best lists and rescoring take up to two seconds."""
MAX_COMPOSED_ARCS = 200_000
"""Most arcs of a lattice composed with an n-gram: half a second."""
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
