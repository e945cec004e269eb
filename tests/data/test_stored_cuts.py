from __future__ import annotations

import gc
import os
from pathlib import Path

from lhotse.utils import fastcopy

from shared_moe_conformer.data.stored_cuts import StoredCuts
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


def test_no_cuts_are_cuts_too() -> None:
    assert list(StoredCuts([])) == []


def test_the_file_is_closed_with_the_object(corpus: Corpus) -> None:
    stored = StoredCuts(corpus.cuts("train"))
    before = len(os.listdir("/proc/self/fd"))
    del stored
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before - 1
