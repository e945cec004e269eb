"""Lattices of a batch, the CTC head's posteriors intersected with a graph, and their best paths as hypotheses."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.decoding.ctc import BLANK_ID, collapse
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.resources import MISSING
from shared_moe_conformer.lattice import engine, topology
from shared_moe_conformer.lattice.engine import EngineName
from shared_moe_conformer.lattice.graphs import Graph, WordGraph
from shared_moe_conformer.lattice.lattice import Lattice, LatticePath
from shared_moe_conformer.lattice.posteriors import best_arcs, output_confidences, token_confidences
from shared_moe_conformer.lattice.search import Beams, find_lattices
from shared_moe_conformer.lattice.topology import CtcTopology, chosen_topology
from shared_moe_conformer.model.asr_model import AsrModel

GraphName = Literal["H", "HLG"]


class Lattices(NamedTuple):
    """What was found in a batch."""

    of_utterances: list[Lattice]
    words: list[str] | None
    """The word of each output label; None: output labels are tokens."""


def one_best(model: AsrModel, encoder_out: Tensor, encoder_out_lens: Tensor, **search: Any) -> list[Hypothesis]:
    """Return the best path through each lattice.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
      search: see `search_lattices`.

    Raises:
      ValueError: see `search_lattices`.
    """
    lattices, words = search_lattices(model, encoder_out, encoder_out_lens, **search)
    return [hypothesis(lattice, lattice.path(best_arcs(lattice)), words) for lattice in lattices]


def search_lattices(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    graph: GraphName = "HLG",
    hlg_scale: float = 1.0,
    lattice_engine: EngineName = "auto",
    ctc_topology: CtcTopology = "auto",
    search_beam: float = 20.0,
    output_beam: float = 8.0,
    max_active: int = 7000,
    word_graph: WordGraph | None = None,
) -> Lattices:
    """Return the lattice of each utterance over the CTC topology, or over words.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
      graph: H, the topology alone, or HLG, with a lexicon and an n-gram.
      hlg_scale: what the log-probabilities of HLG are multiplied by.
      lattice_engine: who searches.
      ctc_topology: which label sequences H allows.
      search_beam, output_beam, max_active: see `lattice.search.Beams`.
      word_graph: HLG.

    Raises:
      ValueError: HLG is asked for and not given, or it is one for more units than the model has.
    """
    log_probs = model.ctc_log_probs(encoder_out)
    vocab_size = log_probs.size(2)
    if graph == "H":
        modified = chosen_topology(ctc_topology, vocab_size) == "modified"
        searched, words = topology.ctc_topology(vocab_size, modified=modified), None
    else:
        searched, words = _scaled(word_graph, hlg_scale, vocab_size)
    found = find_lattices(
        engine.lattice_engine(lattice_engine),
        log_probs,
        encoder_out_lens,
        searched,
        Beams(search_beam, output_beam, max_active),
    )
    return Lattices(found, words)


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
    tie differently. Over words it is the lexicon that tells, and the words are the path's own.
    """
    tokens = collapse(torch.tensor([path.frame_labels], dtype=torch.int64))[0]
    frames = (tokens != BLANK_ID).nonzero().squeeze(1)
    return tokens[frames].tolist(), frames.tolist()


def _scaled(word_graph: WordGraph | None, scale: float, vocab_size: int) -> tuple[Graph, list[str]]:
    if word_graph is None:
        raise ValueError(MISSING["word_graph"])
    units = int(word_graph.graph.ilabel.max()) + 1
    if units > vocab_size:
        raise ValueError(
            f"an HLG for at least {units} units, and a model with {vocab_size}: build it for its tokens.txt"
        )
    return word_graph.graph.scaled(scale), word_graph.words
