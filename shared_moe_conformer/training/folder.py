"""The files of an experiment's folder: checkpoints, complete for resuming and never half-written, and logs.

A checkpoint holds only tensors and strings, so that loading it cannot run code; everything else is stored as JSON
(torch 1.13's safe loading refuses even a float).
"""

from __future__ import annotations

import io
import json
import logging
import math
import random
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from shared_moe_conformer.atomic import atomic_file, named
from shared_moe_conformer.device import environment

logger = logging.getLogger("shared_moe_conformer")


class ConsoleHandler(logging.Handler):
    """Prints records above a progress bar: warnings to the standard error, the rest to a stream."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(logging.INFO)
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        stream = self._stream if record.levelno < logging.WARNING else None
        tqdm.write(self.format(record), file=stream or sys.stderr)


class LogFile(logging.FileHandler):
    """A file of records; a full disk raises an error, instead of a traceback on the terminal and a lost record."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # logging calls this while it handles the error

    def close(self) -> None:
        """Close the file, even if the disk is full."""
        with suppress(OSError):
            super().close()


@contextmanager
def logged(exp_dir: Path, program: str, *, console: TextIO | None = None) -> Iterator[None]:
    """Log to log/<program>-log-<date>.txt in an experiment's folder while the block runs, and log how it ends.

    Args:
      program: train, decode or tune.
      console: the stream for records of level INFO; None: the standard error, as for warnings.
    """
    folder = exp_dir / "log"
    folder.mkdir(parents=True, exist_ok=True)
    file = LogFile(folder / f"{program}-log-{datetime.now():%Y-%m-%d-%H-%M-%S}.txt")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = file, ConsoleHandler(console)
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with named(exp_dir):
            yield
    except BaseException as error:
        with suppress(OSError):
            logger.debug("stopped: %s: %s", type(error).__name__, error)
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def log_environment(device: torch.device, *, commit: str | None) -> None:
    """Write the environment and the package's commit into the log's file."""
    logger.debug("environment: %s", json.dumps({**environment(device), "commit": commit or "unknown"}))


MID_EPOCH_NAME = "checkpoint.pt"
BEST_NAME = "best-valid-wer.pt"
BEST_LM_NAME = "best-valid-perplexity.pt"


def epoch_path(exp_dir: Path, epoch: int) -> Path:
    """The path of the checkpoint at the end of an epoch."""
    return exp_dir / f"epoch-{epoch}.pt"


def saved_epochs(exp_dir: Path) -> list[int]:
    """The epochs that have a checkpoint, in order."""
    matches = (re.fullmatch(r"epoch-(\d+)\.pt", path.name) for path in exp_dir.glob("epoch-*.pt"))
    return sorted(int(match[1]) for match in matches if match)


def step_path(exp_dir: Path, step: int) -> Path:
    """The path of the checkpoint of an update."""
    return exp_dir / f"checkpoint-{step}.pt"


def saved_steps(exp_dir: Path) -> list[int]:
    """The updates that have a checkpoint of their own, in order."""
    matches = (re.fullmatch(r"checkpoint-(\d+)\.pt", path.name) for path in exp_dir.glob("checkpoint-*.pt"))
    return sorted(int(match[1]) for match in matches if match)


def keep_last(exp_dir: Path, count: int) -> None:
    """Delete all but the last `count` epochs' checkpoints; 0 keeps all."""
    for epoch in saved_epochs(exp_dir)[:-count] if count else []:
        epoch_path(exp_dir, epoch).unlink()


def keep_last_steps(exp_dir: Path, count: int) -> None:
    """Delete all but the last `count` updates' checkpoints."""
    for step in saved_steps(exp_dir)[:-count]:
        step_path(exp_dir, step).unlink()


def save_if_best(path: Path, state: dict[str, Tensor], *, value: float, epoch: int) -> bool:
    """Save the weights if their word error rate or perplexity is the lowest so far; return whether it is.

    Args:
      path: best-valid-wer.pt, or the file of another value.
    """
    if path.is_file() and _valid_value(path) <= value:
        return False
    save_checkpoint(path, {"model": state, _value_name(path): json.dumps(value), "epoch": json.dumps(epoch)})
    return True


def _value_name(path: Path) -> str:
    """`valid_wer` of best-valid-wer.pt."""
    return path.stem.partition("-")[2].replace("-", "_")


def _valid_value(path: Path) -> float:
    """The value of the best weights; infinite if their file is damaged."""
    try:
        return float(json.loads(load_checkpoint(path)[_value_name(path)]))
    except (KeyError, ValueError):
        logger.warning("%s cannot be read: it is replaced by the newest weights", path)
        return math.inf


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
      checkpoint: `model` (a state_dict) and everything else that resuming needs, as tensors and strings.

    Raises:
      ValueError: the disk is full or fails; older checkpoints stay as they were.
    """
    content = io.BytesIO()  # torch 1.13 aborts the process if it writes to a file that cannot grow
    torch.save(checkpoint, content)
    try:
        with atomic_file(path) as file:
            file.write(content.getbuffer())
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 2**20
        raise ValueError(
            f"{path} cannot be written ({error.strerror}; {free:.0f} MiB are free there): "
            "make room (--keep-last-k deletes old checkpoints) and continue with --resume true"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, with its tensors on the CPU.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or not a checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}: train first (./train.py), or name another epoch")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(f"{path} cannot be read ({error}): delete it and use the checkpoint before it") from error
    if not isinstance(checkpoint, dict) or "model" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of this package: it holds no model")
    return checkpoint


def rng_state() -> dict[str, Any]:
    """The states of the random number generators of torch, numpy and Python, as tensors and strings."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": json.dumps([kind, keys.tolist(), *rest]),  # type: ignore[attr-defined,union-attr]
        "python": json.dumps(random.getstate()),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore the generators to a state that `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = json.loads(state["numpy"])
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, internal, gauss_next = json.loads(state["python"])
    random.setstate((version, tuple(internal), gauss_next))
