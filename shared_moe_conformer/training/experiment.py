"""A run of ./train.py: its options, its locked folder, and the checkpoint that it resumes."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from shared_moe_conformer.config import (
    AnyConfig,
    from_dict,
    load_config_of,
    options_by_name,
    require,
    require_least,
    save_config,
    to_dict,
)
from shared_moe_conformer.text import counted
from shared_moe_conformer.training.folder import (
    BEST_LM_NAME,
    BEST_NAME,
    MID_EPOCH_NAME,
    epoch_path,
    load_checkpoint,
    logger,
    saved_epochs,
    saved_steps,
    step_path,
)

FREE_OPTIONS = ("num_epochs", "num_steps", "decay_epochs", "num_workers", "max_unreadable")
"""Options that may change when a training is resumed."""
HALF_WRITTEN = (
    *(".config.json.*", ".tokens.txt.*", ".training-cuts.json.*", ".epoch-*.pt.*", ".checkpoint*.pt.*"),
    *(f".{BEST_NAME}.*", f".{BEST_LM_NAME}.*"),
)
"""Files that a run leaves behind when it is killed while it writes (`atomic_file`)."""
LOCK_NAME = ".lock"


@dataclass(frozen=True)
class RunOptions:
    """Options of one run of a training. They do not change the result, so config.json does not have them."""

    start_epoch: int = 1
    """First epoch to train: 1 begins, K continues from epoch-(K-1).pt."""
    resume: bool = False
    """Continue from the newest checkpoint if there is one; otherwise begin."""
    resume_from: str = ""
    """Another folder's checkpoint to continue in a new --exp-dir, e.g. exp/base/epoch-25.pt with more --num-epochs;
    relative to the recipe's folder; empty: none."""
    save_every_n_steps: int = 0
    """Updates between checkpoints inside an epoch (checkpoint.pt, replaced each time); 0: only at ends of epochs."""
    keep_last_k: int = 0
    """Checkpoints of epochs to keep; 0: all."""
    keep_last_k_steps: int = 0
    """Checkpoints of updates to keep (checkpoint-<update>.pt, every save_every_n_steps), for --iter; 0: none."""
    average_period: int = 0
    """Updates between those whose weights are summed, for --use-averaged-model (icefall: 200); 0: no sums."""
    max_skipped_steps: int = 10
    """Updates in a row that may be skipped because a loss or the gradient is not finite; one more ends the training."""
    log_every_n_steps: int = 50
    """Updates between lines in the log and points in TensorBoard; the end of an epoch also gives one."""
    num_threads: int = 0
    """Threads of torch; 0: torch's default, from OMP_NUM_THREADS or the number of cores."""
    device: str = "auto"
    """Device to compute on, e.g. cpu or cuda:0; auto: a GPU if there is one."""
    prescan: bool = False
    """Compute the largest batches first, to see at once whether they fit into memory; changes no result."""
    dry_run: bool = False
    """Print what the training will read, need and take, measured on its largest batches and a few others; write
    nothing."""
    compile: bool = False
    """Compile attention and dense feed-forwards, unless they are merged (torch.compile): a minute at the start, then
    perhaps faster."""
    checkpoint_activations: bool = False
    """Keep only the layers' inputs for the backward pass, which recomputes the rest: less memory, more time."""

    def __post_init__(self) -> None:
        require_least(
            self, 0, "save_every_n_steps", "keep_last_k", "keep_last_k_steps", "average_period", "num_threads"
        )
        require_least(self, 0, "max_skipped_steps")
        require_least(self, 1, "log_every_n_steps")
        require(
            self.keep_last_k_steps == 0 or self.save_every_n_steps > 0,
            f"keep_last_k_steps is {self.keep_last_k_steps}: give --save-every-n-steps too",
        )


@contextlib.contextmanager
def only_training_in(exp_dir: Path) -> Iterator[None]:
    """Lock a folder for this process while the block runs.

    The lock ends with the process, however that ends; forked workers do not hold it. Folders that did not exist are
    removed again if they stay empty.

    Raises:
      FileExistsError: another process holds the lock.
    """
    new = [folder for folder in (exp_dir, *exp_dir.parents) if not folder.exists()]
    exp_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(exp_dir / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FileExistsError(
            f"another process trains in {exp_dir}: wait until it has ended, or name another --exp-dir"
        ) from error
    except OSError as error:  # a file system without locks
        logger.warning("%s cannot be locked (%s): let no other training use this folder", exp_dir, error)
    try:
        yield
    finally:
        (exp_dir / LOCK_NAME).unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):  # not empty
            for folder in new:
                folder.rmdir()


class Origin(NamedTuple):
    """The checkpoint that a training continues; all None: it begins."""

    path: Path | None = None
    checkpoint: dict[str, Any] | None = None
    """Its content."""
    damaged: Path | None = None
    """A newer checkpoint than `path` that cannot be read."""


def find_origin(exp_dir: Path, config: AnyConfig, options: RunOptions, *, resume_from: Path | None = None) -> Origin:
    """The checkpoint that a training continues, from its own folder or, if that has none, `resume_from`.

    Raises:
      FileNotFoundError, FileExistsError, ValueError: it is missing, all are damaged, or it is of another training.
    """
    newest = checkpoint_to_resume(exp_dir, start_epoch=options.start_epoch, resume=options.resume)
    if newest is not None:
        path, checkpoint = load_to_resume(newest)
    elif resume_from is not None:
        path = newest = resume_from
        checkpoint = load_checkpoint(path)
    else:
        return Origin()
    refuse_other_checkpoint(checkpoint, config, path)
    return Origin(path, checkpoint, None if path == newest else newest)


def checkpoint_to_resume(exp_dir: Path, *, start_epoch: int = 1, resume: bool = False) -> Path | None:
    """The path of the checkpoint that the training continues; None: it begins.

    Raises:
      ValueError: both options at once, or an epoch below 1.
      FileNotFoundError: the epoch before `start_epoch` has no checkpoint.
      FileExistsError: `start_epoch` has one already; training it again would mix two trainings.
    """
    if start_epoch < 1 or (resume and start_epoch > 1):
        raise ValueError(
            f"--start-epoch {start_epoch}{' --resume true' * resume}: give an epoch from 1, or --resume true"
        )
    mid_epoch, epochs = exp_dir / MID_EPOCH_NAME, saved_epochs(exp_dir)
    if resume:
        return mid_epoch if mid_epoch.is_file() else epoch_path(exp_dir, epochs[-1]) if epochs else None
    if (epochs and epochs[-1] >= start_epoch) or (start_epoch == 1 and mid_epoch.is_file()):
        length = f" of {counted(epochs[-1], 'epoch')}" if epochs else ""
        raise FileExistsError(
            f"{exp_dir} already holds a training{length}: continue with --resume true, or name another --exp-dir"
        )
    if start_epoch == 1:
        return None
    if start_epoch - 1 not in epochs:
        raise FileNotFoundError(f"no {epoch_path(exp_dir, start_epoch - 1)} to start epoch {start_epoch} from")
    return epoch_path(exp_dir, start_epoch - 1)


def load_to_resume(path: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint to continue, and its content: the newest undamaged one, of an epoch or of an update.

    Args:
      path: the newest checkpoint, which must exist.

    Raises:
      ValueError: all are damaged.
    """
    exp_dir = path.parent
    epochs = [epoch_path(exp_dir, epoch) for epoch in saved_epochs(exp_dir) if epoch_path(exp_dir, epoch) != path]
    steps = [step_path(exp_dir, step) for step in saved_steps(exp_dir)]
    if found := _newest_whole([path]):
        return found
    whole = [found for paths in (epochs, steps) if (found := _newest_whole(paths))]
    require(bool(whole), f"{exp_dir} has no checkpoint that can be read: name another --exp-dir")
    return max(whole, key=lambda found: _step(found[1]))  # of equal steps max takes the epoch's checkpoint


def _newest_whole(paths: list[Path]) -> tuple[Path, dict[str, Any]] | None:
    """The last undamaged one of some checkpoints, which are in order of time, and its content."""
    for path in reversed(paths):
        try:
            return path, load_checkpoint(path)
        except ValueError as error:
            logger.warning("%s", error)
    return None


def _step(checkpoint: dict[str, Any]) -> int:
    return int(json.loads(checkpoint["train_state"])["step"]) if "train_state" in checkpoint else -1


def open_experiment(exp_dir: Path, config: AnyConfig, *, resuming: bool) -> None:
    """Create the folder and its config.json, and delete what a killed run left half-written.

    Raises:
      ValueError: the folder holds another experiment's config.json.
    """
    refuse_other_experiment(exp_dir, config, resuming=resuming)
    exp_dir.mkdir(parents=True, exist_ok=True)
    for pattern in HALF_WRITTEN:
        for leftover in exp_dir.glob(pattern):
            leftover.unlink()
    save_config(config, exp_dir / "config.json")


def refuse_other_checkpoint(checkpoint: dict[str, Any], config: AnyConfig, path: Path) -> None:
    """Raise `ValueError` unless a training of the config can continue the checkpoint."""
    require("config" in checkpoint, f"{path} holds no config, so no training can continue it: name another")
    its_config = from_dict(type(config), json.loads(checkpoint["config"]))
    differences = _differences(to_dict(its_config), to_dict(config), FREE_OPTIONS)
    if differences:
        raise ValueError(f"{path} is of another training ({differences}): give the options with which it began")


def refuse_other_experiment(exp_dir: Path, config: AnyConfig, *, resuming: bool) -> None:
    """Raise `ValueError` if the folder holds another experiment's config.json."""
    path = exp_dir / "config.json"
    if not path.is_file():
        return
    free = FREE_OPTIONS if resuming else ()
    differences = _differences(to_dict(load_config_of(type(config), path)), to_dict(config), free)
    if differences:
        raise ValueError(
            f"{path} is of another experiment ({differences}): give the options with which it began, "
            "or name another --exp-dir"
        )


def _differences(old: dict[str, Any], new: dict[str, Any], free: tuple[str, ...] = ()) -> str:
    """The options whose values differ: `num_experts 8 there, 4 now`."""
    old, new = options_by_name(old), options_by_name(new)
    if bool(old.get("num_steps")) != bool(new.get("num_steps")):
        free = tuple(name for name in free if name != "num_steps")  # epochs remain epochs, and steps remain steps
    names = [name for name in {**old, **new} if name not in free and old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} there, {new.get(name)} now" for name in names)


class Termination:
    """Holds SIGTERM back until a step has ended; an exception in the middle of torch's backward can abort the process.

    A second SIGTERM ends the process at once.
    """

    def __init__(self) -> None:
        self._number: int | None = None

    def __enter__(self) -> Termination:
        self._before = signal.signal(signal.SIGTERM, self._keep)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def check(self) -> None:
        """Leave the program if the signal has arrived."""
        if self._number is not None:
            raise SystemExit(128 + self._number)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
