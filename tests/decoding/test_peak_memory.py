from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shared_moe_conformer.decoding import peak_memory as module
from shared_moe_conformer.decoding.peak_memory import peak_memory

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="no Linux")


def main() -> None:
    """Print peaks in MiB, of a process of their own: those of another may have holes in which a piece finds place."""
    peaks = {str(megabytes): peak_memory(large_pieces(megabytes), CPU) for megabytes in (8, 100)}
    pieces = small_pieces()
    peaks["small"] = peak_memory(small_pieces, CPU)
    del pieces
    peaks["small, after as many were freed"] = peak_memory(small_pieces, CPU)
    print(json.dumps(peaks))


def large_pieces(megabytes: int) -> Callable[[], None]:
    def search() -> None:
        torch.ones(megabytes * 2**18)  # freed at once
        torch.ones(megabytes * 2**17)

    return search


def small_pieces() -> list[torch.Tensor]:
    """Together 40 MB, which the C library keeps for later when they are freed."""
    return [torch.ones(2**10) for _ in range(10_000)]


@pytest.fixture(scope="module")
def peaks() -> dict[str, float]:
    command = [sys.executable, "-m", "tests.decoding.test_peak_memory"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("megabytes", [8, 100])
def test_the_highest_of_what_is_taken_at_once(peaks: dict[str, float], megabytes: int) -> None:
    assert peaks[str(megabytes)] == pytest.approx(megabytes, abs=2)


def test_what_was_freed_before_helps_no_search(peaks: dict[str, float]) -> None:
    assert peaks["small"] == pytest.approx(40, abs=8)
    assert peaks["small, after as many were freed"] == pytest.approx(40, abs=8)


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


if __name__ == "__main__":
    main()
