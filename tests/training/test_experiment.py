from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared_moe_conformer.config import Config, load_config, replace_fields, to_dict
from shared_moe_conformer.data.manifests import RECORD_FILE
from shared_moe_conformer.training.experiment import (
    LOCK_NAME,
    checkpoint_to_resume,
    load_to_resume,
    only_training_in,
    open_experiment,
    refuse_other_checkpoint,
)
from shared_moe_conformer.training.folder import MID_EPOCH_NAME, epoch_path, save_checkpoint


def touch_epochs(exp_dir: Path, *epochs: int, mid_epoch: bool = False) -> None:
    for epoch in epochs:
        epoch_path(exp_dir, epoch).touch()
    if mid_epoch:
        (exp_dir / MID_EPOCH_NAME).touch()


def test_a_new_experiment_begins(tmp_path: Path) -> None:
    assert checkpoint_to_resume(tmp_path / "new") is None
    assert checkpoint_to_resume(tmp_path / "new", resume=True) is None
    assert not (tmp_path / "new").exists()


def test_start_epoch_goes_on_from_the_epoch_before(tmp_path: Path) -> None:
    touch_epochs(tmp_path, 1, 2, 10)
    assert checkpoint_to_resume(tmp_path, start_epoch=11) == epoch_path(tmp_path, 10)


def test_resume_takes_the_newest(tmp_path: Path) -> None:
    touch_epochs(tmp_path, 2, 10)
    assert checkpoint_to_resume(tmp_path, resume=True) == epoch_path(tmp_path, 10)
    touch_epochs(tmp_path, mid_epoch=True)
    assert checkpoint_to_resume(tmp_path, resume=True) == tmp_path / MID_EPOCH_NAME


def test_training_over_a_training_is_refused(tmp_path: Path) -> None:
    touch_epochs(tmp_path, mid_epoch=True)
    with pytest.raises(FileExistsError, match="--resume true"):
        checkpoint_to_resume(tmp_path)
    touch_epochs(tmp_path, 1, 2)
    for start_epoch in (1, 2):
        with pytest.raises(FileExistsError, match="a training of 2 epochs"):
            checkpoint_to_resume(tmp_path, start_epoch=start_epoch)


def test_an_epoch_that_was_never_reached_is_refused(tmp_path: Path) -> None:
    touch_epochs(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match=r"epoch-4\.pt to start epoch 5 from"):
        checkpoint_to_resume(tmp_path, start_epoch=5)


@pytest.mark.parametrize(("start_epoch", "resume"), [(0, False), (3, True)])
def test_a_start_that_makes_no_sense_is_refused(tmp_path: Path, start_epoch: int, resume: bool) -> None:
    with pytest.raises(ValueError, match="give an epoch from 1, or --resume true"):
        checkpoint_to_resume(tmp_path, start_epoch=start_epoch, resume=resume)


def test_config_is_written_and_leftovers_are_removed(tmp_path: Path) -> None:
    exp_dir = tmp_path / "exp" / "base"
    exp_dir.mkdir(parents=True)
    written = ("epoch-2.pt", "config.json", "tokens.txt", RECORD_FILE, "checkpoint.pt", "checkpoint-7.pt")
    for name in (*(f".{name}.0a1b2c3d" for name in written), "notes.txt", ".notes"):
        (exp_dir / name).touch()
    open_experiment(exp_dir, Config(), resuming=False)
    assert load_config(exp_dir / "config.json") == Config()
    assert sorted(path.name for path in exp_dir.iterdir()) == [".notes", "config.json", "notes.txt"]


def test_another_experiment_is_refused_and_untouched(tmp_path: Path) -> None:
    open_experiment(tmp_path, Config(), resuming=False)
    other = replace_fields(Config(), {"num_experts": 4, "seed": 1})
    for resuming in (False, True):
        with pytest.raises(ValueError, match=r"num_experts 8 there, 4 now, seed 42 there, 1 now"):
            open_experiment(tmp_path, other, resuming=resuming)
    assert load_config(tmp_path / "config.json") == Config()


def test_resuming_may_train_longer(tmp_path: Path) -> None:
    open_experiment(tmp_path, Config(), resuming=False)
    longer = replace_fields(Config(), {"num_epochs": 99})
    with pytest.raises(ValueError, match="num_epochs"):
        open_experiment(tmp_path, longer, resuming=False)
    open_experiment(tmp_path, longer, resuming=True)
    assert load_config(tmp_path / "config.json") == longer


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = {"config": json.dumps(to_dict(Config()))}
    refuse_other_checkpoint(checkpoint, Config(), tmp_path)
    with pytest.raises(ValueError, match="top_k 1 there, 2 now"):
        refuse_other_checkpoint(checkpoint, replace_fields(Config(), {"top_k": 2}), tmp_path)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for epoch in (1, 2, 3):
        save_checkpoint(epoch_path(tmp_path, epoch), {"model": {}, "train_state": json.dumps({"step": epoch})})
    newest = tmp_path / MID_EPOCH_NAME
    newest.write_bytes(epoch_path(tmp_path, 3).read_bytes()[:-200])
    epoch_path(tmp_path, 3).write_bytes(b"")
    path, checkpoint = load_to_resume(newest)
    assert path == epoch_path(tmp_path, 2) and checkpoint["train_state"] == '{"step": 2}'
    assert [f"{name} cannot be read" in caplog.text for name in (newest, epoch_path(tmp_path, 3))] == [True, True]


def test_a_damaged_checkpoint_gives_way_to_the_newest_of_epochs_and_updates(tmp_path: Path) -> None:
    for name, step in (("epoch-1.pt", 10), ("checkpoint-8.pt", 8), ("checkpoint-10.pt", 10), ("checkpoint-12.pt", 12)):
        save_checkpoint(tmp_path / name, {"model": {}, "train_state": json.dumps({"step": step})})
    newest = tmp_path / MID_EPOCH_NAME
    newest.write_bytes(b"damaged")
    assert load_to_resume(newest)[0] == tmp_path / "checkpoint-12.pt"
    (tmp_path / "checkpoint-12.pt").write_bytes(b"damaged")
    assert load_to_resume(newest)[0] == tmp_path / "epoch-1.pt", "as new as its last update, and resumed sooner"
    (tmp_path / "epoch-1.pt").write_bytes(b"damaged")
    assert load_to_resume(newest)[0] == tmp_path / "checkpoint-10.pt"


def test_if_all_checkpoints_are_damaged_none_is_used(tmp_path: Path) -> None:
    touch_epochs(tmp_path, 1, 2)
    with pytest.raises(ValueError, match="has no checkpoint that can be read"):
        load_to_resume(epoch_path(tmp_path, 2))


def test_a_checkpoint_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"epoch-1\.pt holds no config"):
        refuse_other_checkpoint({"model": {}}, Config(), epoch_path(tmp_path, 1))


ROOT = Path(__file__).resolve().parent.parent.parent
HOLDER = """
import os, signal, sys
from pathlib import Path
from shared_moe_conformer.training.experiment import only_training_in

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
        with pytest.raises(FileExistsError, match="another process trains in .*exp: wait"), only_training_in(exp_dir):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (exp_dir / LOCK_NAME).exists()
        with only_training_in(exp_dir):
            pass


def test_nothing_is_left_where_nothing_was_and_what_was_stays(tmp_path: Path) -> None:
    with only_training_in(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError), only_training_in(tmp_path / "a"):
        raise ValueError
    with only_training_in(tmp_path / "new"):
        (tmp_path / "new" / "epoch-1.pt").touch()
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "epoch-1.pt"]
    assert list((tmp_path / "a").iterdir()) == []


def test_a_lock_that_its_holder_has_just_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda file, operation: (tmp_path / LOCK_NAME).unlink())
    with pytest.raises(FileExistsError), only_training_in(tmp_path):
        pass


def test_a_file_system_without_locks_is_said_and_trained_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_training_in(tmp_path):
        assert "cannot be locked" in caplog.text and "No locks available" in caplog.text
