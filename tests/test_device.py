from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from shared_moe_conformer import device
from shared_moe_conformer.device import (
    PARAMETERS_PER_THREAD,
    choose_device,
    environment,
    in_order,
    limit_threads,
    processes,
    processor_name,
    tune_cpu,
)


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("auto").type == kind
    assert choose_device("cpu") == torch.device("cpu")


def test_a_device_that_cannot_be_used_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="--device abacus cannot be used here") as caught:
        choose_device("abacus")
    assert "\n" not in str(caught.value)


def test_a_gpu_without_a_number_is_left_for_each_process_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """To torch it is the first one: two processes would train on it."""

    class OnFirst:
        device = torch.device("cuda:0")

    monkeypatch.setattr(torch, "empty", lambda *size, device: OnFirst)
    assert choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")


def test_a_process_that_is_killed_is_one_line() -> None:
    with pytest.raises(ChildProcessError, match="was killed, .*: give a smaller --num-jobs"), processes(2) as workers:
        list(in_order(os._exit, [9], workers))


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
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "cpuinfo")
    tune_cpu()
    assert [os.environ.get(name) for name in VARIABLES] == chosen and processor_name() == "X: 1"


def test_a_user_s_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "4")
    tune_cpu()
    assert [os.environ[name] for name in VARIABLES] == ["4", "4"]


def test_a_system_that_says_nothing_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "none")
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
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=options.__setitem__))
    tune_cpu()
    assert options == {device.MMAP_THRESHOLD: 2**30, device.TRIM_THRESHOLD: 2**31 - 1}


def test_so_many_threads_compute_as_are_asked_for() -> None:
    for asked, found in ((2, 2), (1, 1), (0, 1)):
        tune_cpu(asked)
        assert torch.get_num_threads() == found


@pytest.mark.parametrize(
    ("num_parameters", "available", "found"),
    [(1000, 4, 2), (3 * PARAMETERS_PER_THREAD, 4, 3), (9 * PARAMETERS_PER_THREAD, 3, 3), (1000, 1, 1)],
)
def test_a_model_gets_the_threads_that_it_has_work_for(
    num_parameters: int, available: int, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(available)
    limit_threads(num_parameters)
    assert torch.get_num_threads() == found


def test_a_number_of_threads_that_a_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    limit_threads(1)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("code", "given", "policy"),
    [
        ("import shared_moe_conformer", None, "passive"),
        ("import shared_moe_conformer", "active", "active"),
        ("import torch, shared_moe_conformer", None, "None"),  # too late
    ],
)
def test_threads_wait_passively_unless_a_user_chose(code: str, given: str | None, policy: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    result = subprocess.run(
        [sys.executable, "-c", f"{code}; import os; print(os.environ.get('OMP_WAIT_POLICY'))"],
        env=environment | ({"OMP_WAIT_POLICY": given} if given else {}),
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == [policy]


def test_versions_are_those_of_this_process() -> None:
    found = environment(torch.device("cpu"))
    assert found["Python"] == platform.python_version() and found["device"] == "cpu"
    assert torch.__version__.startswith(found["torch"]) and found["threads"] == str(torch.get_num_threads())
    assert json.loads(json.dumps(found)) == found


def test_what_is_not_there_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "PACKAGES", ("no-such-package-anywhere",))
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "none")
    found = environment(torch.device("cpu"))
    assert "no-such-package-anywhere" not in found and found["processor"] == platform.machine()
