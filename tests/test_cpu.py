from __future__ import annotations

import os
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from shared_moe_conformer import cpu
from shared_moe_conformer.cpu import processor_name, tune_cpu

AVX512 = "avx2 avx512f avx512bw avx512dq avx512vl"
VARIABLES = ("MKL_DEBUG_CPU_TYPE", "ATEN_CPU_CAPABILITY")


@pytest.fixture(autouse=True)
def _untouched(monkeypatch: pytest.MonkeyPatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back after the test
        monkeypatch.delenv(name)
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize(
    ("vendor", "flags", "chosen"),
    [
        ("AuthenticAMD", AVX512, ["7", "avx512"]),
        ("AuthenticAMD", "avx2 avx512f", ["5", None]),
        ("AuthenticAMD", "sse4_2", [None, None]),
        ("GenuineIntel", AVX512, [None, None]),
    ],
)
def test_mkl_and_torch_get_the_best_that_an_amd_processor_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, flags: str, chosen: list[str | None]
) -> None:
    one = f"processor\t: 0\nvendor_id\t: {vendor}\npower management:\nmodel name\t: X: 1\nflags\t\t: fpu {flags}\n"
    (tmp_path / "cpuinfo").write_text(f"{one}\n{one}\n")
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "cpuinfo")
    tune_cpu()
    assert [os.environ.get(name) for name in VARIABLES] == chosen and processor_name() == "X: 1"


def test_a_user_s_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "4")
    tune_cpu()
    assert [os.environ[name] for name in VARIABLES] == ["4", "4"]


def test_a_system_that_says_nothing_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "none")
    tune_cpu()
    assert not set(VARIABLES) & set(os.environ)


def test_threads_and_subnormal_numbers() -> None:
    smallest = torch.tensor([1e-30])
    assert (smallest * 1e-10).item() > 0
    tune_cpu(1)
    assert torch.get_num_threads() == 1
    assert (smallest * 1e-10).item() == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_glibc_keeps_freed_memory_and_maps_no_large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[int, int] = {}
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=options.__setitem__))
    tune_cpu()
    assert options == {cpu.MMAP_THRESHOLD: 2**30, cpu.TRIM_THRESHOLD: 2**31 - 1}


def test_so_many_threads_compute_as_are_asked_for() -> None:
    for asked, found in ((2, 2), (1, 1), (0, 1)):
        tune_cpu(asked)
        assert torch.get_num_threads() == found
