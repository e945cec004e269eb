"""Searches through a lattice: the CTC head's posteriors intersected with a graph."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

from shared_moe_conformer.decoding.ctc import BLANK_ID, collapse
from shared_moe_conformer.decoding.hypothesis import Hypothesis, hypotheses_from_frames
from shared_moe_conformer.lattice import engine, graphs
from shared_moe_conformer.lattice.engine import EngineName
from shared_moe_conformer.lattice.graphs import CtcTopology, WordGraph, chosen_topology
from shared_moe_conformer.lattice.path import LatticePath
from shared_moe_conformer.model.asr_model import AsrModel

GraphName = Literal["H", "HLG"]


def one_best(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    graph: GraphName = "H",
    hlg_scale: float = 1.0,
    lattice_engine: EngineName = "auto",
    ctc_topology: CtcTopology = "auto",
    search_beam: float = 15.0,
    output_beam: float = 8.0,
    max_active: int = 7000,
    word_graph: WordGraph | None = None,
) -> list[Hypothesis]:
    """Return the best path through the lattice over the CTC topology, or over words.

    The tokens are those of the path's frame labels: the modified topology reads a run of a token as one token or as
    several, at the same score, and engines break that tie differently. Over words it is the lexicon that tells, and
    the words are the path's own.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
      graph: H, the topology alone, or HLG, with a lexicon and an n-gram.
      hlg_scale: what the log-probabilities of HLG are multiplied by.
      lattice_engine: who searches.
      ctc_topology: which label sequences H allows.
      search_beam, output_beam, max_active: see `LatticeEngine.one_best`.
      word_graph: HLG.

    Raises:
      ValueError: HLG is asked for and not given, or it is one for more units than the model has.
    """
    log_probs = model.ctc_log_probs(encoder_out)
    vocab_size = log_probs.size(2)
    if graph == "H":
        searched, words = _topology(vocab_size, chosen_topology(ctc_topology, vocab_size)), None
    else:
        searched, words = _scaled(word_graph, hlg_scale, vocab_size)
    paths = engine.lattice_engine(lattice_engine).one_best(
        log_probs,
        encoder_out_lens,
        searched,
        search_beam=search_beam,
        output_beam=output_beam,
        max_active=max_active,
    )
    hyps = _hypotheses(paths, num_frames=log_probs.size(1))
    if words is None:
        return hyps
    return [
        hyp._replace(words=[words[label] for label in path.output_labels], word_frames=path.output_frames)
        for hyp, path in zip(hyps, paths, strict=True)
    ]


def _hypotheses(paths: list[LatticePath], *, num_frames: int) -> list[Hypothesis]:
    labels = torch.full((len(paths), num_frames), BLANK_ID)
    for row, path in zip(labels, paths):
        row[: len(path.frame_labels)] = torch.tensor(path.frame_labels, dtype=torch.int64)
    scores = torch.tensor([path.score for path in paths], dtype=torch.float64)
    return hypotheses_from_frames(collapse(labels), scores, blank_id=BLANK_ID)


@functools.lru_cache(maxsize=4)
def _topology(vocab_size: int, topology: CtcTopology) -> graphs.Graph:
    return graphs.ctc_topology(vocab_size, modified=topology == "modified")


def _scaled(word_graph: WordGraph | None, scale: float, vocab_size: int) -> tuple[graphs.Graph, list[str]]:
    if word_graph is None:
        raise ValueError("no HLG to search: run ./prepare.sh, whose last stage builds it, or decode with --graph H")
    units = int(word_graph.graph.ilabel.max()) + 1
    if units > vocab_size:
        raise ValueError(
            f"an HLG for at least {units} units, and a model with {vocab_size}: build it for its tokens.txt"
        )
    return _scaled_graph(word_graph.graph, scale), word_graph.words


@functools.lru_cache(maxsize=8)
def _scaled_graph(graph: graphs.Graph, scale: float) -> graphs.Graph:
    return graph.scaled(scale)
