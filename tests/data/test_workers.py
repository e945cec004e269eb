from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.utils.data import Dataset, IterableDataset

from shared_moe_conformer.data.workers import read_ahead

ROOT = Path(__file__).resolve().parents[2]
KILLED_WHILE_A_WORKER_BEGINS = """
import os, signal, time
from shared_moe_conformer.data.workers import read_ahead

def kill_parent():
    parent = os.getppid()
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        time.sleep(0.01)

os.register_at_fork(after_in_child=kill_parent)
list(read_ahead("abc", sampler=range(3), num_workers=1))
"""


def test_no_worker_outlives_a_process_that_is_killed_while_it_begins() -> None:
    """The pipe of the output, which the worker has too, is closed; else the time would run out."""
    command = [sys.executable, "-c", KILLED_WHILE_A_WORKER_BEGINS]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


LOADS = """
import multiprocessing, os, signal, sys, time
from shared_moe_conformer.data.workers import read_ahead

multiprocessing.set_start_method("forkserver")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
batches = iter(read_ahead("abcdefghi", sampler=range(9), num_workers=2))
begun = [next(batches), next(batches)]
os.system("kill -TERM 0")
time.sleep(0.2)
print(*begun, *batches, sep="")
unfinished = iter(read_ahead("abcdefghi", sampler=range(9), num_workers=2))
"""


def test_workers_leave_it_to_their_parent_to_end_them_whatever_python_begins_processes_with() -> None:
    """As a queue's system tells all to end; Python 3.14 begins processes with a server of forks."""
    command = [sys.executable, "-c", LOADS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, start_new_session=True)
    assert (result.returncode, result.stdout) == (0, "abcdefghi\n"), result.stderr


@pytest.mark.parametrize("lacking", [("sigwaitinfo",), ("sigwaitinfo", "pthread_sigmask")])
def test_workers_load_where_signals_cannot_be_waited_for(
    lacking: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS, and on Windows."""
    for name in lacking:
        monkeypatch.delattr(signal, name)
    assert "".join(read_ahead("abcdefghi", sampler=range(9), num_workers=2)) == "abcdefghi"


class Planned(Dataset):
    def __getitem__(self, plan: int) -> int:
        if plan == 2:
            raise OSError("no such\nplan")
        return plan


class Streamed(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        yield 0
        raise ValueError("no more")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_comes_after_what_could_be_read_and_without_a_traceback(num_workers: int) -> None:
    planned = read_ahead(Planned(), sampler=range(4), num_workers=num_workers)
    assert [next(planned), next(planned)] == [0, 1]
    with pytest.raises(ValueError, match=r"^no such$"):
        next(planned)
    streamed = read_ahead(Streamed(), num_workers=num_workers)
    assert next(streamed) == 0
    with pytest.raises(ValueError, match=r"^no more$"):
        next(streamed)
