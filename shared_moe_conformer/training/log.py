"""The log of a training or a decoding: a file in the experiment's folder, and the console."""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

import torch
from tqdm import tqdm

from shared_moe_conformer.cpu import processor_name

PACKAGES = ("torch", "lhotse", "k2", "numpy", "kaldialign", "sentencepiece")

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


@contextmanager
def logged(exp_dir: Path, program: str, *, console: TextIO | None = None) -> Iterator[None]:
    """Log to log/<program>-log-<date>.txt in an experiment's folder while the block runs, and how it ends.

    Args:
      program: train, decode or tune.
      console: the stream for records of level INFO; None: the standard error, as for warnings.
    """
    folder = exp_dir / "log"
    folder.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(folder / f"{program}-log-{datetime.now():%Y-%m-%d-%H-%M-%S}.txt")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = file, ConsoleHandler(console)
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    except BaseException as error:
        logger.debug("stopped: %s: %s", type(error).__name__, error)
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def environment(device: torch.device) -> dict[str, str]:
    """Versions, processor and threads by name; packages that are not installed are left out."""
    found = {name: _version(name) for name in PACKAGES}
    return {
        "Python": platform.python_version(),
        **{name: version for name, version in found.items() if version},
        "system": platform.system(),
        "processor": processor_name(),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def log_environment(device: torch.device, *, commit: str | None) -> None:
    """Write the environment and the package's commit into the log's file."""
    logger.debug("environment: %s", json.dumps({**environment(device), "commit": commit or "unknown"}))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
