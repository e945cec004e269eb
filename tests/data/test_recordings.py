from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from shared_moe_conformer.data.recordings import make_recording, measure, reason_to_drop
from shared_moe_conformer.data.utterances import Utterance


def utterance(path: str = "a.wav", *, text: str = "ONE TWO", start: float = 0.0, duration: float = 0.0) -> Utterance:
    return Utterance("u", path, text, "", "", start, duration, "clips.tsv line 7")


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Two seconds at 8 kHz, of which only the second channel is not silent: a.wav, a.flac, a.ogg; b.wav with one."""
    sound = 0.2 * np.sin(np.arange(16000) / 5)
    for suffix in ("wav", "flac", "ogg"):
        soundfile.write(str(tmp_path / f"a.{suffix}"), np.stack([0 * sound, sound], axis=1), 8000)
    soundfile.write(str(tmp_path / "b.wav"), sound, 8000)
    return tmp_path


def test_durations_are_those_of_files_and_segments(audio: Path) -> None:
    utterances = [
        utterance(),
        utterance(start=0.5, duration=1.0),
        utterance(start=1.5, duration=0.55),
        utterance("a.ogg"),
    ]
    assert [u.duration for u in measure(utterances, audio)] == [2.0, 1.0, 0.5, 2.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (utterance("x.wav"), "clips.tsv line 7: no file .*x.wav: correct the path, or give .*--audio-dir"),
        (utterance("text.wav"), "clips.tsv line 7: .*text.wav cannot be read .*convert it to wav or flac"),
        (
            utterance(start=1.5, duration=1.0),
            "clips.tsv line 7: the segment ends after its recording, which has 2.00 s",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(audio: Path, wrong: Utterance, message: str) -> None:
    (audio / "text.wav").write_text("this is no audio")
    with pytest.raises(ValueError, match=message) as error:
        measure([utterance(), wrong], audio)
    assert "\n" not in str(error.value)


def test_a_file_that_was_cut_off_is_named(audio: Path) -> None:
    content = (audio / "b.wav").read_bytes()
    (audio / "b.wav").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"line 7: .*b\.wav is cut off, 1\.00 s of 2\.00 s: get it again"):
        measure([utterance("b.wav")], audio)


def test_headers_and_scales_are_mended_by_converting(audio: Path) -> None:
    """A recorder that was killed, and floating point in the scale of 16 bits, as Lhotse then reads them."""
    content = bytearray((audio / "b.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = bytes(4)
    (audio / "killed.wav").write_bytes(content)
    sound = soundfile.read(str(audio / "b.wav"))[0]
    soundfile.write(str(audio / "scaled.wav"), sound * 2**15, 8000, subtype="FLOAT")
    soundfile.write(str(audio / "inverted.wav"), np.stack([sound, -sound], axis=1), 8000)
    for name in ("killed.wav", "scaled.wav", "inverted.wav"):
        assert measure([utterance(name)], audio)[0].duration == 2.0
        recording = make_recording(audio / name, recording_id="x", converted_dir=audio / "converted")
        assert np.allclose(recording.load_audio()[0], sound, atol=1e-3)


def test_what_cannot_be_trained_on_is_left_out() -> None:
    limits = {"min_duration": 0.4, "max_duration": 25.0}
    assert reason_to_drop(utterance(duration=1.0), **limits) is None
    assert reason_to_drop(utterance(duration=0.3), **limits) == "0.30 s long, not 0.4 to 25"
    assert reason_to_drop(utterance(text="X" * 28, duration=1.0), **limits) == "28 characters cannot be said in 1.00 s"


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "b.wav"])
def test_recordings_have_one_channel_which_is_the_mean(audio: Path, name: str) -> None:
    recording = make_recording(audio / name, recording_id="x", converted_dir=audio / "converted")
    samples = recording.load_audio()
    assert samples.shape == (1, 16000) and (recording.num_samples, recording.sampling_rate) == (16000, 8000)
    assert 0.9 * (0.2 if name == "b.wav" else 0.1) < np.abs(samples).max() < 1.1 * (0.2 if name == "b.wav" else 0.1)
    assert (name == "b.wav") == (recording.sources[0].source == str(audio / name)), "taken as it is, or converted"


def test_a_conversion_is_made_once_and_again_when_the_file_changes(audio: Path) -> None:
    def convert() -> tuple[int, int]:
        recording = make_recording(audio / "a.ogg", recording_id="x", converted_dir=audio / "converted")
        return recording.num_samples, Path(recording.sources[0].source).stat().st_mtime_ns

    first = convert()
    assert convert() == first
    soundfile.write(str(audio / "a.ogg"), np.zeros((8000, 2)), 8000)
    assert convert()[0] == 8000


def test_a_damaged_file_is_named(audio: Path) -> None:
    (audio / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="a.wav cannot be read"):
        make_recording(audio / "a.wav", recording_id="x", converted_dir=audio)
