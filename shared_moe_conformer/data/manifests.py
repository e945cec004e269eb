"""Cuts on disk: Lhotse manifests and shards, written whole or not at all, and the cuts of a split for all processes."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from lhotse import (
    CutSet,
    MonoCut,
    Recording,
    RecordingSet,
    SupervisionSegment,
    SupervisionSet,
    validate_recordings_and_supervisions,
)
from lhotse.serialization import decode_json_line, deserialize_item, open_best
from lhotse.utils import fastcopy

from shared_moe_conformer.atomic import atomic_path, named, sync, write_whole
from shared_moe_conformer.config import require
from shared_moe_conformer.text import counted, words_of

RECORD_FILE = "training-cuts.json"


def cuts_path(manifest_dir: Path, split: str) -> Path:
    """The file of a split's cuts."""
    return manifest_dir / f"cuts_{split}.jsonl.gz"


def write_manifest(manifest: Any, path: Path) -> None:
    """Write a Lhotse manifest so that a killed program or a full disk leaves no half of it."""
    with atomic_path(path) as temporary:
        manifest.to_file(temporary)
        sync(temporary)


def supervise(recording: Recording, text: str, **more: Any) -> SupervisionSegment:
    """The supervision of a whole recording, with its id; `more`: other fields, such as the speaker."""
    return SupervisionSegment(recording.id, recording.id, 0.0, recording.duration, text=text, **more)


def write_split(
    recordings: Iterable[Recording], supervisions: Iterable[SupervisionSegment], split: str, directory: Path
) -> CutSet:
    """Write a split's recordings_, supervisions_ and cuts_<split>.jsonl.gz; a cut for each supervision, with its id.

    Audio below the working folder is named relative to it, as `read_cuts` expects it.
    """
    recordings = RecordingSet.from_recordings(map(_seen_from_here, recordings))
    supervisions = SupervisionSet.from_segments(supervisions)
    validate_recordings_and_supervisions(recordings, supervisions)
    by_id = {recording.id: recording for recording in recordings}
    cuts = CutSet.from_cuts(_cut_out(s, by_id[s.recording_id]) for s in supervisions)
    write_manifest(recordings, directory / f"recordings_{split}.jsonl.gz")
    write_manifest(supervisions, directory / f"supervisions_{split}.jsonl.gz")
    write_manifest(cuts, cuts_path(directory, split))
    num_words = sum(len(words_of(s.text or "")) for s in supervisions)
    minutes = sum(cut.duration for cut in cuts) / 60
    print(f"{split}: {len(cuts)} utterances, {num_words} words, {minutes:.1f} minutes")
    return cuts


def _cut_out(supervision: SupervisionSegment, recording: Recording) -> MonoCut:
    own = supervision.with_offset(-supervision.start)
    return MonoCut(supervision.id, supervision.start, supervision.duration, 0, recording=recording, supervisions=[own])


def _seen_from_here(recording: Recording) -> Recording:
    sources = list(recording.sources)
    for i, source in enumerate(sources):
        if source.type == "file" and Path(source.source).is_relative_to(Path.cwd()):
            sources[i] = fastcopy(source, source=str(Path(source.source).relative_to(Path.cwd())))
    return fastcopy(recording, sources=sources)


def read_cuts(manifest_dir: Path, split: str, *, recipe_dir: Path) -> CutSet:
    """A split's cuts, in memory; see `iterate_cut_file`."""
    return CutSet.from_cuts(iterate_cut_file(cuts_path(manifest_dir, split), recipe_dir=recipe_dir))


def iterate_cut_file(
    path: Path, *, recipe_dir: Path, index: int = 0, count: int = 1, begin: float = 0.0
) -> Iterator[MonoCut]:
    """The cuts of one file, one after the other; their relative paths begin at the recipe's folder.

    Args:
      index: number of the first cut to give.
      count: every `count`-th is given; the lines of others are not parsed.
      begin: share of the file after which to begin; what is before comes last. A compressed file is read from its
        beginning on.

    Raises:
      FileNotFoundError: there is no such file: the split has not been prepared.
      ValueError: the file holds no cut, or is not a manifest of cuts.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no cuts in {path}: run ./prepare.sh first")
    line: str | bytes = ""
    try:
        for number, line in enumerate(_lines(path, begin)):
            if number % count == index:
                yield _seen_from(recipe_dir, deserialize_item(decode_json_line(line)))
    except (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable manifest of cuts ({error}): run ./prepare.sh again") from error
    if not line:
        raise ValueError(f"no cuts in {path}: run ./prepare.sh again")


def _lines(path: Path, begin: float) -> Iterator[str | bytes]:
    if begin == 0 or path.suffix != ".jsonl":
        with open_best(path, "r") as file:
            yield from file
        return
    with path.open("rb") as file:
        file.seek(int(begin * path.stat().st_size))
        file.readline()  # the rest of a line
        first = file.tell()
        yield from file
        file.seek(0)
        while file.tell() < first:
            yield file.readline()


def _seen_from(recipe_dir: Path, cut: MonoCut) -> MonoCut:
    """The cut, its relative paths begun at the recipe's folder; a `MonoCut`, just read, is itself changed.

    Lhotse would copy it twice, which takes a quarter of the time of reading it.
    """
    if not isinstance(cut, MonoCut):
        return cut.with_recording_path_prefix(recipe_dir).with_features_path_prefix(recipe_dir)
    folder = "" if recipe_dir == Path() else str(recipe_dir)
    for source in cut.recording.sources if cut.has_recording else []:
        if source.type == "file":
            source.source = os.path.join(folder, source.source)
    if cut.has_features:
        cut.features.storage_path = os.path.join(folder, cut.features.storage_path)
    return cut


class OpenFile(NamedTuple):
    """A file of stored cuts; other processes of the machine can read it while its writer has it open."""

    path: str
    num_cuts: int
    digest: str


class StoredCuts:
    """Cuts in a file without a name, which is gone when all processes that read it are.

    The file holds the pickled cuts; then where each ends, and its duration (mapped into memory); then the digest.
    """

    content_digest = ""
    """Digest of the cuts' ids, times and texts, in their order; empty in a process that did not store them."""

    def __init__(self, cuts: Iterable[MonoCut], *, directory: Path | None = None) -> None:
        """Write the cuts.

        Args:
          cuts: are read once, one after the other.
          directory: on a disk that has room for them, about a kilobyte each; None: the system's for temporary files.
        """
        file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - it lives as long as this object
        ends, durations, digest, content = array("q", [0]), array("d"), hashlib.sha256(), hashlib.sha256()
        with named(directory or Path(tempfile.gettempdir())):
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
        """Digest of the cuts' ids and durations, in their order."""
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


def record_cuts(exp_dir: Path, num_cuts: int, digest: str, audio: str = "") -> None:
    """Write into an experiment's folder which cuts it is trained on now, with a digest of their audio."""
    write_whole(exp_dir / RECORD_FILE, json.dumps({"num_cuts": num_cuts, "digest": digest, "audio": audio}) + "\n")


def change_of_cuts(exp_dir: Path, num_now: int, digest_now: str, audio_now: str = "") -> str:
    """How the cuts differ from those that `record_cuts` wrote, in a line; empty if they do not, or nobody has.

    Digests of audio are compared where both are known.
    """
    try:
        record = json.loads((exp_dir / RECORD_FILE).read_bytes())
        num_cuts, digest, audio = record["num_cuts"], record["digest"], record.get("audio", "")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    is_same_audio = not (audio and audio_now) or audio == audio_now
    if digest == digest_now and is_same_audio:
        return ""
    what = "other ids, times, texts or another order" if digest != digest_now else "other audio under the same ids"
    numbers = f"{counted(num_cuts, 'cut')} then, {num_now:,} now"
    what = what if num_cuts == num_now else numbers
    return f"the training cuts are not those that {exp_dir} was trained on ({what}): results are of both"
