"""The cuts of a split on disk: as many as there are, in as little memory as their durations take."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from lhotse import MonoCut


class StoredCuts:
    """Cuts in a file without a name, which is gone when the process is; in memory are 16 bytes of each."""

    def __init__(self, cuts: Iterable[MonoCut], *, directory: Path | None = None) -> None:
        """Write the cuts.

        Args:
          cuts: are read once, one after the other.
          directory: on a disk that has room for them, about a kilobyte each; None: the system's for temporary files.
        """
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - it lives as long as this object
        ends, durations, digest = array("q", [0]), array("d"), hashlib.sha256()
        for cut in cuts:
            data = pickle.dumps(cut, pickle.HIGHEST_PROTOCOL)
            self._file.write(data)
            ends.append(ends[-1] + len(data))
            durations.append(cut.duration)
            digest.update(f"{cut.id} {cut.duration}\n".encode())
        self._file.flush()
        self._ends = np.frombuffer(ends, dtype=np.int64)
        self.durations = np.frombuffer(durations, dtype=np.float64)
        self.digest = digest.hexdigest()
        """Of the cuts' ids and durations, in their order."""

    def __len__(self) -> int:
        return len(self.durations)

    def __getitem__(self, index: int) -> MonoCut:
        begin, end = self._ends[index : index + 2].tolist()
        return pickle.loads(os.pread(self._file.fileno(), end - begin, begin))

    def __iter__(self) -> Iterator[MonoCut]:
        return (self[index] for index in range(len(self)))
