"""Lattices of a batch, the CTC head's posteriors intersected with a graph, and what is chosen among their paths.

The names of the searches are icefall's. Its N-best lists are drawn at random and hold a part of the best sequences;
these are exact, so `nbest` has no --nbest-scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.decoding.ctc import BLANK_ID, collapse
from shared_moe_conformer.decoding.hypothesis import Hypothesis, WholeUtteranceSearch
from shared_moe_conformer.decoding.scoring import num_errors, words_of
from shared_moe_conformer.lattice import engine, topology
from shared_moe_conformer.lattice.engine import EngineName
from shared_moe_conformer.lattice.graphs import Graph, WordGraph
from shared_moe_conformer.lattice.lattice import NO_PATH, Lattice, LatticePath
from shared_moe_conformer.lattice.n_best import n_best
from shared_moe_conformer.lattice.ngram import NgramAutomaton
from shared_moe_conformer.lattice.posteriors import best_arcs, output_confidences, token_confidences
from shared_moe_conformer.lattice.search import Beams, find_lattices, rescored
from shared_moe_conformer.lattice.topology import CtcTopology, chosen_topology
from shared_moe_conformer.model.asr_model import AsrModel

BEAMS = Beams(search_beam=20.0, output_beam=8.0, max_active=7000)


class Lattices(NamedTuple):
    """The lattices of a batch."""

    of_utterances: list[Lattice]
    words: list[str] | None
    """The word of each output label; None: output labels are tokens."""


FindLattices = Callable[[Tensor, Tensor], Lattices]
"""From encoder frames (N, T, C) and valid frames of each utterance (N,) to lattices."""


def lattice_finder(
    model: AsrModel,
    *,
    word_graph: WordGraph | None,
    hlg_scale: float = 1.0,
    lattice_engine: EngineName = "auto",
    ctc_topology: CtcTopology = "auto",
    beams: Beams = BEAMS,
) -> FindLattices:
    """A search of lattices over words, or over the CTC topology alone.

    Args:
      word_graph: HLG; None: H, the topology.
      hlg_scale: factor of the log-probabilities of HLG.
      lattice_engine: who searches.
      ctc_topology: which label sequences H allows.
      beams: how wide the search is.

    Raises:
      ValueError: HLG is one for more units than the model has.
    """
    vocab_size = model.decoder.vocab_size
    if word_graph is None:
        modified = chosen_topology(ctc_topology, vocab_size) == "modified"
        graph, words = topology.ctc_topology(vocab_size, modified=modified), None
    else:
        graph, words = _scaled(word_graph, hlg_scale, vocab_size), word_graph.words
    searcher = engine.lattice_engine(lattice_engine)

    def find(encoder_out: Tensor, encoder_out_lens: Tensor) -> Lattices:
        return Lattices(
            find_lattices(searcher, model.ctc_log_probs(encoder_out), encoder_out_lens, graph, beams), words
        )

    return find


def _scaled(word_graph: WordGraph, scale: float, vocab_size: int) -> Graph:
    units = int(word_graph.graph.ilabel.max()) + 1
    if units > vocab_size:
        raise ValueError(
            f"an HLG for at least {units} units, and a model with {vocab_size}: build it for its tokens.txt"
        )
    return word_graph.graph.scaled(scale)


def one_best(find: FindLattices) -> WholeUtteranceSearch[Lattices]:
    """The search for the best path through each lattice."""
    return WholeUtteranceSearch(find, _best_paths)


def nbest(
    find: FindLattices, *, num_paths: int = 200, output_beam: float = BEAMS.output_beam
) -> WholeUtteranceSearch[Lattices]:
    """The search for the first of the N best sequences of each utterance.

    Args:
      num_paths: N.
      output_beam: how much (nats) worse than the best one a sequence of the list is at most.
    """

    def choose(found: Lattices) -> list[Hypothesis]:
        return [
            hypothesis(lattice, _n_best(lattice, num_paths, output_beam)[0], found.words)
            for lattice in found.of_utterances
        ]

    return WholeUtteranceSearch(find, choose)


def nbest_oracle(
    find: FindLattices,
    *,
    transcripts: Sequence[str],
    to_text: Callable[[list[int]], str],
    num_paths: int = 200,
    output_beam: float = BEAMS.output_beam,
) -> WholeUtteranceSearch[Lattices]:
    """The search for the one of the N best sequences with the fewest word errors: a bound for any choice among them.

    Args:
      transcripts: what was said in each utterance.
      to_text: token ids to text.
      num_paths, output_beam: see `nbest`.
    """

    def closest(lattice: Lattice, words: list[str] | None, transcript: str) -> LatticePath:
        paths = _n_best(lattice, num_paths, output_beam)
        return min(paths, key=lambda path: num_errors(words_of(transcript), words_of(_text(path, words, to_text))))

    def choose(found: Lattices) -> list[Hypothesis]:
        utterances = zip(found.of_utterances, transcripts, strict=True)
        return [hypothesis(lattice, closest(lattice, found.words, said), found.words) for lattice, said in utterances]

    return WholeUtteranceSearch(find, choose)


class ScoredLists(NamedTuple):
    """The N best paths of each utterance, each with its log-probability by a stronger n-gram."""

    lattices: Lattices
    lists: list[list[tuple[LatticePath, float]]]


def nbest_rescoring(
    find: FindLattices,
    *,
    rescoring_lm: NgramAutomaton,
    lm_scale: float,
    num_paths: int = 200,
    output_beam: float = BEAMS.output_beam,
) -> WholeUtteranceSearch[ScoredLists]:
    """The search for the one of the N best sequences for which am + lm_scale * lm is largest.

    am is the frames' log-probability on the sequence's best path, lm that of its words by the n-gram; the graph's own
    n-gram chose the N best and counts no more. Source: icefall's rescore_with_n_best_list.

    Args:
      rescoring_lm: the n-gram.
      lm_scale: the scale of its log-probability.
      num_paths, output_beam: see `nbest`.
    """

    def scored(encoder_out: Tensor, encoder_out_lens: Tensor) -> ScoredLists:
        found = find(encoder_out, encoder_out_lens)
        lists = [_n_best(lattice, num_paths, output_beam) for lattice in found.of_utterances]
        return ScoredLists(
            found, [[(path, rescoring_lm.score(path.output_labels)) for path in paths] for paths in lists]
        )

    def choose(found: ScoredLists) -> list[Hypothesis]:
        (lattices, words), lists = found
        return [hypothesis(lattice, _best(paths, lm_scale), words) for lattice, paths in zip(lattices, lists)]

    return WholeUtteranceSearch(scored, choose)


def whole_lattice_rescoring(
    find: FindLattices, *, rescoring_lm: NgramAutomaton, lm_scale: float
) -> WholeUtteranceSearch[Lattices]:
    """The search for the path of the lattice for which am + lm_scale * lm is largest.

    Source: icefall's rescore_with_whole_lattice. See `nbest_rescoring`.
    """

    def by_lm(encoder_out: Tensor, encoder_out_lens: Tensor) -> Lattices:
        lattices, words = find(encoder_out, encoder_out_lens)
        return Lattices([rescored(lattice, rescoring_lm) for lattice in lattices], words)

    def choose(found: Lattices) -> list[Hypothesis]:
        return _best_paths(Lattices([lattice.scaled(lm_scale) for lattice in found.of_utterances], found.words))

    return WholeUtteranceSearch(by_lm, choose)


def _best_paths(found: Lattices) -> list[Hypothesis]:
    return [hypothesis(lattice, lattice.path(best_arcs(lattice)), found.words) for lattice in found.of_utterances]


def _n_best(lattice: Lattice, num_paths: int, output_beam: float) -> list[LatticePath]:
    """The N best paths within the output beam; `NO_PATH` alone where there is none."""
    return n_best(lattice, num_paths, beam=output_beam) or [NO_PATH]


def _best(scored: list[tuple[LatticePath, float]], lm_scale: float) -> LatticePath:
    """The path with the best score, which becomes its score."""
    best, lm_score = max(scored, key=lambda pair: pair[0].am_score + lm_scale * pair[1])
    return best._replace(score=best.am_score + lm_scale * lm_score, lm_score=lm_scale * lm_score)


def _text(path: LatticePath, words: list[str] | None, to_text: Callable[[list[int]], str]) -> str:
    if words is None:
        return to_text(tokens_of(path)[0])
    return " ".join(words[label] for label in path.output_labels)


def hypothesis(lattice: Lattice, path: LatticePath, words: list[str] | None) -> Hypothesis:
    """The hypothesis of a path, as sure as the lattice is."""
    tokens, frames = tokens_of(path)
    hyp = Hypothesis(tokens, frames, path.score, confidences=token_confidences(lattice, tokens, frames))
    if words is None:
        return hyp
    return hyp._replace(
        words=[words[label] for label in path.output_labels],
        word_frames=path.output_frames,
        word_confidences=output_confidences(lattice, path.output_labels, path.output_frames),
    )


def tokens_of(path: LatticePath) -> tuple[list[int], list[int]]:
    """The tokens of a path's frame labels, and the frame of each.

    The modified topology reads a run of a token as one token or as several, at the same score, and engines break that
    tie differently. Over words the lexicon decides, and the words are the path's own.
    """
    tokens = collapse(torch.tensor([path.frame_labels], dtype=torch.int64))[0]
    frames = (tokens != BLANK_ID).nonzero().squeeze(1)
    return tokens[frames].tolist(), frames.tolist()
