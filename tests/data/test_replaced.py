from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.recordings import make_recording
from shared_moe_conformer.data.replaced import content_digest, record_path, replaced_files, told
from tests.data.conftest import Corpus, noise_cut

FBANK = Path("fbank")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of the features of three recordings, in the working folder."""
    monkeypatch.chdir(tmp_path)
    cuts = CutSet.from_cuts([noise_cut(Path("audio"), f"c{i}", f"TEXT {i}", duration=0.5) for i in range(3)])
    store_features(cuts, "train", directory=FBANK, config=FeatureConfig())
    return record_path(FBANK, "train")


def replace(path: Path) -> None:
    """Write other sound of the same length, and so a file of the same size."""
    samples, rate = soundfile.read(path)
    soundfile.write(path, -samples, rate)
    os.utime(path, (1, 1))


def test_a_file_with_other_sound_is_named(record: Path, tmp_path: Path) -> None:
    before = content_digest(record)
    assert before and not replaced_files(record, recipe_dir=Path())
    for path in Path("audio").iterdir():
        os.utime(path)  # a copy
    assert not replaced_files(record, recipe_dir=Path())
    replace(Path("audio/c1.wav"))
    Path("audio/c2.wav").unlink()
    assert replaced_files(record, recipe_dir=tmp_path) == ["audio/c1.wav"]
    assert not replaced_files(record, recipe_dir=tmp_path, most=2), "the first and the third"
    assert told(["a"] * 5) == "5 audio files replaced since features were computed from them (a, a, a, ..)"
    assert replaced_files(FBANK / "audio_dev.jsonl", recipe_dir=Path()) == []
    assert content_digest(FBANK / "audio_dev.jsonl") == ""


def test_the_source_of_a_conversion_is_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cut = noise_cut(Path("audio"), "c", "TEXT", duration=0.5)
    soundfile.write("stereo.wav", np.random.default_rng(0).uniform(-0.1, 0.1, (8000, 2)), 16000)
    recording = make_recording(Path("stereo.wav"), recording_id="c", converted_dir=Path("data"))
    store_features([cut.with_id("x"), recording.to_cut()], "train", directory=FBANK, config=FeatureConfig())
    replace(Path("stereo.wav"))
    assert replaced_files(record_path(FBANK, "train"), recipe_dir=Path()) == ["stereo.wav"]


def test_a_training_is_told(corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = shutil.copytree(corpus.recipe_dir, tmp_path / "recipe")

    def read() -> AsrDataModule:
        caplog.clear()
        data = AsrDataModule(corpus.config, folder, corpus.tokenizer)
        assert len(data.training_cuts()) == 24 and len(data.training_cuts()) == 24
        return data

    assert read().audio_digest == content_digest(folder / "data/fbank/audio_train.jsonl") and not caplog.records
    replace(folder / "audio/train-3.wav")
    read()
    (told,) = caplog.messages
    assert "cuts_train.jsonl.gz: 1 audio file replaced since features were computed from them (audio/train-3" in told
    assert told.endswith(": run ./prepare.sh, which computes them again")
