"""AN4 by ESPnet: the recipe's own programs; ESPnet's steps themselves are in tests/espnet_suite.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

from shared_moe_conformer.data.manifests import write_split
from tests.recipes.conftest import ROOT
from tests.recipes.loading import load

RECIPE = ROOT / "egs/an4/ESPnet"
RECORDING = ROOT / "zoo/an4-base/test.wav"


def test_folders_hold_a_line_an_utterance_in_the_order_of_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # audio below the working folder is named relative to it
    for split in ("train", "dev", "test"):
        recordings = [Recording.from_file(RECORDING, recording_id=name) for name in ("b", "a")]
        speech = [
            SupervisionSegment(r.id, r.id, 0.0, r.duration, text=f"{split.upper()} {r.id.upper()}", speaker="fash")
            for r in recordings
        ]
        manifests = tmp_path / "ASR/data/manifests"
        write_split(RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(speech), split, manifests)
    arguments = ["make_folders.py", "--recipe", str(tmp_path / "ASR"), "--output-dir", str(tmp_path / "data")]
    monkeypatch.setattr(sys, "argv", arguments)
    load(RECIPE / "local/make_folders.py").main()
    assert (tmp_path / "data/dev/wav.scp").read_text() == f"a {RECORDING}\nb {RECORDING}\n"
    assert (tmp_path / "data/train/text").read_text() == "a TRAIN A\nb TRAIN B\n"
    assert (tmp_path / "data/test/utt2spk").read_text() == "a fash\nb fash\n"


def score(folder: Path, hyp: str) -> subprocess.CompletedProcess[str]:
    (folder / "ref").write_text("a GO TO TWO\nb YES\n")
    (folder / "hyp").write_text(hyp)
    program = [
        sys.executable,
        str(RECIPE / "local/score.py"),
        "--ref",
        str(folder / "ref"),
        "--hyp",
        str(folder / "hyp"),
    ]
    return subprocess.run(program, capture_output=True, text=True, cwd=ROOT)


def test_an_utterance_without_words_counts_as_lost(tmp_path: Path) -> None:
    assert "WER 50.00 % [" in (printed := score(tmp_path, "a GO TWO\nb \n").stdout)
    assert "0 ins, 2 del, 0 sub of 4 words; CER" in printed


def test_an_utterance_that_was_not_decoded_is_named(tmp_path: Path) -> None:
    result = score(tmp_path, "a GO TWO\n")
    assert result.returncode != 0 and result.stderr.endswith("/hyp has b: decode again\n")


def test_help_shows_what_the_options_are_otherwise() -> None:
    printed = subprocess.run([RECIPE / "run.sh", "--help"], capture_output=True, text=True, check=True).stdout
    assert "of the training (conf/train_shared.yaml)" in printed
