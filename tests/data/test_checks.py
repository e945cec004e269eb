"""Each test plants one fault in cuts that have none."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse import MonoCut, NumpyFilesWriter
from lhotse.utils import fastcopy

from shared_moe_conformer.data import checks
from shared_moe_conformer.data.checks import Problem, reason_to_drop
from shared_moe_conformer.data.recordings import examine_recording
from shared_moe_conformer.data.utterances import Utterance
from tests.data.conftest import Corpus, noise_cut


def with_text(cut: MonoCut, text: str | None) -> MonoCut:
    return fastcopy(cut, supervisions=[fastcopy(cut.supervisions[0], text=text)])


def with_array(cut: MonoCut, folder: Path, features: np.ndarray) -> MonoCut:
    """The cut with features stored as they are: lilcom cannot hold what is no number."""
    with NumpyFilesWriter(folder / "planted") as writer:
        key = writer.write(cut.id, features.astype(np.float32))
        path, kind = str(writer.storage_path), writer.name
    return fastcopy(cut, features=fastcopy(cut.features, storage_type=kind, storage_path=path, storage_key=key))


@pytest.fixture
def cut(corpus: Corpus) -> MonoCut:
    return corpus.cuts("train")[10]


def test_the_corpus_has_no_problem(corpus: Corpus) -> None:
    splits = {split: corpus.cuts(split) for split in ("train", "dev", "test")}
    cuts = list(itertools.chain(*splits.values()))
    assert checks.check_duplicates(cuts) == []
    for cut in cuts:
        assert checks.check_cut(cut) == checks.check_cut(cut, corpus.tokenizer) == []
        assert checks.check_features(cut) == examine_recording(cut.recording).faults == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "empty transcript"),
        ("", "empty transcript"),
        (" ", "empty transcript"),
        ("ALPHA 9", "does not know '9'"),
        ("ECHO! élan", "does not know '!', 'a', 'l', 'n', 'é'"),
        ("ECHO\u00ad \u0301", "does not know U+00AD SOFT HYPHEN, U+0301 COMBINING ACUTE ACCENT"),
        ("J F " * 15, "its tokens need"),
        ("ALPHA " * 10, "characters cannot be said in"),
    ],
)
def test_transcripts(corpus: Corpus, cut: MonoCut, text: str | None, fault: str) -> None:
    problems = checks.check_cut(with_text(cut, text), corpus.tokenizer)
    assert any(fault in problem for problem in problems)
    assert all(problem.startswith(f"{cut.id}: ") for problem in problems)


def test_a_cut_needs_one_supervision(corpus: Corpus, cut: MonoCut) -> None:
    for supervisions in (cut.supervisions[:0], cut.supervisions * 2):
        (problem,) = checks.check_cut(fastcopy(cut, supervisions=supervisions), corpus.tokenizer)
        assert problem == f"{cut.id}: {len(supervisions)} supervisions where one is expected"


@pytest.mark.parametrize("duration", [0.29, 30.5])
def test_durations(cut: MonoCut, duration: float) -> None:
    supervision = fastcopy(cut.supervisions[0], text="A", duration=duration)
    (problem,) = checks.check_cut(fastcopy(cut, duration=duration, supervisions=[supervision]))
    assert problem == f"{cut.id}: {duration:.2f} s long, not 0.3 to 30"


def test_a_supervision_ends_with_its_cut(cut: MonoCut) -> None:
    longer = fastcopy(cut.supervisions[0], duration=cut.duration + 0.5)
    assert checks.check_cut(fastcopy(cut, supervisions=[longer])) == [f"{cut.id}: supervision reaches beyond the cut"]


def test_features_that_are_missing_or_no_numbers(corpus: Corpus, cut: MonoCut, tmp_path: Path) -> None:
    without = fastcopy(cut, features=None)
    assert checks.check_cut(without, corpus.tokenizer) == checks.check_features(without) == [f"{cut.id}: no features"]
    features = np.zeros((cut.num_frames, 80))
    features[3, 5] = np.nan
    (problem,) = checks.check_features(with_array(cut, tmp_path, features))
    assert problem == f"{cut.id}: features hold NaN or infinity"
    gone = fastcopy(cut, features=fastcopy(cut.features, storage_path=str(tmp_path / "gone.lca")))
    (problem,) = checks.check_features(gone)
    assert problem.startswith(f"{cut.id}: features in {tmp_path}/gone.lca cannot be read")


def test_ids_are_unique(corpus: Corpus) -> None:
    cuts = corpus.cuts("train")
    assert checks.check_duplicates([*cuts, cuts[2]]) == [f"{cuts[2].id}: 2 cuts have this id"]


def test_splits_share_neither_texts_nor_recordings(tmp_path: Path) -> None:
    cuts: dict[str, Any] = {name: noise_cut(tmp_path, name, f"TEXT {name}", duration=0.5) for name in "abcd"}
    assert checks.check_overlap({"train": [cuts["a"], cuts["b"]], "dev": [cuts["c"]], "test": [cuts["d"]]}) == []
    same_text = with_text(cuts["c"], "TEXT a")
    (problem,) = checks.check_overlap({"train": [cuts["a"]], "test": [same_text]})
    assert problem == "c (test): same text as a (train)"
    same_recording = fastcopy(with_text(cuts["a"], "OTHER"), id="e")
    (problem,) = checks.check_overlap({"train": [cuts["a"]], "test": [same_recording]})
    assert problem == "e (test): same recording as a (train)"
    assert checks.check_overlap({"train": [cuts["a"]], "test": [fastcopy(same_recording, recording=None)]}) == []
    repeated = fastcopy(cuts["a"], id="f")
    assert checks.check_overlap({"train": [cuts["a"], repeated]}) == [], "one split may repeat itself"


def test_a_problem_is_a_line_that_knows_its_cut_and_kind() -> None:
    problem = Problem("cut-7", "empty text", "empty transcript")
    assert problem == "cut-7: empty transcript" and (problem.cut_id, problem.kind) == ("cut-7", "empty text")
    assert Problem("cut-7", "same text", "same text as a", split="test") == "cut-7 (test): same text as a"


def test_what_cannot_be_trained_on_is_left_out() -> None:
    def reason(*, text: str = "ONE TWO", duration: float = 1.0) -> str | None:
        utterance = Utterance("u", "a.wav", text, "", "", 0.0, duration, "clips.tsv line 7")
        return reason_to_drop(utterance, min_duration=0.4, max_duration=25.0)

    assert reason() is None
    assert reason(duration=0.3) == "0.30 s long, not 0.4 to 25"
    assert reason(text="X" * 28) == "28 characters cannot be said in 1.00 s"
