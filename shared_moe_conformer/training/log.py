"""The log of a training or a decoding: a file in the experiment's folder, and the console."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

logger = logging.getLogger("shared_moe_conformer")


class ConsoleHandler(logging.Handler):
    """Prints above a progress bar, if there is one, to the standard error, or what is no warning to a stream."""

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
      exp_dir: the experiment's folder.
      program: train or decode.
      console: gets what is said at level INFO; None: the standard error, as for warnings.
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
