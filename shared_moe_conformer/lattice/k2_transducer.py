"""The transducer's fast beam search by k2: lattices over any graph of tokens, their best paths and output sequences.

The code uses only what k2 1.23.4 and 1.24.4 both have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import k2
import numpy as np
import torch
from torch import Tensor

from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.k2_engine import loaded
from shared_moe_conformer.lattice.lattice import NO_PATH, AlignedPath, LatticePath

NextLogProbs = Callable[[int, Tensor, Tensor], Tensor]
"""Log-probabilities (M, V) at a frame, of utterances (M,) after contexts (M, context_size)."""

MAX_ARCS = 1_000_000
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
        """Output sequences and their utterances, in chunks whose lattices have at most `MAX_ARCS` arcs."""
        flat: list[Sequence[int]] = []
        utterances: list[int] = []
        num_arcs = 0
        for index, of_one in enumerate(outputs):
            arcs = self.lattice[index].num_arcs
            for output in of_one:
                if flat and num_arcs + arcs > MAX_ARCS:
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
