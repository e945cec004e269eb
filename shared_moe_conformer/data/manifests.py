"""Lhotse manifests on disk: where a split's cuts are, and how they are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lhotse import (
    CutSet,
    MonoCut,
    Recording,
    RecordingSet,
    SupervisionSegment,
    SupervisionSet,
    validate_recordings_and_supervisions,
)
from lhotse.utils import fastcopy

from shared_moe_conformer.text import words_of


def cuts_path(manifest_dir: Path, split: str) -> Path:
    """The file of a split's cuts."""
    return manifest_dir / f"cuts_{split}.jsonl.gz"


def write_manifest(manifest: Any, path: Path) -> None:
    """Write a Lhotse manifest so that a killed program leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        manifest.to_file(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_split(recordings: RecordingSet, supervisions: SupervisionSet, split: str, directory: Path) -> CutSet:
    """Write a split's recordings_, supervisions_ and cuts_<split>.jsonl.gz; a cut for each supervision, with its id.

    Audio below the working folder is named relative to it, as `read_cuts` expects it.
    """
    recordings = RecordingSet.from_recordings(map(_seen_from_here, recordings))
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


def iterate_cut_file(path: Path, *, recipe_dir: Path) -> Iterator[MonoCut]:
    """The cuts of one file, one after the other; their relative paths begin at the recipe's folder.

    Raises:
      FileNotFoundError: there is no such file: the split has not been prepared.
      ValueError: the file holds no cut, or is not a manifest of cuts.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no cuts in {path}: run ./prepare.sh first")
    cut = None
    try:
        for cut in CutSet.from_jsonl_lazy(path):
            yield _seen_from(recipe_dir, cut)
    except (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable manifest of cuts ({error}): run ./prepare.sh again") from error
    if cut is None:
        raise ValueError(f"no cuts in {path}: run ./prepare.sh again")


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
