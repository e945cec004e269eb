from __future__ import annotations

from typing import Any

import pytest
import torch

from shared_moe_conformer.lattice.engine import lattice_engine
from shared_moe_conformer.lattice.graphs import ctc_topology

from .conftest import peaked_log_probs

pytest.importorskip("k2")


def test_a_keyword_is_passed_only_where_the_installed_k2_has_it() -> None:
    from shared_moe_conformer.lattice.k2_engine import where_accepted

    assert where_accepted(lambda a_fsas, allow_partial=False: None, allow_partial=True) == {"allow_partial": True}
    assert where_accepted(lambda a_fsas: None, allow_partial=True) == {}


@pytest.mark.parametrize(("vocab_size", "modified"), [(50, False), (500, True)])
def test_agrees_with_the_embedded_engine(vocab_size: int, modified: bool) -> None:
    pytest.importorskip("kaldi_decoder")
    log_probs = peaked_log_probs(32, 60, vocab_size, seed=4)
    lens = torch.randint(20, 61, (32,), generator=torch.Generator().manual_seed(0))
    graph = ctc_topology(vocab_size, modified=modified)
    options: dict[str, Any] = {"search_beam": 15.0, "output_beam": 8.0, "max_active": 7000}
    ours = lattice_engine("k2").one_best(log_probs, lens, graph, **options)
    theirs = lattice_engine("embedded").one_best(log_probs, lens, graph, **options)
    assert [path.frame_labels for path in ours] == [path.frame_labels for path in theirs]
    assert [path.score for path in ours] == pytest.approx([path.score for path in theirs], abs=1e-3)
