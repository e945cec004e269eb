from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile

from shared_moe_conformer.data.checks import complaints
from shared_moe_conformer.data.recordings import examine_recording, make_recording, measure, measure_level
from shared_moe_conformer.data.utterances import Utterance
from tests.data.conftest import noise_cut


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
    assert [u.duration for u in measure(utterances, audio)[0]] == [2.0, 1.0, 0.5, 2.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (utterance("x.wav"), "clips.tsv line 7: no file .*x.wav: correct the path, or give .*--audio-dir"),
        (utterance("a"), r"line 7: no file .*/a: there is a.flac: write the name with its suffix"),
        (utterance("https:/x.org/a.wav"), "line 7: no file .*: a URL: get the file, and write its path"),
        (utterance("C:\\x\\a.wav"), "line 7: no file .*: a path of Windows: write it from the table's folder on"),
        (utterance("text.wav"), "clips.tsv line 7: .*text.wav cannot be read .*convert it to wav or flac"),
        (
            utterance(start=1.5, duration=1.0),
            "clips.tsv line 7: the segment ends at 2.50 s, after its recording: a.wav has 2.00 s; correct its times",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(audio: Path, wrong: Utterance, message: str) -> None:
    (audio / "text.wav").write_text("this is no audio")
    with pytest.raises(ValueError, match=message) as error:
        measure([utterance(), wrong], audio)
    assert "\n" not in str(error.value)


def test_slashes_of_windows(audio: Path) -> None:
    (audio / "sub").mkdir()
    (audio / "a.wav").rename(audio / "sub/a.wav")
    assert measure([utterance("sub\\a.wav")], audio)[0][0].path == "sub/a.wav"


def test_segments_to_the_end_and_of_channels(audio: Path) -> None:
    second = utterance(start=0.5)._replace(channel=1)
    assert measure([second], audio)[0] == [second._replace(duration=1.5)]
    with pytest.raises(ValueError, match=r"line 7: no channel 2: the channels of a\.wav are 0 to 1"):
        measure([second._replace(channel=2)], audio)
    with pytest.raises(
        ValueError, match=r"line 7: the segment starts at 2\.50 s, after its recording: a\.wav has 2\.00 s"
    ):
        measure([utterance(start=2.5)], audio)
    sides = [
        make_recording(audio / "a.wav", recording_id="x", converted_dir=audio / "converted", channel=channel)
        for channel in (0, 1)
    ]
    assert [float(np.abs(side.load_audio()).max()) > 0.1 for side in sides] == [False, True]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_files_may_have_another_unicode_form_than_the_table(audio: Path, form: Literal["NFC", "NFD"]) -> None:
    name = unicodedata.normalize(form, "\u00e9t\u00e9.wav")
    (audio / "b.wav").rename(audio / name)
    found = {measure([utterance(unicodedata.normalize(f, name))], audio)[0][0].path for f in ("NFC", "NFD")}
    assert found == {name}


def test_a_file_that_was_cut_off_is_named(audio: Path) -> None:
    content = (audio / "b.wav").read_bytes()
    (audio / "b.wav").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        ValueError, match=r"line 7: .*b\.wav is cut off: it has 1\.00 s, and its header says 2\.00 s: get it again"
    ):
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
        assert measure([utterance(name)], audio)[0][0].duration == 2.0
        recording = make_recording(audio / name, recording_id="x", converted_dir=audio / "converted")
        assert np.allclose(recording.load_audio()[0], sound, atol=1e-3)


def test_a_conversion_that_ends_early_is_refused(audio: Path) -> None:
    """Damage in the middle, which the header does not tell."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    soundfile.write(str(audio / "n.flac"), np.stack([noise, noise], axis=1), 8000)
    content = bytearray((audio / "n.flac").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    (audio / "n.flac").write_bytes(content)
    assert measure([utterance("n.flac")], audio)[0][0].duration == 4.0
    with pytest.raises(
        ValueError, match=r"n\.flac is cut off: it has [12]\.\d\d s, and its header says 4\.00 s: get it"
    ):
        make_recording(audio / "n.flac", recording_id="x", converted_dir=audio / "converted")


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
    os.utime(audio / "a.ogg")
    assert convert() == first, "the content is the same"
    soundfile.write(str(audio / "a.ogg"), np.zeros((8000, 2)), 8000)
    os.utime(audio / "a.ogg", (1, 1))  # as a copy that keeps its time, of a file that was cut off before
    assert convert()[0] == 8000


def test_half_a_conversion_is_not_taken(audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_recording(audio / "a.ogg", recording_id="x", converted_dir=audio / "converted")

    def stop(_: np.ndarray, *__: object) -> np.ndarray:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, "clip", stop)
        make_recording(audio / "a.ogg", recording_id="x", converted_dir=audio / "other")
    assert not list((audio / "other").iterdir())
    target = Path(whole.sources[0].source)
    target.write_bytes(target.read_bytes()[:50])
    assert make_recording(audio / "a.ogg", recording_id="x", converted_dir=audio / "converted") == whole


def test_a_damaged_file_is_named(audio: Path) -> None:
    (audio / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="a.wav cannot be read"):
        make_recording(audio / "a.wav", recording_id="x", converted_dir=audio)


def test_audio_that_is_damaged_or_silent(tmp_path: Path) -> None:
    recording = noise_cut(tmp_path, "a", "TEXT", duration=0.5).recording
    path = tmp_path / "a.wav"
    whole = path.read_bytes()
    assert examine_recording(recording).faults == []
    path.write_bytes(whole[:44] + bytes(len(whole) - 44))
    assert examine_recording(recording).faults == [("silence", "recording is digital silence")]
    for damaged in (b"", b"no wav at all"):
        path.write_bytes(damaged)
        ((kind, told),) = examine_recording(recording).faults
        assert told.startswith(f"{path} cannot be read") and "\n" not in told
    path.write_bytes(whole[:2044])
    assert examine_recording(recording).faults == [("length", f"{path} has 1000 samples, not 4000")]


def test_flac_that_is_damaged_in_the_middle_is_named_and_where(tmp_path: Path) -> None:
    """Its header and its end are whole, so it has its length until it is read."""
    path = tmp_path / "a.flac"
    noise = np.random.default_rng(0).normal(scale=0.1, size=40_000)
    soundfile.write(path, noise, 8000, "PCM_16")
    whole = path.read_bytes()
    middle = len(whole) // 2
    assert examine_recording(make_recording(path, recording_id="x", converted_dir=tmp_path)).faults == []
    for damage in (bytes(300), noise.tobytes()[:3000], bytes([whole[middle] ^ 1])):
        path.write_bytes(whole[:middle] + damage + whole[middle + len(damage) :])
        ((kind, told),) = examine_recording(make_recording(path, recording_id="x", converted_dir=tmp_path)).faults
        assert kind == "unreadable"
        assert told.startswith(f"{path} cannot be read to its end: it is damaged 2.")


def test_the_rate_in_the_file_must_be_the_manifests(tmp_path: Path) -> None:
    recording = noise_cut(tmp_path, "a", "TEXT", duration=0.5).recording
    samples, _ = soundfile.read(tmp_path / "a.wav")
    soundfile.write(tmp_path / "a.wav", samples, 11025)
    message = f"{tmp_path}/a.wav is at 11025 Hz, its manifest says 8000 Hz"
    assert examine_recording(recording).faults == [("sampling rate", message)]


def test_samples_that_are_not_finite_are_a_problem_and_have_no_level(tmp_path: Path) -> None:
    recording = noise_cut(tmp_path, "a", "TEXT", duration=0.5).recording
    samples, rate = soundfile.read(tmp_path / "a.wav")
    assert examine_recording(recording).level is not None
    samples[100] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    assert examine_recording(recording) == ([("not finite", "recording holds NaN or infinity")], None)


RATE = 8000


@pytest.fixture
def tone() -> np.ndarray:
    """A second of a tone at half of full scale."""
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)[np.newaxis]


def test_a_tone_is_neither_clipped_nor_silent(tone: np.ndarray) -> None:
    level = measure_level(tone, RATE)
    assert level.peak == pytest.approx(0.5, abs=0.01)
    assert level.clipped_share == level.silent_share == 0 and complaints(level) == []


def test_clipping_is_counted_in_samples(tone: np.ndarray) -> None:
    level = measure_level((4 * tone).clip(-1, 1), RATE)
    assert level.clipped_share == pytest.approx(2 / 3, abs=0.02)  # |2 sin| > 1 for two thirds of a period
    assert complaints(level)[0].startswith("clipped: 66") or complaints(level)[0].startswith("clipped: 67")


def test_silence_is_counted_in_frames(tone: np.ndarray) -> None:
    """The tone has -9 dB; a tenth of it is made 44 dB quieter, the rest 54."""
    parts = np.split(tone, [RATE // 10], axis=1)
    level = measure_level(np.concatenate([10**-2.2 * parts[0], 10**-2.7 * parts[1]], axis=1), RATE)
    assert level.silent_share == pytest.approx(0.9)
    assert complaints(level) == ["mostly silence: 90% of it is below -60 dB"]


def test_a_recording_shorter_than_a_frame_has_a_level() -> None:
    assert measure_level(np.full((1, 20), 0.1), RATE).silent_share == 1
    assert measure_level(np.zeros((1, 0)), RATE).peak == 0
