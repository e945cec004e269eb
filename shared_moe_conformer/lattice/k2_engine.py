"""Searches by k2: lattices of CTC posteriors, and the transducer's fast beam search.

The code uses only what k2 1.23.4 and 1.24.4 both have; a test checks that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import k2
import numpy as np
import torch
from torch import Tensor

from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import (
    EMPTY,
    MIN_ACTIVE,
    NO_PATH,
    AlignedPath,
    Beams,
    Lattice,
    LatticePath,
    lattice_of_arcs,
    warn_once,
)
from shared_moe_conformer.lattice.paths import within_beam

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
    """Indexes of non-empty utterances, in lists of at most `max_frames` frames in total; longer ones stay single."""
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


NextLogProbs = Callable[[int, Tensor, Tensor], Tensor]
"""Log-probabilities (M, V) at a frame, of utterances (M,) after contexts (M, context_size)."""
MAX_SCORED_ARCS = 1_000_000
"""Most arcs of lattices that are scored at once; each output sequence has a lattice of its own."""


class TransducerLattices:
    """The paths through frames and graph that a search kept, for each utterance of a batch.

    Every arc but the last consumes a frame. Its attributes are the token, its score, the graph's arc that it came from
    (counted from 1; 0 for blanks) and that arc's output label.
    """

    def __init__(self, lattice: k2.Fsa, graph: Graph) -> None:
        self.lattice = lattice
        self.graph = graph

    @torch.inference_mode(False)  # k2 reads tensors' version counters, which inference mode leaves out
    @torch.no_grad()
    def one_best(self) -> list[AlignedPath]:
        """The best path of each utterance; an empty one where the search found none."""
        return self._paths(k2.shortest_path(self.lattice, use_double_scores=True), tokens="labels")

    @torch.inference_mode(False)
    @torch.no_grad()
    def sampled_outputs(self, *, num_paths: int, nbest_scale: float) -> list[list[list[int]]]:
        """The distinct output sequences among paths that are drawn by their probability, for each utterance.

        Args:
          num_paths: number of paths to draw.
          nbest_scale: factor of log-probabilities while drawing; a smaller one gives more distinct sequences.
        """
        scores = self.lattice.scores.clone()
        self.lattice.scores = nbest_scale * scores
        paths = k2.random_paths(self.lattice, use_double_scores=True, num_paths=num_paths)
        self.lattice.scores = scores
        given = self.lattice.aux_labels[paths.values.long()]
        outputs = k2.RaggedTensor(paths.shape, given).remove_values_leq(0)
        return [sorted({tuple(o) for o in of_one}) for of_one in outputs.tolist()]  # type: ignore[misc]

    @torch.inference_mode(False)
    @torch.no_grad()
    def total_scores(self, outputs: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        """Log-probability of each output sequence of each utterance, summed over its paths through the lattice."""
        totals = iter(
            score
            for flat, utterances in self._chunks(outputs)
            for score in self._with_outputs(flat, utterances)
            .get_tot_scores(use_double_scores=True, log_semiring=True)
            .tolist()
        )
        return [[next(totals) for _ in of_one] for of_one in outputs]

    @torch.inference_mode(False)
    @torch.no_grad()
    def aligned(self, outputs: Sequence[Sequence[int]]) -> list[AlignedPath]:
        """The best path of each utterance among those with this output sequence."""
        lattice = self._with_outputs(outputs, range(len(outputs)))
        return self._paths(k2.shortest_path(lattice, use_double_scores=True), tokens="aux_labels")

    def _chunks(self, outputs: Sequence[Sequence[Sequence[int]]]) -> Iterator[tuple[list[Sequence[int]], list[int]]]:
        """Output sequences and their utterances, in chunks whose lattices have at most `MAX_SCORED_ARCS` arcs."""
        flat: list[Sequence[int]] = []
        utterances: list[int] = []
        num_arcs = 0
        for index, of_one in enumerate(outputs):
            arcs = self.lattice[index].num_arcs
            for output in of_one:
                if flat and num_arcs + arcs > MAX_SCORED_ARCS:
                    yield flat, utterances
                    flat, utterances, num_arcs = [], [], 0
                flat.append(output)
                utterances.append(index)
                num_arcs += arcs
        if flat:
            yield flat, utterances

    def _with_outputs(self, outputs: Sequence[Sequence[int]], utterances: Sequence[int]) -> k2.Fsa:
        """The parts of the lattices that give these sequences; labels are outputs, auxiliary labels are tokens."""
        device = self.lattice.device
        linear = k2.add_epsilon_self_loops(k2.linear_fsa([list(output) for output in outputs]).to(device))
        return k2.intersect_device(
            k2.arc_sort(k2.invert(self.lattice)),
            linear,
            b_to_a_map=torch.tensor(utterances, dtype=torch.int32, device=device),
            sorted_match_a=True,
        )

    def _paths(self, best: k2.Fsa, *, tokens: str) -> list[AlignedPath]:
        return [_path(best[index], self.graph, tokens) for index in range(best.shape[0])]


def _path(best: k2.Fsa, graph: Graph, tokens: str) -> AlignedPath:
    """The path of a linear FSA; its last arc enters the final state and consumes no frame."""
    if best.num_arcs == 0:
        return AlignedPath(NO_PATH, [])
    labels, scores = getattr(best, tokens)[:-1].tolist(), best.scores[:-1].cpu().numpy()
    arcs = best.graph_arc[:-1].cpu().numpy()  # 0 at blanks
    given = np.concatenate([[0], graph.olabel])[arcs]
    log_probs = scores - np.concatenate([[0.0], graph.weight])[arcs]
    frames = given.nonzero()[0]
    path = LatticePath(labels, given[frames].tolist(), frames.tolist(), float(best.scores.double().sum()))
    return AlignedPath(path, log_probs.tolist())


@torch.inference_mode(False)
@torch.no_grad()
def search(
    next_log_probs: NextLogProbs,
    lens: Tensor,
    graph: Graph,
    *,
    vocab_size: int,
    context_size: int,
    beam: float,
    max_contexts: int,
    max_states: int,
) -> TransducerLattices:
    """The lattices of a batch, with at most one token a frame.

    k2 leaves the last frame, and so its token, out of a lattice. The search therefore adds a frame on which blank is
    certain; then the probabilities of all paths of a trivial graph sum to one.

    Args:
      next_log_probs: the joiner's log-probabilities; blank is certain from frame `lens[n]` of utterance n on.
      lens: valid frames of each utterance, (N,).
      graph: from tokens to outputs.
      vocab_size: tokens, blank included.
      context_size: tokens that the decoder sees.
      beam: states this much (nats) worse than a frame's best are dropped.
      max_contexts: most contexts of an utterance at a frame; the joiner is computed once for each.
      max_states: most states of an utterance at a frame.

    Source: Kuang et al. 2022, Pruned RNN-T for fast, memory-efficient ASR training (arXiv 2206.13236), section 4;
    fast_beam_search of icefall.
    """
    fsa = loaded(graph, lens.device)
    config = k2.RnntDecodingConfig(
        vocab_size=vocab_size,
        decoder_history_len=context_size,
        beam=beam,
        max_states=max_states,
        max_contexts=max_contexts,
    )
    streams = k2.RnntDecodingStreams([k2.RnntDecodingStream(fsa) for _ in range(len(lens))], config)
    num_frames = (lens + 1).tolist()
    for t in range(max(num_frames)):
        shape, contexts = streams.get_contexts()
        with torch.inference_mode():
            log_probs = next_log_probs(t, shape.row_ids(1).long(), contexts.long())
        streams.advance(log_probs.clone())
    streams.terminate_and_flush_to_streams()
    lattice = streams.format_output(num_frames=num_frames, allow_partial=True)
    return TransducerLattices(k2.connect(_with_outputs(lattice, graph)), graph)


def _with_outputs(lattice: k2.Fsa, graph: Graph) -> k2.Fsa:
    """The lattice with the graph's output labels as auxiliary labels; its arcs of the graph become `graph_arc`."""
    arcs = lattice.aux_labels
    outputs = torch.from_numpy(np.concatenate([[0], graph.olabel, [-1]]).astype(np.int32)).to(arcs.device)
    lattice.graph_arc = arcs.clamp(min=0)
    lattice.aux_labels = outputs[arcs.long()]  # -1, the end, is the last entry
    return lattice
