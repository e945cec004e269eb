"""The checks of a GPU, rehearsed on the CPU, where all must be equal."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu


@pytest.mark.parametrize("part", gpu.PARTS, ids=lambda part: part.name)
def test_a_rehearsal_on_the_cpu_finds_all_equal(part: gpu.Part, capsys: pytest.CaptureFixture) -> None:
    assert gpu.run_part(part, torch.device("cpu"), gpu.QUICK, left=float("inf")), capsys.readouterr().out


def test_what_differs_or_fails_is_said(capsys: pytest.CaptureFixture) -> None:
    def differs(device: torch.device, size: gpu.Size):
        yield ["loss", 1.0, "a frame", 0.5, 0.1]
        raise RuntimeError("out of memory")

    assert not gpu.run_part(gpu.Part("Wrong", differs), torch.device("cpu"), gpu.QUICK, left=float("inf"))
    said = capsys.readouterr().out
    assert "above 0.1" in said and "RuntimeError: out of memory" in said
    assert not gpu.run_part(gpu.PARTS[0], torch.device("cpu"), gpu.QUICK, left=0.0)
    assert "no time left" in capsys.readouterr().out
