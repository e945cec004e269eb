"""Lhotse manifests on disk: where a split's cuts are, and how they are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lhotse import CutSet


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


def read_cuts(manifest_dir: Path, split: str, *, recipe_dir: Path) -> CutSet:
    """A split's cuts, in memory, whose relative paths of audio and features begin at the recipe's folder.

    Raises:
      FileNotFoundError: the split has not been prepared.
      ValueError: the file holds no cut, or is not a manifest of cuts.
    """
    path = cuts_path(manifest_dir, split)
    if not path.is_file():
        raise FileNotFoundError(f"no cuts in {path}: run ./prepare.sh first")
    try:
        cuts = CutSet.from_jsonl_lazy(path).with_recording_path_prefix(recipe_dir).with_features_path_prefix(recipe_dir)
        result = CutSet.from_cuts(list(cuts))
    except (EOFError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable manifest of cuts ({error}): run ./prepare.sh again") from error
    if len(result) == 0:
        raise ValueError(f"no cuts in {path}: run ./prepare.sh again")
    return result
