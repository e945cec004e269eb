from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared_moe_conformer.data.manifests import read_cuts
from tests.data.conftest import noise_cut
from tests.local.conftest import Result


@pytest.fixture
def musan(tmp_path: Path) -> Path:
    """A folder as MUSAN's: three kinds, each with sources, and a list of the music's genres and singers."""
    durations = {
        "noise/free-sound/noise-free-sound-0000": 23.0,
        "noise/sound-bible/short": 2.0,
        "speech/librivox/speech-librivox-0000": 9.0,
        "music/fma/music-fma-0000": 12.0,
    }
    for name, duration in durations.items():
        path = tmp_path / "musan" / name
        noise_cut(path.parent, path.name, "", duration=duration)
    (tmp_path / "musan/music/fma/ANNOTATIONS").write_text("music-fma-0000 rock Y Somebody\n")
    return tmp_path / "musan"


def test_pieces_have_no_texts(musan: Path, run_local: Callable[..., Result]) -> None:
    result = run_local("prepare_musan", "--corpus-dir", musan)
    assert result.status == 0 and "musan: 4 pieces" in result.out
    pieces = list(read_cuts(musan.parent / "data/manifests", "musan", recipe_dir=musan.parent))
    durations = sorted((piece.recording_id, piece.duration) for piece in pieces)
    assert durations == [("music-fma-0000", 10.0), ("noise-free-sound-0000", 10.0),
                         ("noise-free-sound-0000", 10.0), ("speech-librivox-0000", 9.0)]  # fmt: skip
    assert not any(piece.supervisions for piece in pieces)
    assert len({piece.id for piece in pieces}) == 4


def test_parts_can_be_chosen(musan: Path, run_local: Callable[..., Result]) -> None:
    result = run_local("prepare_musan", "--corpus-dir", musan, "--parts", "noise", "--min-duration", 1.5)
    assert "musan: 4 pieces" in result.out
    pieces = read_cuts(musan.parent / "data/manifests", "musan", recipe_dir=musan.parent)
    assert sorted(piece.duration for piece in pieces) == [2.0, 3.0, 10.0, 10.0]


def test_another_folder_is_refused(tmp_path: Path, musan: Path, run_local: Callable[..., Result]) -> None:
    result = run_local("prepare_musan", "--corpus-dir", tmp_path)
    assert result.status == 1 and "MUSAN's folder" in result.err and result.err.count("\n") == 1
    result = run_local("prepare_musan", "--corpus-dir", musan, "--min-duration", 60)
    assert result.status == 1 and "no wav files of 60 s" in result.err
