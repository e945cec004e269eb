"""One training at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shared_moe_conformer.training.log import logger

LOCK_NAME = ".lock"


@contextlib.contextmanager
def only_training_in(exp_dir: Path) -> Iterator[None]:
    """Hold a folder for this process while the block runs; one that is new goes again if nothing came into it.

    The system ends the lock with the process, however that ends. Workers that were forked have no part in it, as they
    would in flock's, and do not hold it any longer.

    Raises:
      FileExistsError: another process holds it.
    """
    is_new = not exp_dir.exists()
    exp_dir.mkdir(parents=True, exist_ok=True)
    path = exp_dir / LOCK_NAME
    with path.open("w") as file:
        if not _locked(file, path):
            raise FileExistsError(
                f"{exp_dir} is being trained in: wait until that has ended, or name another --exp-dir"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):  # not empty
                    exp_dir.rmdir()


def _locked(file: IO[str], path: Path) -> bool:
    """Whether this process has locked the file, and not one whose holder has just removed it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, PermissionError, FileNotFoundError):
        return False
    except OSError as error:  # a file system without locks
        logger.warning("%s cannot be locked, so let no other training use its folder: %s", path, error)
        return True
