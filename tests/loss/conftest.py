"""The functions of each backend."""

from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.loss.pruned_transducer import TransducerFunctions, transducer_functions


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["torch", "k2"])
def functions(request: pytest.FixtureRequest) -> TransducerFunctions:
    """Each backend that is installed."""
    if request.param == "k2":
        pytest.importorskip("k2")
    return transducer_functions(request.param, "cpu")
