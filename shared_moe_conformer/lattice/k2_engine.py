"""Lattices by k2. The code uses only what k2 1.23.4 and 1.24.4 both have; a test checks that."""

from __future__ import annotations

import functools

import k2
import numpy as np
import torch
from torch import Tensor

from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import EMPTY, Lattice, lattice_of_arcs
from shared_moe_conformer.lattice.paths import within_beam
from shared_moe_conformer.lattice.search import MIN_ACTIVE, Beams, warn_once

MAX_ARCS = 24_000_000
"""Most arcs of one search if all states are active, at about 80 bytes each; k2 aborts from 2**31 arcs on."""


class K2Engine:
    """Searches by k2's pruned intersection with dense posteriors."""

    name = "k2"

    @torch.no_grad()
    @torch.inference_mode(False)  # k2 reads tensors' version counters, which inference mode leaves out
    def lattices(
        self, log_probs: Tensor, lens: Tensor, graph: Graph, beams: Beams, *, max_arcs: int
    ) -> list[Lattice | None]:
        """See `LatticeEngine.lattices`."""
        lattices: list[Lattice | None] = [EMPTY if num_frames == 0 else None for num_frames in lens.tolist()]
        rows = log_probs.float().cpu().numpy()
        for group in _groups(lens, max_frames=_max_frames(graph, beams.max_active)):
            searched = _within_memory(beams, graph, int(lens[group].sum()))
            if searched.max_active < 2:
                continue
            found = _intersected(log_probs[group], lens[group], graph, searched).to("cpu")
            for number, index in enumerate(group):
                whole = _portable(found[number], rows[index, : lens[index]], graph, max_arcs=max_arcs)
                lattices[index] = whole and within_beam(whole, beams.output_beam)
        return lattices


def _max_frames(graph: Graph, max_active: int) -> int:
    """Number of frames that can be searched at once, whatever the posteriors are."""
    return int(MAX_ARCS / (min(max_active, graph.num_states) * _arcs_of_state(graph)))


def _within_memory(beams: Beams, graph: Graph, num_frames: int) -> Beams:
    """The beams, with fewer active states where this number of frames could need too much memory."""
    if num_frames <= _max_frames(graph, beams.max_active):
        return beams
    warn_once("long utterances are searched with a smaller --max-active, so that k2 cannot run out of memory")
    return beams._replace(max_active=int(MAX_ARCS / (num_frames * _arcs_of_state(graph))))


def _arcs_of_state(graph: Graph) -> float:
    return len(graph.src) / graph.num_states


def _groups(lens: Tensor, *, max_frames: int) -> list[list[int]]:
    """Indexes of non-empty utterances, in lists of at most `max_frames` frames in total; longer ones stand alone."""
    groups: list[list[int]] = []
    left = 0
    for index, num_frames in enumerate(lens.tolist()):
        if num_frames == 0:
            continue
        if num_frames > left:
            groups.append([])
            left = max_frames
        groups[-1].append(index)
        left -= num_frames
    return groups


def _intersected(log_probs: Tensor, lens: Tensor, graph: Graph, beams: Beams) -> k2.Fsa:
    """The lattices of non-empty utterances.

    The pruned search leaves dead ends. `connect` removes them, which makes all later steps many times faster.
    """
    lens = lens.to("cpu", torch.int32)
    sequence = torch.arange(len(lens), dtype=torch.int32)
    segments = torch.stack([sequence, torch.zeros_like(sequence), lens], dim=1)
    return k2.connect(
        k2.intersect_dense_pruned(
            a_fsas=loaded(graph, log_probs.device),
            b_fsas=k2.DenseFsaVec(log_probs=log_probs.float().clone(), supervision_segments=segments),
            search_beam=beams.search_beam,
            output_beam=beams.output_beam,
            min_active_states=min(MIN_ACTIVE, beams.max_active - 1),
            max_active_states=beams.max_active,
        )
    )


def _portable(fsa: k2.Fsa, log_probs: np.ndarray, graph: Graph, *, max_arcs: int) -> Lattice | None:
    """The lattice as arrays, without the arcs into k2's final state; None where it has too many arcs."""
    if fsa.num_arcs > max_arcs:
        return None
    src, dst, label, _ = fsa.arcs.values().numpy().T
    consuming = label >= 0
    arc = fsa.aux_labels.numpy()[consuming] - 1
    return lattice_of_arcs(src[consuming], dst[consuming], arc, log_probs=log_probs, graph=graph)


@functools.lru_cache(maxsize=8)
def loaded(graph: Graph, device: torch.device) -> k2.Fsa:
    """The graph for k2, which wants one final state, entered by arcs with label -1.

    Auxiliary labels are the graph's arcs, counted from 1, so each arc of a lattice tells which one it came from.
    """
    minus_one = np.full_like(graph.final_state, -1)
    src = np.concatenate([graph.src, graph.final_state])
    columns = [
        src,
        np.concatenate([graph.dst, np.full_like(graph.final_state, graph.num_states)]),
        np.concatenate([graph.ilabel, minus_one]),
        np.concatenate([graph.weight, graph.final_weight]).view(np.int32),
    ]
    numbers = np.concatenate([np.arange(1, len(graph.src) + 1, dtype=np.int32), minus_one])
    order = np.argsort(src, kind="stable")
    arcs, aux_labels = torch.from_numpy(np.stack(columns, axis=1)[order]), torch.from_numpy(numbers[order])
    return k2.arc_sort(k2.Fsa(arcs, aux_labels=aux_labels)).to(device)
