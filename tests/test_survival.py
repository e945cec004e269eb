"""Trainings that are killed, run out of disk, or find a damaged checkpoint, and end at the same bits all the same."""

from __future__ import annotations

import contextlib
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

from shared_moe_conformer.training import checkpoint
from shared_moe_conformer.training.checkpoint import MID_EPOCH_NAME, load_checkpoint
from shared_moe_conformer.training.trainer import Trainer
from tests.test_train import ROOT, assert_same, recipe, refused, run  # noqa: F401

NUM_EPOCHS = 10
FLAGS = ("--num-threads", "1", "--resume", "true", "--save-every-n-steps", "1", "--num-epochs", str(NUM_EPOCHS))
KILLS = [None] * 7 + [0.0, 0.5, 1.0]
"""Where in the file a checkpoint's writing dies; None: a random moment."""


def weights(exp_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(exp_dir / f"epoch-{NUM_EPOCHS}.pt")["model"]


def train_in_child(body: Callable[[], Any]) -> int:
    """The process id of a child that runs `body`: a fork, since imports take seconds."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            body()
            status = 0
        os._exit(status)
    return child


def dies_while_writing(after_writes: int, share: float) -> None:
    """Have this process killed when it has written a share of its n-th checkpoint, and not yet put it in place."""
    writes = [0]
    atomic_file = checkpoint.atomic_file

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

    checkpoint.atomic_file = deadly_file  # type: ignore[assignment]


def kill_and_resume(recipe_dir: Path, whole_dir: Path, exp_dir: Path) -> int:
    """Train without a stop, and then in children, each killed but the last; how many were."""
    assert os.waitpid(train_in_child(lambda: run(recipe_dir, whole_dir, *FLAGS)), 0)[1] == 0
    rng, killed = random.Random(1), 0
    kills = rng.sample(KILLS, len(KILLS))
    for share in kills:

        def body(share: float | None = share) -> None:
            if share is not None:
                dies_while_writing(rng.randint(2, 3), share)
            run(recipe_dir, exp_dir, *FLAGS)

        child = train_in_child(body)
        if share is None:
            time.sleep(rng.uniform(0.1, 1.2))
            os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    _, status = os.waitpid(train_in_child(lambda: run(recipe_dir, exp_dir, *FLAGS)), 0)
    assert status == 0
    return killed


@pytest.mark.slow
def test_ten_kills_change_no_bit(recipe: Path, tmp_path: Path) -> None:  # noqa: F811
    code = "import sys; from tests.test_survival import *; print(kill_and_resume(*map(Path, sys.argv[1:])))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(recipe), str(tmp_path / "whole"), str(tmp_path / "killed")]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) >= 8, "few trainings were still running when they were to be killed"
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"no file system of its own can be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


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
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert_same(whole, run(recipe, small_disk / "exp", *FLAGS))


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
        if self.state.step == 8:
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
