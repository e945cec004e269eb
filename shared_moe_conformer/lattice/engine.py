"""The interface to finite-state engines, and the choice of one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol

from torch import Tensor

from shared_moe_conformer.lattice.beams import Beams
from shared_moe_conformer.lattice.embedded_engine import EmbeddedEngine
from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import Lattice

EngineName = Literal["auto", "k2", "embedded"]


class LatticeEngine(Protocol):
    """What both engines can do."""

    name: str

    def lattices(
        self, log_probs: Tensor, lens: Tensor, graph: Graph, beams: Beams, *, max_arcs: int
    ) -> list[Lattice | None]:
        """Return the lattice of each utterance: `EMPTY` where there is no path, None where it has too many arcs.

        Args:
          log_probs: log-probabilities of frame labels, (N, T, V).
          lens: valid frames of each utterance, (N,).
          graph: what frame labels may follow each other, and what they give.
          beams: how wide the search is.
          max_arcs: arcs of an utterance at most; those that only the search keeps may count.
        """


@functools.cache
def lattice_engine(name: EngineName = "auto") -> LatticeEngine:
    """The engine of this name; "auto" is k2 where it is installed and the embedded one otherwise.

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
    """k2's search of transducers (`k2_transducer.search`), which no other engine has.

    Raises:
      ValueError: k2 is not installed.
    """
    try:
        from shared_moe_conformer.lattice.k2_transducer import search
    except ImportError as error:
        raise ValueError(
            f"the fast_beam_search methods need k2 ({error}): make install ENGINE=k2, or decode with "
            "modified_beam_search, which needs none"
        ) from error
    return search
