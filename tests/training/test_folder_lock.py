from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared_moe_conformer.training.folder_lock import LOCK_NAME, only_training_in

ROOT = Path(__file__).resolve().parent.parent.parent
HOLDER = """
import os, signal, sys
from pathlib import Path
from shared_moe_conformer.training.folder_lock import only_training_in

with only_training_in(Path(sys.argv[1])):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    signal.pause()
"""


@contextlib.contextmanager
def held_by_another(exp_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder, and has forked a worker, which lives on until the block ends."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(exp_dir)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        worker = int(holder.stdout.readline())
        try:
            yield holder
        finally:
            holder.kill()
            os.kill(worker, signal.SIGKILL)


def test_a_folder_is_held_until_its_holder_is_killed(tmp_path: Path) -> None:
    exp_dir = tmp_path / "exp"
    with held_by_another(exp_dir) as holder:
        with pytest.raises(FileExistsError, match="exp is being trained in: wait"), only_training_in(exp_dir):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (exp_dir / LOCK_NAME).exists()
        with only_training_in(exp_dir):
            pass


def test_nothing_is_left_where_nothing_was_and_what_was_stays(tmp_path: Path) -> None:
    with only_training_in(tmp_path / "a" / "b"):
        pass
    assert list((tmp_path / "a").iterdir()) == []
    with pytest.raises(ValueError), only_training_in(tmp_path / "a"):
        raise ValueError
    with only_training_in(tmp_path / "new"):
        (tmp_path / "new" / "epoch-1.pt").touch()
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "epoch-1.pt"]
    assert list((tmp_path / "a").iterdir()) == []


def test_a_lock_that_its_holder_has_just_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "lockf", lambda file, operation: (tmp_path / LOCK_NAME).unlink())
    with pytest.raises(FileExistsError), only_training_in(tmp_path):
        pass


def test_a_file_system_without_locks_is_said_and_trained_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with only_training_in(tmp_path):
        assert "cannot be locked" in caplog.text and "No locks available" in caplog.text
