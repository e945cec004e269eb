from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared_moe_conformer.speech import joined
from shared_moe_conformer.speech.audio import examine, read_audio, stream_audio
from tests.speech.test_audio import bytes_of


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, 20_000).astype(np.float32)


TAGS = b"ID3\4\0\0\0\0\1\0" + bytes(128)


@pytest.mark.parametrize("kind", ["FLAC", "WAV", "AIFF"])
@pytest.mark.parametrize("between", [b"", TAGS])
def test_recordings_one_behind_another_are_read_as_one(
    tmp_path: Path, noise: np.ndarray, kind: str, between: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined, "BLOCK", 1000)
    parts = [noise[:7000], noise[7000:14_000], noise[14_000:]]
    path = tmp_path / f"a.{kind.lower()}"
    behind = between if kind == "FLAC" else b""
    path.write_bytes(behind + behind.join(bytes_of(part, format=kind, subtype="PCM_16") for part in parts))
    read, sampling_rate = read_audio(path)
    assert sampling_rate == 8000 and np.abs(read - noise).max() < 2**-14
    found = examine(path)
    assert (found.num_samples, found.announced, found.is_plain) == (20_000, None, False)
    rate, blocks = stream_audio(path, max_seconds=1)
    assert rate == 8000 <= sum(map(len, blocks)) < 20_000


def test_recordings_of_different_kinds_are_refused(tmp_path: Path, noise: np.ndarray) -> None:
    flac = bytes_of(noise, format="FLAC", subtype="PCM_16")
    stereo = bytes_of(np.stack([noise, noise], axis=1), format="FLAC", subtype="PCM_16")
    (tmp_path / "a.flac").write_bytes(flac + stereo)
    with pytest.raises(
        ValueError, match=r"a\.flac holds 2 recordings .*: number 2 has 8000 Hz and 2 channels, the first"
    ):
        read_audio(tmp_path / "a.flac")
    (tmp_path / "a.flac").write_bytes(flac + flac[:60])
    with pytest.raises(ValueError, match=r"a\.flac holds 2 recordings .*: number 2 cannot be read .*: cut the file"):
        read_audio(tmp_path / "a.flac")


def test_a_part_that_is_cut_off_is_told(tmp_path: Path, noise: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    flac = bytes_of(noise, format="FLAC", subtype="PCM_16")
    (tmp_path / "a.flac").write_bytes(flac[: len(flac) // 2] + flac)
    assert 20_000 < len(read_audio(tmp_path / "a.flac")[0]) < 40_000
    assert "a.flac is cut off: it has" in caplog.text and "its header says 5.00 s" in caplog.text


@pytest.mark.parametrize("behind", [bytes(5000), b"TAG" + b"x" * 125])
def test_what_other_programs_append_to_flac_is_no_sound_and_costs_none(
    tmp_path: Path, noise: np.ndarray, behind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.flac").write_bytes(bytes_of(noise, format="FLAC", subtype="PCM_16") + behind)
    assert len(read_audio(tmp_path / "a.flac")[0]) == 20_000 and not caplog.records
    assert examine(tmp_path / "a.flac").is_plain
