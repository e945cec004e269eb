"""The log of a training: a file in the experiment's folder, and the console."""

from __future__ import annotations

import logging
import sys
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger("shared_moe_conformer")


class ConsoleHandler(logging.Handler):
    """Prints to the standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        tqdm.write(self.format(record), file=sys.stderr)


def start_log(exp_dir: Path) -> None:
    """Log to log/train-log-<date>.txt in the experiment's folder, all, and to the console, from level INFO."""
    stop_log()
    folder = exp_dir / "log"
    folder.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(folder / f"train-log-{datetime.now():%Y-%m-%d-%H-%M-%S}.txt")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    console = ConsoleHandler(logging.INFO)
    console.setFormatter(logging.Formatter("%(message)s"))
    for handler in (file, console):
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def stop_log() -> None:
    """Close the log."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
