from __future__ import annotations

from pathlib import Path

import pytest
from lhotse import CutSet

from shared_moe_conformer.data.manifests import cuts_path, read_cuts, write_manifest
from tests.data.conftest import noise_cut


def test_round_trip_keeps_absolute_paths(tmp_path: Path) -> None:
    cuts = CutSet.from_cuts([noise_cut(tmp_path / "audio", "a", "TEXT", duration=0.5)])
    write_manifest(cuts, cuts_path(tmp_path / "new", "train"))
    read = read_cuts(tmp_path / "new", "train", recipe_dir=Path("/somewhere/else"))
    assert list(read) == list(cuts)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    class Broken:
        def to_file(self, path: Path) -> None:
            path.write_text("half a ma")
            raise OSError("disk full")

    path = cuts_path(tmp_path, "train")
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_manifest(Broken(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_missing_empty_or_damaged_is_refused(tmp_path: Path) -> None:
    path = cuts_path(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="run ./prepare.sh first"):
        read_cuts(tmp_path, "train", recipe_dir=tmp_path)
    write_manifest(CutSet.from_cuts([noise_cut(tmp_path, "a", "TEXT", duration=0.5)]), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=path.name):
        read_cuts(tmp_path, "train", recipe_dir=tmp_path)
    path.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=path.name):
        read_cuts(tmp_path, "train", recipe_dir=tmp_path)
    write_manifest(CutSet.from_cuts([]), path)
    with pytest.raises(ValueError, match="no cuts"):
        read_cuts(tmp_path, "train", recipe_dir=tmp_path)
