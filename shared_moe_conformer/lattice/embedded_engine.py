"""Lattices without k2: best paths by kaldi-decoder over a kaldifst graph, lattices by this package's own search."""

from __future__ import annotations

import functools

import kaldi_decoder
import kaldifst
import numpy as np
from torch import Tensor

from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import Lattice
from shared_moe_conformer.lattice.path import NO_PATH, LatticePath, min_active, path_of_arcs
from shared_moe_conformer.lattice.search import find_lattice


class EmbeddedEngine:
    """One utterance after the other, on the CPU: Kaldi's token-passing decoder, and a search that keeps lattices."""

    name = "embedded"

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
        """See `LatticeEngine.one_best`; `output_beam` means nothing here, since no lattice is kept."""
        options = kaldi_decoder.FasterDecoderOptions(
            beam=search_beam, max_active=max_active, min_active=min_active(max_active)
        )
        return [_best_path(row, graph, options) for row in _rows(log_probs, lens)]

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
        """See `LatticeEngine.lattices`."""
        options = {"search_beam": search_beam, "output_beam": output_beam}
        return [
            find_lattice(row, graph, **options, max_active=max_active, max_arcs=max_arcs)
            for row in _rows(log_probs, lens)
        ]


def _rows(log_probs: Tensor, lens: Tensor) -> list[np.ndarray]:
    """The valid frames of each utterance."""
    rows = log_probs.float().cpu().contiguous().numpy()
    return [row[:num_frames] for row, num_frames in zip(rows, lens.tolist())]


def _best_path(log_probs: np.ndarray, graph: Graph, options: kaldi_decoder.FasterDecoderOptions) -> LatticePath:
    if len(log_probs) == 0:
        return NO_PATH
    fst = _loaded(graph)  # the decoder does not own it: it must outlive the decoder
    decoder = kaldi_decoder.FasterDecoder(fst, options)
    decoder.decode(kaldi_decoder.DecodableCtc(log_probs))
    found, best = decoder.get_best_path()
    if not found:
        return NO_PATH
    _, _, arcs, cost = kaldifst.get_linear_symbol_sequence(best)
    return path_of_arcs(graph, [arc - 1 for arc in arcs], -(cost.value1 + cost.value2))


@functools.lru_cache(maxsize=8)
def _loaded(graph: Graph) -> kaldifst.StdVectorFst:
    """The graph in OpenFst's terms: 0 is epsilon, so input labels are frame labels + 1, and weights are costs.

    Output labels are the indices of the graph's arcs + 1, so that a path tells all about its way.
    """
    fst = kaldifst.StdVectorFst()
    fst.reserve_states(graph.num_states)
    for _ in range(graph.num_states):
        fst.add_state()
    fst.start = 0
    for state, weight in zip(graph.final_state.tolist(), graph.final_weight.tolist()):
        fst.set_final(state, -weight)
    columns = (graph.src, graph.dst, graph.ilabel, graph.weight)
    for index, (src, dst, label, weight) in enumerate(zip(*(column.tolist() for column in columns)), start=1):
        fst.add_arc(src, kaldifst.StdArc(label + 1, index, -weight, dst))
    return fst
