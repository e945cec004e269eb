from __future__ import annotations

from pathlib import Path

import pytest
from lhotse import CutSet, RecordingSet, SupervisionSegment, SupervisionSet

from shared_moe_conformer.data.manifests import cuts_path, read_cuts, write_manifest, write_split
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


def test_each_supervision_becomes_a_cut_of_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recording = noise_cut(tmp_path / "audio", "talk", "A B C", duration=2.0).recording
    spans = {"talk-1": (0.0, 0.8), "talk-2": (0.5, 1.5)}
    segments = [SupervisionSegment(i, "talk", start, length, text="A B") for i, (start, length) in spans.items()]
    write_split(
        RecordingSet.from_recordings([recording]), SupervisionSet.from_segments(segments), "dev", Path("manifests")
    )
    cuts = {cut.id: cut for cut in read_cuts(Path("manifests"), "dev", recipe_dir=tmp_path)}
    assert {i: (cut.start, cut.duration) for i, cut in cuts.items()} == spans
    assert all([s.text for s in cut.supervisions] == ["A B"] for cut in cuts.values()), "not its neighbour's text"
    stored = CutSet.from_file(cuts_path(Path("manifests"), "dev"))
    assert {source.source for cut in stored for source in cut.recording.sources} == {"audio/talk.wav"}
