"""The cuts of a split on disk: any number of them, in next to no memory, once for all processes of a machine."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from lhotse import MonoCut

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.config import require
from shared_moe_conformer.text import counted

RECORD_FILE = "training-cuts.json"


class OpenFile(NamedTuple):
    """A file of stored cuts; other processes of the machine can read it while its writer has it open."""

    path: str
    num_cuts: int
    digest: str


class StoredCuts:
    """Cuts in a file without a name, which is gone when all processes that read it are.

    The file holds each cut, pickled; then where each ends, and its duration (mapped into memory); then the digest.
    """

    content_digest = ""
    """Of the cuts' ids, times and texts, in their order; empty in a process that did not store them."""

    def __init__(self, cuts: Iterable[MonoCut], *, directory: Path | None = None) -> None:
        """Write the cuts.

        Args:
          cuts: are read once, one after the other.
          directory: on a disk that has room for them, about a kilobyte each; None: the system's for temporary files.
        """
        file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - it lives as long as this object
        ends, durations, digest, content = array("q", [0]), array("d"), hashlib.sha256(), hashlib.sha256()
        for cut in cuts:
            data = pickle.dumps(cut, pickle.HIGHEST_PROTOCOL)
            file.write(data)
            ends.append(ends[-1] + len(data))
            durations.append(cut.duration)
            digest.update(f"{cut.id} {cut.duration}\n".encode())
            content.update(repr((cut.id, cut.start, cut.duration, [s.text for s in cut.supervisions])).encode())
        file.write(bytes(-ends[-1] % ends.itemsize))  # numbers stand at multiples of their size
        file.write(ends.tobytes() + durations.tobytes() + digest.digest())
        file.flush()
        self._read(file, len(durations), digest.hexdigest())
        self.content_digest = content.hexdigest()

    @classmethod
    def opened(cls, file: OpenFile) -> StoredCuts:
        """The cuts that another process of this machine has stored.

        Raises:
          OSError: this system has no such path, or that process is gone.
          ValueError: the path leads to another file: that process is on another machine.
        """
        cuts = cls.__new__(cls)
        cuts._read(open(file.path, "rb"), file.num_cuts, file.digest)  # noqa: SIM115 - as above
        return cuts

    def _read(self, file: BinaryIO, num_cuts: int, digest: str) -> None:
        self._file = file
        self.digest = digest
        """Of the cuts' ids and durations, in their order."""
        size, num_numbers = os.fstat(file.fileno()).st_size, 2 * num_cuts + 1
        end = size - len(digest) // 2
        begin = end - 8 * num_numbers
        is_it = begin >= 0 and os.pread(file.fileno(), size - end, end).hex() == digest
        require(is_it, f"{file.name} does not hold these cuts")
        numbers = np.memmap(file, np.int64, mode="r", offset=begin, shape=num_numbers).view(np.ndarray)
        self._ends, self.durations = numbers[: num_cuts + 1], numbers[num_cuts + 1 :].view(np.float64)

    @property
    def file(self) -> OpenFile:
        """The way for other processes of this machine to read the cuts.

        Source: proc(5), /proc/pid/fd: what a process has open, whether it still has a name or not.
        """
        return OpenFile(f"/proc/{os.getpid()}/fd/{self._file.fileno()}", len(self), self.digest)

    def __len__(self) -> int:
        return len(self.durations)

    def __getitem__(self, index: int) -> MonoCut:
        begin, end = self._ends[index : index + 2].tolist()
        return pickle.loads(os.pread(self._file.fileno(), end - begin, begin))

    def __iter__(self) -> Iterator[MonoCut]:
        return (self[index] for index in range(len(self)))


class CutsLike(Protocol):
    """What tells one set of training cuts from another."""

    content_digest: str

    def __len__(self) -> int: ...


def record_cuts(exp_dir: Path, cuts: CutsLike) -> None:
    """Write into an experiment's folder which cuts it is trained on now."""
    with atomic_file(exp_dir / RECORD_FILE) as file:
        file.write(json.dumps({"num_cuts": len(cuts), "digest": cuts.content_digest}).encode() + b"\n")


def change_of_cuts(exp_dir: Path, cuts: CutsLike) -> str:
    """How the cuts differ from those that `record_cuts` wrote, in a line; empty if they do not, or nobody has."""
    try:
        record = json.loads((exp_dir / RECORD_FILE).read_bytes())
        num_cuts, digest = record["num_cuts"], record["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    if digest == cuts.content_digest:
        return ""
    numbers = f"{counted(num_cuts, 'cut')} then, {len(cuts):,} now"
    what = "other ids, times, texts or another order" if num_cuts == len(cuts) else numbers
    return f"the training cuts are not those that {exp_dir} was trained on ({what}): results are of both"
