"""Trainings that are killed, fill the disk or find a damaged checkpoint, and still end with the same bits."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from shared_moe_conformer.training import folder
from shared_moe_conformer.training.folder import BEST_NAME, MID_EPOCH_NAME, load_checkpoint
from shared_moe_conformer.training.trainer import Trainer
from tests.conftest import make_room
from tests.test_train import ROOT, assert_same, recipe, refused, run  # noqa: F401

NUM_EPOCHS = 12
FLAGS = ("--num-threads", "1", "--resume", "true", "--save-every-n-steps", "1", "--num-epochs", str(NUM_EPOCHS))
MAX_UPDATES = 3
"""Updates of a child before it waits to be killed; ten children cannot reach the end of the last epoch with them."""
KILLS = [(moment, None) for moment in (0, 0, 1, 1, 2, 2, 3)] + [(None, share) for share in (0.0, 0.5, 1.0)]
"""Ten kills: at a random time after a number of updates have begun (0: after the fork), or when a share of the second
or third checkpoint's file is written."""


def weights(exp_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(exp_dir / f"epoch-{NUM_EPOCHS}.pt")["model"]


class Child:
    """A forked process that trains and writes a byte when it begins an update; a fork saves seconds of imports."""

    def __init__(self, train: Callable[[], Any], *, max_updates: int | None = None, dies: float | None = None) -> None:
        """Fork.

        Args:
          train: what it does.
          max_updates: updates after which it only waits; None: it goes on.
          dies: share of a checkpoint that it writes before it is killed; None: it writes all.
        """
        self._told, tell = os.pipe()
        self.process = os.fork()
        if self.process:
            os.close(tell)
            return
        status = 1
        with contextlib.suppress(BaseException):
            tells_updates(tell, max_updates)
            if dies is not None:
                dies_while_writing(random.randint(2, MAX_UPDATES), dies)
            train()
            status = 0
        os._exit(status)

    def begun_update(self) -> bool:
        """Wait until the next update begins; False: there is none."""
        return bool(os.read(self._told, 1))

    def end(self) -> int:
        """Wait until the process ends; the signal that killed it, or 0 if it ended well."""
        status = os.waitpid(self.process, 0)[1]
        os.close(self._told)
        assert os.WIFSIGNALED(status) or status == 0, "a training failed"
        return os.WTERMSIG(status)


def tells_updates(pipe: int, max_updates: int | None) -> None:
    """Have this process write a byte before each update, and wait after `max_updates` of them."""
    step, begun = Trainer.train_step, [0]

    def told(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        while begun[0] == max_updates:
            signal.pause()
        begun[0] += 1
        os.write(pipe, b".")
        return step(self, *args, **kwargs)

    Trainer.train_step = told  # type: ignore[method-assign]


def dies_while_writing(after_writes: int, share: float) -> None:
    """Have this process killed when it has written a share of its n-th checkpoint, before it puts that in place."""
    writes = [0]
    atomic_file = folder.atomic_file

    class Deadly:
        def __init__(self, file: IO[bytes]) -> None:
            self.file = file

        def write(self, content: Any) -> None:
            writes[0] += 1
            if writes[0] < after_writes:
                self.file.write(content)
                return
            self.file.write(content[: int(share * len(content))])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def deadly_file(path: Path) -> Iterator[Any]:
        with atomic_file(path) as file:
            yield Deadly(file)

    folder.atomic_file = deadly_file  # type: ignore[assignment]


def longest_update(child: Child) -> float:
    """Longest time in seconds between the beginnings of two updates, ends of epochs included."""
    times = []
    while child.begun_update():
        times.append(time.monotonic())
    return max(after - before for before, after in zip(times, times[1:]))


def kill_and_resume(recipe_dir: Path, whole_dir: Path, exp_dir: Path) -> int:
    """Train without a stop, then in children, of which all but the last are killed; return the number killed."""
    random.seed(1)
    uninterrupted = Child(lambda: run(recipe_dir, whole_dir, *FLAGS))
    seconds = longest_update(uninterrupted)
    assert uninterrupted.end() == 0
    killed = 0
    for moment, share in random.sample(KILLS, len(KILLS)):
        killed_training = functools.partial(run, recipe_dir, exp_dir, *FLAGS, "--num-workers", "1")
        child = Child(killed_training, max_updates=MAX_UPDATES, dies=share)
        if moment is not None:
            assert all(child.begun_update() for _ in range(moment))
            time.sleep(random.uniform(0, seconds))
            os.kill(child.process, signal.SIGKILL)
        killed += child.end() == signal.SIGKILL
    assert Child(lambda: run(recipe_dir, exp_dir, *FLAGS)).end() == 0
    return killed


@pytest.mark.slow
def test_ten_kills_change_no_bit(recipe: Path, tmp_path: Path) -> None:  # noqa: F811
    code = "import sys; from tests.test_survival import *; print(kill_and_resume(*map(Path, sys.argv[1:])))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(recipe), str(tmp_path / "whole"), str(tmp_path / "killed")]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) == 10
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert_same(*(load_checkpoint(tmp_path / name / BEST_NAME)["model"] for name in ("whole", "killed")))
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_with_room_the_training_goes_on(
    recipe: Path,  # noqa: F811
    tmp_path: Path,
    small_disk: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    whole = run(recipe, tmp_path / "whole", *FLAGS)
    message = refused(recipe, small_disk / "exp", capsys, *FLAGS)
    assert "cannot be written" in message and "--resume true" in message
    with open(small_disk / "others", "wb") as file, contextlib.suppress(OSError):
        file.write(bytes(1 << 20))
    message = refused(recipe, small_disk / "exp", capsys, *FLAGS)
    assert f"{small_disk}/exp" in message, "whatever is written first"
    make_room(small_disk)
    assert_same(whole, run(recipe, small_disk / "exp", *FLAGS))
    assert not [path for path in (small_disk / "exp").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_truncated_checkpoint_is_named_and_the_one_before_is_used(
    recipe: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    whole = run(recipe, tmp_path / "whole", *FLAGS)
    step = Trainer.train_step

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (self.state.epoch, self.state.num_batches) == (2, 2):
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "train_step", interrupted)
        run(recipe, tmp_path / "exp", *FLAGS)
    path = tmp_path / "exp" / MID_EPOCH_NAME
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    capsys.readouterr()
    assert_same(whole, run(recipe, tmp_path / "exp", *FLAGS))
    shown = capsys.readouterr().err
    assert f"{path} is damaged: going on from the checkpoint before it, {tmp_path}/exp/epoch-1.pt" in shown
