from __future__ import annotations

import gc

import pytest
import torch

from shared_moe_conformer.lattice.engine import lattice_engine
from shared_moe_conformer.lattice.graphs import ctc_topology

from .conftest import random_log_probs

pytest.importorskip("kaldi_decoder")


def test_graphs_that_nobody_holds_any_more_do_no_harm() -> None:
    """kaldi-decoder ends the process where its graph is gone; more graphs than are remembered come and go here."""
    log_probs, lens = random_log_probs(2, 10, 9, seed=0), torch.tensor([10, 8])
    for seed in range(12):
        graph = ctc_topology(9, modified=seed % 2 == 0)
        paths = lattice_engine("embedded").one_best(
            log_probs, lens, graph, search_beam=100.0, output_beam=8.0, max_active=1000
        )
        assert paths[0].frame_labels == log_probs[0].argmax(dim=1).tolist()
        del graph
        gc.collect()
