from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lhotse.utils import fastcopy

from shared_moe_conformer.data.stored_cuts import StoredCuts, change_of_cuts, record_cuts
from tests.data.conftest import Corpus


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
    assert change_of_cuts(tmp_path, stored) == "", "nothing is written"
    record_cuts(tmp_path, stored)
    assert change_of_cuts(tmp_path, StoredCuts(cuts)) == ""
    other = fastcopy(cuts[0], supervisions=[fastcopy(cuts[0].supervisions[0], text="OTHER")])
    assert "other ids, times, texts or another order" in change_of_cuts(tmp_path, StoredCuts([other, *cuts[1:]]))
    assert f"{len(cuts)} cuts then, {len(cuts) - 1} now" in change_of_cuts(tmp_path, StoredCuts(cuts[1:]))
    (tmp_path / "training-cuts.json").write_text("[]")
    assert change_of_cuts(tmp_path, stored) == ""


def test_no_cuts_are_cuts_too() -> None:
    assert list(StoredCuts([])) == []


def test_the_file_is_closed_with_the_object(corpus: Corpus) -> None:
    before = len(os.listdir("/proc/self/fd"))
    stored = StoredCuts(corpus.cuts("train"))
    again = StoredCuts.opened(stored.file)
    assert len(os.listdir("/proc/self/fd")) > before
    del stored, again
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


READ = """
import sys
from shared_moe_conformer.data.stored_cuts import OpenFile, StoredCuts
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
