"""Searches through a lattice: the CTC head's posteriors intersected with a graph."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from shared_moe_conformer.decoding.ctc import BLANK_ID, collapse
from shared_moe_conformer.decoding.hypothesis import Hypothesis, hypotheses_from_frames
from shared_moe_conformer.lattice import engine, graphs
from shared_moe_conformer.lattice.engine import EngineName
from shared_moe_conformer.lattice.graphs import CtcTopology, chosen_topology
from shared_moe_conformer.model.asr_model import AsrModel


def one_best(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    lattice_engine: EngineName = "auto",
    ctc_topology: CtcTopology = "auto",
    search_beam: float = 15.0,
    output_beam: float = 8.0,
    max_active: int = 7000,
) -> list[Hypothesis]:
    """Return the tokens of the best path through the lattice over the CTC topology.

    The tokens are those of the path's frame labels: the modified topology reads a run of a token as one token or as
    several, at the same score, and engines break that tie differently.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
      lattice_engine: who searches.
      ctc_topology: which label sequences the graph allows.
      search_beam, output_beam, max_active: see `LatticeEngine.one_best`.
    """
    log_probs = model.ctc_log_probs(encoder_out)
    paths = engine.lattice_engine(lattice_engine).one_best(
        log_probs,
        encoder_out_lens,
        _topology(log_probs.size(2), chosen_topology(ctc_topology, log_probs.size(2))),
        search_beam=search_beam,
        output_beam=output_beam,
        max_active=max_active,
    )
    labels = torch.full(log_probs.shape[:2], BLANK_ID)
    for row, path in zip(labels, paths):
        row[: len(path.frame_labels)] = torch.tensor(path.frame_labels, dtype=torch.int64)
    scores = torch.tensor([path.score for path in paths], dtype=torch.float64)
    return hypotheses_from_frames(collapse(labels), scores, blank_id=BLANK_ID)


@functools.lru_cache(maxsize=4)
def _topology(vocab_size: int, topology: CtcTopology) -> graphs.Graph:
    return graphs.ctc_topology(vocab_size, modified=topology == "modified")
