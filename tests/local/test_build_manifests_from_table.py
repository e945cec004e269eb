from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.data.utterances import Utterance, write_table
from tests.data.conftest import noise_cut
from tests.local.conftest import Result


@pytest.fixture
def table(tmp_path: Path) -> list[Utterance]:
    noise_cut(tmp_path / "audio", "talk", "", duration=3.0)
    noise_cut(tmp_path / "audio", "other", "", duration=1.0)
    noise_cut(tmp_path / "audio", "third", "", duration=1.0)
    utterances = [
        Utterance("t1", "talk.wav", "ONE", "anna", "train", 0.0, 1.0, ""),
        Utterance("t2", "talk.wav", "TWO", "anna", "train", 1.5, 1.5, ""),
        Utterance("d", "other.wav", "THREE", "", "dev", 0.0, 1.0, ""),
        Utterance("e", "third.wav", "FOUR", "", "test", 0.0, 1.0, ""),
    ]
    write_table(utterances, tmp_path / "utterances.tsv")
    return utterances


def test_the_cuts_are_the_tables(tmp_path: Path, table: list[Utterance], run_local: Callable[..., Result]) -> None:
    assert run_local("build_manifests_from_table", "--audio-dir", tmp_path / "audio").status == 0
    for split in ("train", "dev", "test"):
        cuts = read_cuts(tmp_path / "data/manifests", split, recipe_dir=tmp_path)
        found = [(c.id, c.supervisions[0].text, c.start, c.duration, c.supervisions[0].speaker) for c in cuts]
        wanted = [(u.id, u.text, u.start, u.duration, u.speaker or None) for u in table if u.split == split]
        assert found == wanted
    assert all(cut.load_audio().shape == (1, cut.num_samples) for cut in cuts)


def test_what_is_missing_is_named(tmp_path: Path, table: list[Utterance], run_local: Callable[..., Result]) -> None:
    result = run_local("build_manifests_from_table", "--audio-dir", tmp_path)
    assert result.status == 1 and "other.wav: where is the audio now? give --corpus-dir" in result.err
    write_table([u for u in table if u.split != "dev"], tmp_path / "utterances.tsv")
    result = run_local("build_manifests_from_table", "--audio-dir", tmp_path / "audio")
    assert result.status == 1 and "is in dev" in result.err


def test_channels_of_a_file_are_recordings_of_their_own(
    tmp_path: Path, table: list[Utterance], run_local: Callable[..., Result]
) -> None:
    sides = np.stack([np.full(8000, 0.1), np.full(8000, 0.3)], axis=1)
    soundfile.write(str(tmp_path / "audio/call.wav"), sides, 8000)
    calls = [Utterance(f"c{c}", "call.wav", "FIVE", "", "train", 0.0, 1.0, "", c) for c in (0, 1)]
    write_table([*table, *calls], tmp_path / "utterances.tsv")
    assert run_local("build_manifests_from_table", "--audio-dir", tmp_path / "audio").status == 0
    cuts = {cut.id: cut for cut in read_cuts(tmp_path / "data/manifests", "train", recipe_dir=tmp_path)}
    assert [round(float(cuts[name].load_audio().mean()), 2) for name in ("c0", "c1")] == [0.1, 0.3]
