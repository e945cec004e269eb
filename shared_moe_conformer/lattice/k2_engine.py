"""Lattices by k2; the only module here that imports it.

Written against k2 1.23.4 and 1.24.4: everything is called by keyword, and a keyword that only the newer one has is
passed only there.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import k2
import numpy as np
import torch
from torch import Tensor

from shared_moe_conformer.lattice.forward_backward import within_beam
from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import EMPTY, Lattice, lattice_of_arcs
from shared_moe_conformer.lattice.path import NO_PATH, LatticePath, min_active, path_of_arcs

MAX_ARCS = 24_000_000
"""Arcs that k2 may meet in one search if all states are active, at some 80 bytes each; from 2**31 on it would abort."""


class K2Engine:
    """k2's pruned intersection with dense posteriors."""

    name = "k2"

    @torch.no_grad()
    @torch.inference_mode(False)  # k2 asks tensors for their version counters, which inference mode leaves out
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
        """See `LatticeEngine.one_best`."""
        present = (lens > 0).nonzero().squeeze(1).tolist()
        paths = [NO_PATH] * len(lens)
        if present:
            lattice = _lattice(
                log_probs, lens, graph, search_beam=search_beam, output_beam=output_beam, max_active=max_active
            )
            best = k2.shortest_path(lattice, use_double_scores=True)
            for index, path in zip(present, _linear_paths(best, graph)):
                paths[index] = path
        return paths

    @torch.no_grad()
    @torch.inference_mode(False)
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
        max_frames = _max_frames(graph, max_active)
        lattices: list[Lattice | None] = [None if n > max_frames else EMPTY for n in lens.tolist()]
        rows = log_probs.float().cpu().numpy()
        for group in _groups(lens, max_frames=max_frames):
            found = _lattice(
                log_probs[group],
                lens[group],
                graph,
                search_beam=search_beam,
                output_beam=output_beam,
                max_active=max_active,
            ).to("cpu")
            for number, index in enumerate(group):
                whole = _portable(found[number], rows[index, : lens[index]], graph, max_arcs=max_arcs)
                lattices[index] = whole and within_beam(whole, output_beam)
        return lattices


def _max_frames(graph: Graph, max_active: int) -> int:
    """Frames that can be searched at once, whatever the posteriors are."""
    active_arcs = len(graph.src) * min(1.0, max_active / graph.num_states)
    return max(1, int(MAX_ARCS / max(1.0, active_arcs)))


def _groups(lens: Tensor, *, max_frames: int) -> list[list[int]]:
    """Utterances with a frame in lists of at most this many frames together; without those that are longer."""
    groups: list[list[int]] = []
    left = 0
    for index, num_frames in enumerate(lens.tolist()):
        if not 0 < num_frames <= max_frames:
            continue
        if num_frames > left:
            groups.append([])
            left = max_frames
        groups[-1].append(index)
        left -= num_frames
    return groups


def _lattice(
    log_probs: Tensor, lens: Tensor, graph: Graph, *, search_beam: float, output_beam: float, max_active: int
) -> k2.Fsa:
    """The lattices of the utterances that have a frame.

    The pruned search leaves dead ends behind, which `connect` removes: everything after it is many times faster.
    """
    lens = lens.to("cpu", torch.int32)
    sequence = torch.arange(len(lens), dtype=torch.int32)
    segments = torch.stack([sequence, torch.zeros_like(sequence), lens], dim=1)[lens > 0]
    return k2.connect(
        k2.intersect_dense_pruned(
            a_fsas=_loaded(graph, log_probs.device),
            b_fsas=k2.DenseFsaVec(log_probs.float().clone(), segments),
            search_beam=search_beam,
            output_beam=output_beam,
            min_active_states=min_active(max_active),
            max_active_states=max_active,
            **where_accepted(k2.intersect_dense_pruned, allow_partial=True),
        )
    )


def _portable(fsa: k2.Fsa, log_probs: np.ndarray, graph: Graph, *, max_arcs: int) -> Lattice | None:
    """The lattice as arrays, without the arcs that enter k2's final state; None: it has too many arcs."""
    if fsa.num_arcs > max_arcs:
        return None
    src, dst, label, _ = fsa.arcs.values().numpy().T
    consuming = label >= 0
    arc = fsa.aux_labels.numpy()[consuming]
    return lattice_of_arcs(src[consuming], dst[consuming], arc, log_probs=log_probs, graph=graph)


def where_accepted(function: Callable[..., Any], **keywords: Any) -> dict[str, Any]:
    """Those of the keyword arguments that the installed k2's function has."""
    accepted = inspect.signature(function).parameters
    return {name: value for name, value in keywords.items() if name in accepted}


@functools.lru_cache(maxsize=8)
def _loaded(graph: Graph, device: torch.device) -> k2.Fsa:
    """The graph as k2 wants it: ending in one final state, which arcs with label -1 enter.

    Auxiliary labels are the indices of the graph's arcs, so that a path tells all about its way.
    """
    end = graph.num_states
    ends = np.full_like(graph.final_state, end)
    minus_one = np.full_like(graph.final_state, -1)
    src = np.concatenate([graph.src, graph.final_state])
    order = np.argsort(src, kind="stable")
    columns = [
        src,
        np.concatenate([graph.dst, ends]),
        np.concatenate([graph.ilabel, minus_one]),
        np.concatenate([graph.weight, graph.final_weight]).view(np.int32),
    ]
    arcs = torch.from_numpy(np.stack(columns, axis=1)[order])
    aux_labels = torch.from_numpy(np.concatenate([np.arange(len(graph.src), dtype=np.int32), minus_one])[order])
    return k2.arc_sort(k2.Fsa(arcs, aux_labels)).to(device)


def _linear_paths(best: k2.Fsa, graph: Graph) -> list[LatticePath]:
    """The paths of an FsaVec of linear FSAs, whose last arcs enter their final states and consume no frame."""
    scores = best.get_tot_scores(use_double_scores=True, log_semiring=False).tolist()
    arcs = [best[index].aux_labels.tolist()[:-1] for index in range(len(scores))]
    return [path_of_arcs(graph, path, score) if path else NO_PATH for path, score in zip(arcs, scores)]
