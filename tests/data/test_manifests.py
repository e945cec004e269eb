from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lhotse import CutSet, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.utils import fastcopy

from shared_moe_conformer.data.manifests import (
    StoredCuts,
    change_of_cuts,
    cuts_path,
    iterate_cut_file,
    read_cuts,
    record_cuts,
    write_manifest,
    write_split,
)
from tests.data.conftest import Corpus, noise_cut


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


def test_cuts_come_back_as_they_were_in_any_order(corpus: Corpus, tmp_path: Path) -> None:
    cuts = corpus.cuts("train")
    stored = StoredCuts(iter(cuts), directory=tmp_path)
    assert len(stored) == len(cuts) and list(stored) == cuts
    assert [stored[index] for index in (5, 0, 23)] == [cuts[5], cuts[0], cuts[23]]
    assert stored.durations.tolist() == [cut.duration for cut in cuts]
    assert list(tmp_path.iterdir()) == [], "no other program sees the file"


def test_the_digest_tells_other_cuts_and_another_order(corpus: Corpus) -> None:
    cuts = corpus.cuts("train")
    longer = [fastcopy(cuts[0], duration=cuts[0].duration / 2), *cuts[1:]]
    assert len({StoredCuts(each).digest for each in (cuts, cuts[::-1], cuts[1:], longer)}) == 4
    assert StoredCuts(cuts).digest == StoredCuts(cuts).digest


def test_a_change_of_the_cuts_is_told(corpus: Corpus, tmp_path: Path) -> None:
    cuts = corpus.cuts("train")
    stored = StoredCuts(cuts)

    def change_of(cuts: StoredCuts) -> str:
        return change_of_cuts(tmp_path, len(cuts), cuts.content_digest)

    assert change_of(stored) == "", "nothing is written"
    record_cuts(tmp_path, len(stored), stored.content_digest)
    assert change_of(StoredCuts(cuts)) == ""
    other = fastcopy(cuts[0], supervisions=[fastcopy(cuts[0].supervisions[0], text="OTHER")])
    assert "other ids, times, texts or another order" in change_of(StoredCuts([other, *cuts[1:]]))
    assert f"{len(cuts)} cuts then, {len(cuts) - 1} now" in change_of(StoredCuts(cuts[1:]))
    record_cuts(tmp_path, len(cuts), stored.content_digest, "audio then")
    assert change_of(stored) == "", "nobody knows its audio"
    told = change_of_cuts(tmp_path, len(cuts), stored.content_digest, "audio now")
    assert "(other audio under the same ids): results are of both" in told
    (tmp_path / "training-cuts.json").write_text("[]")
    assert change_of(stored) == ""


def test_no_cuts_are_cuts_too() -> None:
    assert list(StoredCuts([])) == []


def test_the_file_is_closed_with_the_object(corpus: Corpus) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    stored = StoredCuts(corpus.cuts("train"))
    again = StoredCuts.opened(stored.file)
    assert len(os.listdir("/proc/self/fd")) > before
    del stored, again
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


READ = """
import sys
from shared_moe_conformer.data.manifests import OpenFile, StoredCuts
cuts = StoredCuts.opened(OpenFile(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
print("ready", flush=True)
input()
print(cuts.durations.sum(), *(cut.id for cut in cuts))
"""


def test_another_process_reads_them_also_when_this_one_has_let_go(corpus: Corpus) -> None:
    cuts = corpus.cuts("train")
    stored = StoredCuts(cuts)
    command = [sys.executable, "-c", READ, *map(str, stored.file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
        total = float(stored.durations.sum())
        del stored
        gc.collect()
        shown, _ = reader.communicate("\n", timeout=60)
    assert shown.split() == [str(total), *(cut.id for cut in cuts)]


def test_another_file_at_the_same_place_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    file = StoredCuts(corpus.cuts("train"), directory=tmp_path).file
    with pytest.raises(OSError):
        StoredCuts.opened(file)  # gone with the object
    for content in (b"", b"other" * 1000):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(ValueError, match="does not hold these cuts"):
            StoredCuts.opened(file._replace(path=str(tmp_path / "other")))


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
@pytest.mark.parametrize("begin", [0.0, 0.001, 0.4, 0.9999])
def test_a_manifest_is_read_in_parts_from_anywhere(corpus: Corpus, tmp_path: Path, name: str, begin: float) -> None:
    cuts = corpus.cuts("train")
    CutSet.from_cuts(cuts).to_file(tmp_path / name)
    parts = [
        [cut.id for cut in iterate_cut_file(tmp_path / name, recipe_dir=Path(), index=i, count=3, begin=begin)]
        for i in range(3)
    ]
    together = [part[i] for i in range(8) for part in parts]
    ids = [cut.id for cut in cuts]
    start = together.index("train-0")
    assert together[start:] + together[:start] == ids
    assert (start > 0) == (begin in (0.001, 0.4) and name == "cuts.jsonl")
