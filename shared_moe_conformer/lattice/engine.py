"""The interface to finite-state engines, and the choice of one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol

from torch import Tensor

from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import Lattice
from shared_moe_conformer.lattice.path import LatticePath

EngineName = Literal["auto", "k2", "embedded"]


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

    def lattices(
        self,
        log_probs: Tensor,
        lens: Tensor,
        graph: Graph,
        *,
        search_beam: float,
        output_beam: float,
        max_active: int,
        max_arcs: int,
    ) -> list[Lattice | None]:
        """Return the lattice of each utterance: `EMPTY` where there is no path, None where it has too many arcs.

        Args:
          log_probs, lens, graph, search_beam, output_beam, max_active: see `one_best`.
          max_arcs: arcs of an utterance at most; those that only the search keeps may count.
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
