from __future__ import annotations

import os

import pytest
import torch

from shared_moe_conformer.decoding import peak_memory as module
from shared_moe_conformer.decoding.peak_memory import peak_memory

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="no Linux")


def filled(megabytes: int) -> torch.Tensor:
    return torch.ones(megabytes * 2**18)


@pytest.mark.parametrize("megabytes", [8, 100])
def test_the_highest_of_what_is_taken_at_once(megabytes: int) -> None:
    def search() -> None:
        filled(megabytes)  # freed at once
        filled(megabytes // 2)

    assert peak_memory(search, CPU) == pytest.approx(megabytes, abs=4)


def test_what_was_freed_before_helps_no_search() -> None:
    """Small pieces, which the C library keeps for later."""
    pieces = [torch.ones(2**10) for _ in range(10_000)]
    assert peak_memory(lambda: [torch.ones(2**10) for _ in range(10_000)], CPU) == pytest.approx(40, abs=8)
    del pieces
    assert peak_memory(lambda: [torch.ones(2**10) for _ in range(10_000)], CPU) == pytest.approx(40, abs=8)


def test_nothing_of_a_search_stays_behind() -> None:
    found: list[int] = []
    assert peak_memory(lambda: found.append(1), CPU) == pytest.approx(0, abs=4)
    assert found == []


def test_a_search_that_fails_or_hangs_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("no")

    assert peak_memory(fail, CPU) is None
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    assert peak_memory(lambda: os.read(os.pipe()[0], 1), CPU) is None
