"""Lattices in bounded memory: what would grow too large is searched again with narrower beams, and never dropped.

Posteriors of an untrained model are flat: every state of the graph stays within the beam of every other.
"""

from __future__ import annotations

import functools
import logging

from torch import Tensor

from shared_moe_conformer.lattice.engine import LatticeEngine
from shared_moe_conformer.lattice.forward_backward import within_beam
from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import Lattice

MAX_SEARCHED_ARCS = 4_000_000
"""Arcs of an utterance that a search may keep: some 200 MB."""
MAX_LATTICE_ARCS = 50_000
"""Arcs of a lattice: N-best lists and rescoring take a second at most."""
NARROWER = 0.25
"""What beams are multiplied by when they were too wide."""
NARROWEST = 1e-3
"""Search beam (nats) that is not made narrower."""

logger = logging.getLogger("shared_moe_conformer")


def find_lattices(
    engine: LatticeEngine,
    log_probs: Tensor,
    lens: Tensor,
    graph: Graph,
    *,
    search_beam: float,
    output_beam: float,
    max_active: int,
    max_searched: int = MAX_SEARCHED_ARCS,
    max_arcs: int = MAX_LATTICE_ARCS,
) -> list[Lattice]:
    """Return the lattice of each utterance, `EMPTY` where there is no path.

    Args:
      engine: who searches.
      log_probs, lens, graph, search_beam, output_beam, max_active: see `LatticeEngine.lattices`.
      max_searched: arcs of an utterance that the search may keep.
      max_arcs: arcs of each lattice that is returned.

    Raises:
      ValueError: even the narrowest beam is too wide.
    """
    max_active = max(2, min(max_active, graph.num_states))
    options = {"search_beam": search_beam, "output_beam": output_beam}
    found = engine.lattices(log_probs, lens, graph, **options, max_active=max_active, max_arcs=max_searched)
    too_large = [index for index, lattice in enumerate(found) if lattice is None]
    if too_large:
        if search_beam < NARROWEST:
            raise ValueError(f"an utterance of {int(lens.max())} frames is too long for a lattice: cut it")
        warn_once("the lattice of an utterance was too large: searched again with narrower beams")
        again = find_lattices(
            engine,
            log_probs[too_large],
            lens[too_large],
            graph,
            search_beam=NARROWER * search_beam,
            output_beam=output_beam,
            max_active=max(2, max_active // 2),
            max_searched=max_searched,
            max_arcs=max_arcs,
        )
        found = [again[too_large.index(i)] if i in too_large else lattice for i, lattice in enumerate(found)]
    return [_at_most(max_arcs, lattice, beam=output_beam) for lattice in found if lattice is not None]


def _at_most(max_arcs: int, lattice: Lattice, *, beam: float) -> Lattice:
    """The lattice within a beam that leaves this many arcs, but the best paths in any case."""
    while lattice.num_arcs > max_arcs and beam > NARROWEST:
        warn_once("the lattice of an utterance was too large: its worst paths were left out")
        beam *= NARROWER
        lattice = within_beam(lattice, beam)
    return lattice


@functools.cache
def warn_once(message: str) -> None:
    """Say something, the first time only."""
    logger.warning(message)
