from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.decoding import batches
from shared_moe_conformer.decoding.batches import decode_batches, peak_memory
from shared_moe_conformer.decoding.options import DecodingConfig


class Batch(NamedTuple):
    x: Tensor
    x_lens: Tensor
    cut_ids: list[str]
    texts: list[str]


def test_each_method_is_charged_with_the_encoder_and_its_own_search(make_model, monkeypatch) -> None:
    model = make_model(7)
    lens = torch.tensor([50, 30])
    batch = Batch(torch.randn(2, 50, 80), lens, ["a", "b"], ["A", "B"])
    clock = itertools.count()
    monkeypatch.setattr(batches, "_now", lambda device: float(next(clock)))  # each step takes a second
    methods = [DecodingConfig(decoding_method=name) for name in ("greedy_search", "ctc_greedy_search")]
    results = decode_batches(model, [batch, batch], methods, to_text=str)
    assert [result.real_time_factor for result in results] == [pytest.approx(2 * 2 / (2 * 0.8))] * 2
    assert [[decoded.cut_id for decoded in result.decoded] for result in results] == [["a", "b"] * 2] * 2


CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]

on_linux = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="no Linux")


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
    command = [sys.executable, "-m", "tests.decoding.test_batches"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@on_linux
@pytest.mark.parametrize("megabytes", [8, 100])
def test_the_highest_of_what_is_taken_at_once(peaks: dict[str, float], megabytes: int) -> None:
    assert peaks[str(megabytes)] == pytest.approx(megabytes, abs=2)


@on_linux
def test_what_was_freed_before_helps_no_search(peaks: dict[str, float]) -> None:
    assert peaks["small"] == pytest.approx(40, abs=8)
    assert peaks["small, after as many were freed"] == pytest.approx(40, abs=8)


@on_linux
def test_nothing_of_a_search_stays_behind() -> None:
    found: list[int] = []
    assert peak_memory(lambda: found.append(1), CPU) == pytest.approx(0, abs=4)
    assert found == []


@on_linux
def test_a_search_that_fails_or_hangs_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("no")

    assert peak_memory(fail, CPU) is None
    monkeypatch.setattr(batches, "PATIENCE", 0.2)
    assert peak_memory(lambda: os.read(os.pipe()[0], 1), CPU) is None


if __name__ == "__main__":
    main()
