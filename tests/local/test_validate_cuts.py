from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lhotse import CutSet, MonoCut
from lhotse.utils import fastcopy

from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data import recordings
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.manifests import cuts_path, write_manifest
from shared_moe_conformer.data.tokenizer import train_tokenizer
from tests.data.conftest import noise_cut
from tests.local.conftest import Result

FBANK, LANG = Path("data/fbank"), Path("data/lang")

Plant = Callable[..., None]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Prepared splits of three cuts each; the function puts others in the place of one split."""
    monkeypatch.chdir(tmp_path)
    splits = {}
    for split in ("train", "dev", "test"):
        cuts = [
            noise_cut(Path("audio"), f"{split}-{i}", f"TEXT OF {split} {i}".upper(), duration=1.0) for i in range(3)
        ]
        splits[split] = list(store_features(CutSet.from_cuts(cuts), split, directory=FBANK, config=FeatureConfig()))
    train_tokenizer([cut.supervisions[0].text for cuts in splits.values() for cut in cuts], LANG, 30)

    def replace(split: str, change: Callable[[list[MonoCut]], list[MonoCut]]) -> None:
        write_manifest(CutSet.from_cuts(change(splits[split])), cuts_path(FBANK, split))

    return replace


def say(cut: MonoCut, text: str) -> MonoCut:
    return fastcopy(cut, supervisions=[fastcopy(cut.supervisions[0], text=text)])


def validate(run_local: Callable[..., Result]) -> Result:
    return run_local("validate_cuts", "--lang-dir", LANG, "--read-features", "--read-audio")


def test_good_cuts_pass(plant: Plant, run_local: Callable[..., Result]) -> None:
    result = validate(run_local)
    assert result.status == 0
    assert "train: 3 cuts, 0.1 minutes, no problems" in result.out


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("dev", lambda cuts: [say(cuts[0], ""), *cuts[1:]], "dev-0: empty transcript"),
        ("train", lambda cuts: [*cuts[:2], say(cuts[2], "T " * 14)], "train-2: 24 frames after subsampling"),
        ("test", lambda cuts: [fastcopy(cuts[0], duration=0.1), *cuts[1:]], "test-0: 0.10 s long"),
        ("test", lambda cuts: [say(cuts[0], "TEXT OF TRAIN 1"), *cuts[1:]], "test-0 (test): same text as train-1"),
        ("train", lambda cuts: [*cuts, cuts[1]], "train-1: 2 cuts have this id"),
        ("train", lambda cuts: [say(cuts[0], "TEXT?"), *cuts[1:]], "train-0: the tokenizer does not know '?'"),
        ("train", lambda cuts: [fastcopy(cuts[0], features=None), *cuts[1:]], "train-0: no features"),
    ],
)
def test_planted_faults_are_named(
    plant: Plant,
    run_local: Callable[..., Result],
    split: str,
    change: Callable[[list[MonoCut]], list[MonoCut]],
    message: str,
) -> None:
    plant(split, change)
    result = validate(run_local)
    assert result.status == 1
    assert message in result.out
    last = result.err.splitlines()[-1]
    assert last.startswith("error: ") and "./prepare.sh --stage 1 --force true" in last


def test_whole_recordings_may_be_long_and_repeat_other_splits(
    plant: Plant, run_local: Callable[..., Result], tmp_path: Path
) -> None:
    plant("test", lambda cuts: [say(cuts[0], "TEXT OF TRAIN 1"), *cuts[1:]])
    options = ("--lang-dir", LANG, "--max-duration", "0.9", "--min-duration", "0.1")
    both = run_local("validate_cuts", *options, "--splits", "train", "test", "--whole-splits", "test")
    assert "test-0: same text" not in both.out and "test-1: 1.00 s long" not in both.out
    assert "train-1: 1.00 s long" in both.out and both.status == 1


def test_a_corrupt_wav_is_named(plant: Plant, run_local: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "audio/dev-1.wav").write_bytes(b"no wav")
    result = validate(run_local)
    assert result.status == 1
    assert "dev-1: audio/dev-1.wav cannot be read" in result.out


def test_a_recording_of_many_cuts_is_read_once_and_all_of_them_are_named(
    plant: Plant, run_local: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of which each segment is a cut would otherwise be read as often as there are segments."""
    plant("dev", lambda cuts: [fastcopy(cuts[0], id=f"part-{number}") for number in range(3)])
    (tmp_path / "audio/dev-0.wav").write_bytes(b"no wav")
    read: list[str] = []
    examine = recordings.examine_recording
    monkeypatch.setattr(
        recordings, "examine_recording", lambda recording: read.append(recording.id) or examine(recording)
    )
    result = validate(run_local)
    assert read.count("dev-0") == 1 and len(read) == 7
    assert all(f"part-{number}: audio/dev-0.wav cannot be read" in result.out for number in range(3))


def test_of_a_large_corpus_a_sample_is_read(
    plant: Plant, run_local: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    examine = recordings.examine_recording
    monkeypatch.setattr(
        recordings, "examine_recording", lambda recording: read.append(recording.id) or examine(recording)
    )
    result = run_local("validate_cuts", "--lang-dir", LANG, "--read-features", "--read-audio", "--sample", 2)
    assert result.status == 0 and len(read) == 6
    assert {name.split("-")[0] for name in read} == {"train", "dev", "test"}


def drop_faulty(run_local: Callable[..., Result], *flags: str) -> Result:
    return run_local("validate_cuts", "--lang-dir", LANG, "--read-audio", "--drop-faulty", *flags)


def test_faulty_cuts_are_left_out_of_training_and_named(plant: Plant, run_local: Callable[..., Result]) -> None:
    plant("train", lambda cuts: [say(cuts[0], ""), *cuts[1:]])
    result = drop_faulty(run_local, "--max-dropped-share", "0.4")
    assert result.status == 0, result.err
    assert "LEFT OUT of train: 1 of 3 cuts: train-0" in result.out and "train: 2 cuts" in result.out
    assert "train-0: empty transcript" in (FBANK / "checks.txt").read_text()
    assert (FBANK / "checks.png").read_bytes().startswith(b"\x89PNG")
    again = validate(run_local)
    assert again.status == 0 and "train: 2 cuts" in again.out


def test_when_too_much_is_faulty_nothing_is_dropped(plant: Plant, run_local: Callable[..., Result]) -> None:
    plant("train", lambda cuts: [say(cuts[0], ""), *cuts[1:]])
    result = drop_faulty(run_local)
    assert result.status == 1 and "1 of 3 cuts of train are faulty, more than --max-dropped-share 0.1" in result.err
    assert "train-0: empty transcript" in validate(run_local).out


def test_faulty_cuts_of_other_splits_are_refused_all_the_same(plant: Plant, run_local: Callable[..., Result]) -> None:
    plant("test", lambda cuts: [say(cuts[0], ""), *cuts[1:]])
    result = drop_faulty(run_local, "--max-dropped-share", "1")
    assert result.status == 1 and "error: 1 problem in data/fbank" in result.err
    assert "cuts where the recipe builds its manifests (local/), then" in result.err
    Path("utterances.tsv").touch()
    assert "correct or drop these cuts in utterances.tsv, then" in validate(run_local).err


def test_many_problems_are_counted_and_few_are_shown(plant: Plant, run_local: Callable[..., Result]) -> None:
    plant("train", lambda cuts: [fastcopy(say(cuts[0], ""), id=f"empty-{i}") for i in range(50)])
    result = validate(run_local)
    assert result.out.splitlines()[20] == "... and 30 more"
    assert "error: 50 problems" in result.err


def test_official_splits_may_share_texts_but_no_recording(plant: Plant, run_local: Callable[..., Result]) -> None:
    plant("test", lambda cuts: [say(cuts[0], "TEXT OF TRAIN 1"), *cuts[1:]])
    assert validate(run_local).status == 1
    allowed = ("validate_cuts", "--lang-dir", LANG, "--shared-texts", "allowed")
    assert run_local(*allowed).status == 0
    plant(
        "dev",
        lambda cuts: [
            fastcopy(cuts[0], recording=noise_cut(Path("audio"), "train-0", "", duration=1.0).recording),
            *cuts[1:],
        ],
    )
    result = run_local(*allowed)
    assert result.status == 1 and "dev-0 (dev): same recording as train-0 (train)" in result.out
