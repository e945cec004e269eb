"""Posteriors and graphs on which engines are compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared_moe_conformer.lattice.engine import LatticeEngine, lattice_engine
from shared_moe_conformer.lattice.graphs import Graph


@pytest.fixture(params=["k2", "embedded"])
def engine(request: pytest.FixtureRequest) -> LatticeEngine:
    """Each engine that is installed."""
    pytest.importorskip("k2" if request.param == "k2" else "kaldi_decoder")
    return lattice_engine(request.param)


@pytest.fixture
def make_graph():
    def make(*, num_states: int, vocab_size: int, num_arcs: int, seed: int) -> Graph:
        """A random graph, of which two states are final and some may be dead ends."""
        rng = np.random.default_rng(seed)
        final = rng.choice(num_states, size=2, replace=False)
        return Graph(
            src=np.sort(rng.integers(num_states, size=num_arcs)).astype(np.int32),
            dst=rng.integers(num_states, size=num_arcs).astype(np.int32),
            ilabel=rng.integers(vocab_size, size=num_arcs).astype(np.int32),
            olabel=rng.integers(5, size=num_arcs).astype(np.int32),
            weight=rng.normal(size=num_arcs).astype(np.float32),
            final_state=final.astype(np.int32),
            final_weight=rng.normal(size=2).astype(np.float32),
        )

    return make


def random_log_probs(num_utterances: int, num_frames: int, vocab_size: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(num_utterances, num_frames, vocab_size, generator=generator)).log_softmax(-1)


def peaked_log_probs(num_utterances: int, num_frames: int, vocab_size: int, *, seed: int) -> torch.Tensor:
    """Posteriors as speech gives them: one label far ahead, most often blank, tokens in short runs."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, vocab_size, (num_utterances, num_frames), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.6] = 0
    for t in range(1, num_frames):
        goes_on = torch.rand(num_utterances, generator=generator) < 0.3
        labels[goes_on, t] = labels[goes_on, t - 1]
    logits = torch.randn(num_utterances, num_frames, vocab_size, generator=generator)
    return logits.scatter_add(2, labels.unsqueeze(2), torch.full((*labels.shape, 1), 12.0)).log_softmax(-1)
