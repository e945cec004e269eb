from __future__ import annotations

import io
import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.speech.audio import (
    PIECE,
    examine,
    read_audio,
    require_short,
    seconds_of,
    stream_audio,
    stream_samples,
    write_wav,
)
from shared_moe_conformer.speech.containers import open_audio
from shared_moe_conformer.speech.headers import AudioFile


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, 1000).astype(np.float32)


def test_a_wav_round_trip_loses_less_than_one_step_of_16_bits(tmp_path: Path, samples: np.ndarray) -> None:
    write_wav(tmp_path / "a.wav", samples, sampling_rate=8000)
    read, sampling_rate = read_audio(tmp_path / "a.wav")
    assert sampling_rate == 8000
    assert read.dtype == np.float32
    assert np.abs(read - samples).max() <= 2**-15


def test_loud_samples_are_scaled_not_clipped(tmp_path: Path, samples: np.ndarray) -> None:
    write_wav(tmp_path / "a.wav", samples * 2, sampling_rate=8000)
    read, _ = read_audio(tmp_path / "a.wav")
    assert np.corrcoef(read, samples)[0, 1] > 0.9999


def test_channels_are_averaged(tmp_path: Path, samples: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([samples, np.zeros_like(samples)], axis=1), 8000)
    read, _ = read_audio(tmp_path / "a.flac")
    assert read.shape == samples.shape
    assert np.allclose(read, samples / 2, atol=1e-4)


def test_empty_recording(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(0, dtype=np.float32), sampling_rate=8000)
    assert read_audio(tmp_path / "a.wav")[0].shape == (0,)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all" * 100, b"RIFF\x00\x00\x00\x00WAVEfmt "])
def test_what_is_no_audio_is_refused_with_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as audio") as caught:
        read_audio(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no audio file"):
        read_audio(tmp_path / "a.wav")


def test_blocks_are_the_whole_and_none_is_longer_than_ten_seconds(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, 25_000).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", np.stack([samples, -samples / 2], axis=1), 1000)
    sampling_rate, blocks = stream_audio(tmp_path / "a.flac")
    read = list(blocks)
    assert sampling_rate == 1000
    assert [len(block) for block in read] == [10_000, 10_000, 5_000]
    assert np.array_equal(np.concatenate(read), read_audio(tmp_path / "a.flac")[0])
    assert np.abs(np.concatenate(read) - samples / 4).max() < 2**-14
    for rate in (1000, 1000.0, np.float32(1000)):
        same_rate, blocks = stream_samples(samples, rate)
        assert (same_rate, type(same_rate)) == (1000, int)
        assert [len(block) for block in blocks] == [10_000, 10_000, 5_000]


def test_seconds_come_from_the_header(tmp_path: Path, samples: np.ndarray) -> None:
    write_wav(tmp_path / "a.wav", samples, sampling_rate=8000)
    assert seconds_of(tmp_path / "a.wav") == 0.125
    (tmp_path / "b.wav").write_text("no")
    assert seconds_of(tmp_path / "b.wav") == seconds_of(tmp_path / "missing.wav") == 0.0


def flac_of_a_pipe(path: Path, *, seconds: int) -> Path:
    """Silence, whose header does not tell how much, as if it had been written to a pipe."""
    soundfile.write(path, np.zeros(seconds * 8000, dtype=np.int16), 8000, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # of STREAMINFO's 36 bits for the number of samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    return path


def bytes_of(samples: np.ndarray, **kind: str) -> bytearray:
    """A file of 8 kHz in memory."""
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, **kind)
    return bytearray(file.getvalue())


def place(content: bytearray, mark: bytes, skip: int, number: str, value: int) -> bytes:
    """The content with another number at this distance from a mark."""
    result = bytearray(content)
    struct.pack_into(number, result, result.index(mark) + skip, value)
    return bytes(result)


LENGTHS = {
    "wav": ("data", 4, "<I", [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000]),
    "aiff": ("SSND", 4, ">I", [0, 8, 0xFFFFFFFF]),
    "au": (".snd", 8, ">I", [0, 0xFFFFFFFF]),
    "w64": ("data", 16, "<q", [0, 24, 1 << 60]),
    "rf64": ("ds64", 16, "<q", [0, 1 << 60, -1]),
    "caf": ("data", 4, ">q", [0, 4, 1 << 60, -1, (1 << 63) - 1]),
}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("suffix", "value"), [(suffix, value) for suffix, (*_, values) in LENGTHS.items() for value in values]
)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_lengths_of_nothing_and_of_centuries_are_not_believed(
    tmp_path: Path,
    samples: np.ndarray,
    suffix: str,
    value: int,
    subtype: str,
    channels: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mark, skip, number, _ = LENGTHS[suffix]
    columns = np.stack([samples] * channels, axis=1)
    content = bytes_of(columns, format=suffix.upper(), subtype=subtype)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(place(content, mark.encode(), skip, number, value))
    read, sampling_rate = read_audio(path)
    assert sampling_rate == 8000 and read.shape == samples.shape
    assert np.abs(read - samples).max() < 2**-14 and not caplog.records


@pytest.mark.parametrize("length", [b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_flac_that_does_not_know_its_length_or_the_largest_one(
    tmp_path: Path, samples: np.ndarray, length: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytes_of(samples, format="FLAC", subtype="PCM_16")
    content[21] = content[21] & 0xF0 | length[0] & 0x0F
    content[22:26] = length
    (tmp_path / "a.flac").write_bytes(content)
    assert len(read_audio(tmp_path / "a.flac")[0]) == len(samples) and not caplog.records
    assert seconds_of(tmp_path / "a.flac") == 0


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_blocks_of_a_recorder_that_was_killed_are_decoded(tmp_path: Path, samples: np.ndarray, subtype: str) -> None:
    content = bytes_of(samples, format="WAV", subtype=subtype)
    (tmp_path / "a.wav").write_bytes(content)
    (tmp_path / "b.wav").write_bytes(place(content, b"data", 4, "<I", 0))
    whole, found = (read_audio(tmp_path / name)[0] for name in ("a.wav", "b.wav"))
    assert len(whole) <= len(found) and np.array_equal(found[: len(whole)], whole)


@pytest.mark.parametrize("kind", ["OPUS", "VORBIS"])
def test_ogg_that_ends_within_a_page_was_cut_off(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    content, path = bytes_of(noise, format="OGG", subtype=kind), tmp_path / "a.ogg"
    path.write_bytes(content)
    assert len(read_audio(path)[0]) == len(noise) and not caplog.records
    path.write_bytes(content[: len(content) * 2 // 3])
    seconds = len(read_audio(path)[0]) / 8000
    assert 0 < seconds < 4 and f"{path} is cut off: it has {seconds:.2f} s, and its end is not whole" in caplog.text
    assert examine(path)[1:3] == (seconds * 8000, np.inf)


@pytest.mark.parametrize("name", ["a.gsm", "a.raw", "a.g722"])
def test_a_header_counts_more_than_a_name(tmp_path: Path, samples: np.ndarray, name: str) -> None:
    (tmp_path / name).write_bytes(bytes_of(samples, format="WAV", subtype="PCM_16"))
    assert np.allclose(read_audio(tmp_path / name)[0], samples, atol=1e-4)


@pytest.mark.parametrize("rate", [1, 900, 1_000_000])
def test_a_rate_of_no_recording_is_refused_with_the_file(tmp_path: Path, samples: np.ndarray, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", samples, rate)
    for reader in (read_audio, examine):
        with pytest.raises(ValueError, match=rf"a\.wav has a sampling rate of {rate} Hz: give audio of 1000 to 768000"):
            reader(tmp_path / "a.wav")


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)])
def test_mp3_of_changing_bit_rate_that_tells_no_length_is_whole(
    tmp_path: Path, tag: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 160_000) * (np.arange(160_000) > 80_000)
    with soundfile.SoundFile(tmp_path / "a.mp3", "w", 16000, 1, bitrate_mode="VARIABLE", compression_level=0.5) as file:
        file.write(noise)
    content = (tmp_path / "a.mp3").read_bytes()
    assert examine(tmp_path / "a.mp3")[1:3] == (160_000, None)
    second = content.index(content[:2], content.index(b"Xing"))
    (tmp_path / "b.mp3").write_bytes(tag + content[second:])
    _, length, announced, _ = examine(tmp_path / "b.mp3")
    assert 160_000 <= length < 163_000 and announced is None and not caplog.records
    (tmp_path / "c.mp3").write_bytes(tag + content[: len(content) // 2])
    assert examine(tmp_path / "c.mp3").announced == 160_000


def with_total(content: bytearray, total: int) -> bytes:
    """A FLAC file that tells another number of samples."""
    return bytes(content[:21]) + bytes([content[21] & 0xF0]) + struct.pack(">I", total) + bytes(content[26:])


def longer_files(samples: np.ndarray) -> dict[str, bytes]:
    """Files by name that hold all samples, and whose headers tell fewer, or none; of the last two, twice as many."""
    wav, mp3, opus = (
        bytes_of(samples, format=f, subtype=s) for f, s in (("WAV", "PCM_16"), ("MP3", None), ("OGG", "OPUS"))
    )
    mark, step = mp3.index(b"Xing" if b"Xing" in mp3 else b"Info"), len(samples)
    return {
        "recorder-killed.wav": place(wav, b"data", 4, "<I", step),
        "recorder-killed.au": place(bytes_of(samples, format="AU", subtype="PCM_16"), b".snd", 8, ">I", step),
        "half.flac": with_total(bytes_of(samples, format="FLAC", subtype="PCM_16"), step // 2),
        "tagged.flac": b"ID3\4\0\0\0\0\1\0"
        + bytes(128)
        + with_total(bytes_of(samples, format="FLAC", subtype="PCM_16"), step // 2),
        "zero.mp3": bytes(mp3[: mark + 8] + bytes(4) + mp3[mark + 12 :]),
        "no-flags.mp3": bytes(mp3[: mark + 4] + bytes(4) + mp3[mark + 8 :]),
        "headless.mp3": bytes(mp3[mp3.index(mp3[:2], 2) :]),
        "chained.opus": bytes(opus + opus),
        "chained.mp3": bytes(mp3 + mp3),
    }


def test_samples_behind_the_end_that_a_header_tells_are_read(tmp_path: Path) -> None:
    """Recorders that were killed had written a length before; streams are written one after the other."""
    fading = np.random.default_rng(0).normal(0, 0.2, 32_000) * np.linspace(1, 0, 32_000) ** 4
    for name, content in longer_files(fading).items():
        (tmp_path / name).write_bytes(content)
        rate, length, announced, is_plain = examine(tmp_path / name)
        number = len(read_audio(tmp_path / name)[0])
        wanted = 8.0 if "chained" in name else 4.0
        assert (number, announced, is_plain) == (length, None, False), name
        assert wanted - 0.01 <= length / rate < wanted + 0.4, (name, length / rate)


CUT_OFF = [
    *(("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")),
    *((kind, "PCM_16") for kind in ("AIFF", "AU", "CAF", "RF64", "W64")),
]


@pytest.mark.parametrize("kind", CUT_OFF)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes_and_said(
    tmp_path: Path, kind: tuple[str, str], channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (32_000, channels)).astype(np.float32)
    content = bytes_of(noise, format=kind[0], subtype=kind[1])
    path = tmp_path / f"a.{kind[0].lower()}"
    path.write_bytes(content[: len(content) // 2])
    read, _ = read_audio(path)
    assert 8_000 < len(read) < 24_000
    assert f"{path} is cut off: it has {len(read) / 8000:.2f} s, and its header says 4.00 s" in caplog.text


@pytest.mark.parametrize(("scale", "found"), [(2.0**15, 2.0**15), (2.0**31, 2.0**31), (1.5, 1.0), (1.0, 1.0)])
def test_floating_point_in_the_scale_of_integers_is_scaled(
    tmp_path: Path, samples: np.ndarray, scale: float, found: float, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "a.wav", samples * scale, 8000, subtype="FLOAT")
    read, _ = read_audio(tmp_path / "a.wav")
    assert np.allclose(read, samples * (scale / found), atol=1e-6)
    assert ("they are divided by" in caplog.text) == (found > 1)


def test_scales_and_channels_are_those_of_the_whole_file(tmp_path: Path) -> None:
    """The first block is silent, or its channels are alike."""
    late = np.concatenate([np.zeros(80_000), np.full(8_000, 12_000.0)]).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([late / 4 + 1, 1 - late], axis=1), 8000, subtype="FLOAT")
    read, _ = read_audio(tmp_path / "a.wav")
    assert np.allclose(np.unique(read), np.unique((1 - 3 * late / 8) / 2**15), atol=1e-6)


def test_channels_that_cancel_give_the_louder_one(
    tmp_path: Path, samples: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([-0.9 * samples, samples], axis=1), 8000)
    assert np.allclose(read_audio(tmp_path / "a.wav")[0], samples, atol=1e-4)
    assert f"{tmp_path / 'a.wav'}: its channels cancel each other: channel 1 is taken" in caplog.text
    noise = np.tile(samples, 10)
    half = np.where(np.arange(len(noise)) < 5000, noise, -noise)
    for name, channels in (("constant", [noise + 0.4, 0.4 - 0.9 * noise]), ("half", [noise, 0.9 * half])):
        soundfile.write(tmp_path / f"{name}.wav", np.stack(channels, axis=1), 8000, subtype="FLOAT")
        assert np.allclose(read_audio(tmp_path / f"{name}.wav")[0], channels[0], atol=1e-6), name
    silent = np.zeros_like(samples)
    soundfile.write(tmp_path / "b.wav", np.stack([silent] * 3 + [samples], axis=1), 8000)
    assert np.allclose(read_audio(tmp_path / "b.wav")[0], samples / 4, atol=1e-4), "one loud channel cancels nothing"


def test_a_channel_can_be_chosen(tmp_path: Path, samples: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([samples, samples[::-1]], axis=1), 8000)
    for channel, expected in enumerate([samples, samples[::-1]]):
        assert np.allclose(read_audio(tmp_path / "a.flac", channel=channel)[0], expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"a\.flac has no channel 2: its channels are 0 to 1"):
        read_audio(tmp_path / "a.flac", channel=2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused_with_its_file_and_time(tmp_path: Path, samples: np.ndarray, value: float) -> None:
    samples[400] = value
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"a\.wav has a sample at 0\.05 s that is not a number"):
        read_audio(tmp_path / "a.wav")


def test_files_without_a_header(tmp_path: Path, samples: np.ndarray) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(8000))
    with pytest.raises(ValueError, match=r"a\.raw has no header .*: convert it to wav, as by sox"):
        read_audio(tmp_path / "a.raw")
    for suffix, subtype in (("ulaw", "ULAW"), ("al", "ALAW"), ("gsm", "GSM610")):
        tone = np.sin(np.arange(1600) / 5).astype(np.float32) / 2
        soundfile.write(tmp_path / f"a.{suffix}", tone, 8000, format="RAW", subtype=subtype)
        read, sampling_rate = read_audio(tmp_path / f"a.{suffix}")
        assert sampling_rate == 8000 and np.corrcoef(read[:1600], tone[: len(read)])[0, 1] > 0.9


def test_what_every_program_reads_alike_is_plain(tmp_path: Path, samples: np.ndarray) -> None:
    kinds = {"a.wav": "PCM_16", "b.flac": "PCM_24", "c.wav": "FLOAT", "d.ogg": "VORBIS"}
    for name, subtype in kinds.items():
        soundfile.write(tmp_path / name, samples, 8000, subtype=subtype)
    soundfile.write(tmp_path / "e.wav", np.stack([samples, samples], axis=1), 8000)
    soundfile.write(tmp_path / "f.wav", samples * 2**15, 8000, subtype="FLOAT")
    found = {path.name: examine(path) for path in tmp_path.iterdir()}
    assert {(f.sampling_rate, f.num_samples, f.announced) for f in found.values()} == {(8000, len(samples), None)}
    assert {name for name, f in found.items() if f.is_plain} == {"a.wav", "b.flac", "c.wav"}


def test_files_whose_headers_are_wrong_are_not_plain(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    wav, flac = (bytes_of(noise, format=kind, subtype="PCM_16") for kind in ("WAV", "FLAC"))
    (tmp_path / "a.wav").write_bytes(place(wav, b"data", 4, "<I", 0))
    assert examine(tmp_path / "a.wav") == (8000, 32_000, None, False)
    (tmp_path / "b.wav").write_bytes(wav[:32_044])
    assert examine(tmp_path / "b.wav") == (8000, 16_000, 32_000, False)
    (tmp_path / "c.flac").write_bytes(flac[: len(flac) // 2])
    found = examine(tmp_path / "c.flac")
    assert 8_000 < found.num_samples < 24_000 and found.announced == 32_000 and not found.is_plain


MEMO = struct.pack(">I", 24) + b"ftypM4A \0\0\2\0M4A isom" + bytes(100)


@pytest.mark.parametrize(("suffix", "kind"), [("wav", "PCM_16"), ("ulaw", "ULAW")])
def test_names_that_are_no_text_are_no_problem(tmp_path: Path, samples: np.ndarray, suffix: str, kind: str) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9." + suffix.encode())
    path.write_bytes(bytes_of(samples, format="WAV" if suffix == "wav" else "RAW", subtype=kind))
    assert len(read_audio(path)[0]) == len(samples)
    assert seconds_of(path) == (len(samples) / 8000 if suffix == "wav" else 0.0)


def test_other_containers_need_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.m4a").write_bytes(MEMO)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"a\.m4a cannot be read as audio: .*install ffmpeg or pip install av") as e:
        read_audio(tmp_path / "a.m4a")
    assert "\n" not in str(e.value)


def test_ffmpeg_is_asked_where_it_is(tmp_path: Path, samples: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of its name that writes a known file, or fails."""
    (tmp_path / "a.m4a").write_bytes(MEMO)
    soundfile.write(tmp_path / "decoded.w64", samples, 16_000, format="W64")
    program = tmp_path / "ffmpeg"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *" -f w64 "*) ;; *) exit 1;; esac\n'  # wav files cannot hold 7 hours of music
        f'for last; do :; done\n/bin/cp {tmp_path}/decoded.w64 "${{last#file:}}"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    read, sampling_rate = read_audio(tmp_path / "a.m4a")
    assert sampling_rate == 16_000 and np.abs(read - samples).max() < 2**-14
    program.write_text("#!/bin/sh\necho 'no moov atom\n  at all' >&2\nexit 1\n")
    with pytest.raises(ValueError, match=r"a\.m4a cannot be read as audio: .*: no moov atom at all; convert it to wav"):
        read_audio(tmp_path / "a.m4a")


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("webm", "libopus")])
def test_pyav_decodes_what_libsndfile_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, codec: str
) -> None:
    av = pytest.importorskip("av")
    monkeypatch.setenv("PATH", "")
    tone = (np.sin(np.arange(48_000) / 20) * 8000).astype(np.int16)
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.repeat(tone, 2)[None], format="s16", layout="stereo")
        frame.sample_rate = 48_000
        for part in (frame, None):
            for packet in stream.encode(part):
                container.mux(packet)
    read, sampling_rate = read_audio(path)
    assert sampling_rate == 48_000 and abs(len(read) - 48_000) < 4_000
    assert 0.1 < np.abs(read).max() < 0.5
    with open_audio(path, max_seconds=0.25) as decoded:
        assert 12_000 <= decoded.frames < 16_000, "no more than the limit is decoded"
        assert decoded.format == "W64", "which may hold more than 4 GB, unlike wav"
    with pytest.raises(ValueError, match="lasts more than"):
        require_short(path, seconds=0.5)
    monkeypatch.chdir(tmp_path)
    named = Path(f"12:00.{suffix}")
    named.write_bytes(path.read_bytes())
    assert len(read_audio(named)[0]) == len(read), "a colon is part of the name"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    if suffix == "m4a":  # whose index is at its end
        with pytest.raises(ValueError, match=r"a\.m4a cannot be read as audio: .*; convert it to wav or flac"):
            examine(path)
    else:
        _, length, announced, _ = examine(path)
        assert 24_000 < length < 36_000 and announced is not None and 48_000 <= announced < 52_000


def test_a_telephones_wideband_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    monkeypatch.setenv("PATH", "")
    tone = (np.sin(np.arange(16_000) * 2 * np.pi * 5000 / 16_000) * 8000).astype(np.int16)
    path = tmp_path / "a.g722"
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for part in (frame, None):
            for packet in stream.encode(part):
                container.mux(packet)
    assert path.stat().st_size == 8000
    read, sampling_rate = read_audio(path)
    assert (sampling_rate, len(read)) == (16_000, 16_000)
    assert np.abs(np.fft.rfft(read)).argmax() == 5000, "Hz"


def test_of_a_file_that_is_too_long_no_more_than_the_limit_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few megabytes of FLAC may be hours of silence, and those of two channels are read twice."""
    soundfile.write(tmp_path / "a.flac", np.zeros((600 * 8000, 2), dtype=np.float32), 8000)
    found, read = [], AudioFile.read
    monkeypatch.setattr(AudioFile, "read", lambda *args, **options: (found.append(1), read(*args, **options))[1])
    with pytest.raises(ValueError, match=r"a\.flac lasts more than 0\.05 minutes"):
        require_short(tmp_path / "a.flac", seconds=3)
    assert len(found) * PIECE < 2 * 6 * 8000


def test_a_length_that_the_header_does_not_tell_is_read(tmp_path: Path) -> None:
    path = flac_of_a_pipe(tmp_path / "pipe.flac", seconds=30)
    assert seconds_of(path) == 0
    assert require_short(path, seconds=30) == 30
    assert len(read_audio(path)[0]) == 30 * 8000
    with pytest.raises(ValueError, match=r"pipe\.flac lasts more than 0\.25 minutes"):
        require_short(path, seconds=15)


KINDS = [
    *(("WAV", subtype, 1) for subtype in ("PCM_16", "IMA_ADPCM", "GSM610")),
    *(("WAV", "FLOAT", 2), ("AIFF", "PCM_24", 2), ("AU", "ULAW", 1), ("W64", "DOUBLE", 1), ("CAF", "PCM_16", 1)),
    *(("RF64", "PCM_16", 2), ("FLAC", "PCM_16", 2), ("OGG", "VORBIS", 1), ("MP3", "MPEG_LAYER_III", 1)),
]
DAMAGE = st.lists(
    st.tuples(
        st.integers(0, 63) | st.integers(0, 2**16),
        st.binary(min_size=1, max_size=8) | st.sampled_from([bytes(4), b"\xff" * 4, bytes(8), b"\0\0\0\x80"]),
    ),
    min_size=1,
    max_size=4,
)


KINDS += [
    ("NIST", "PCM_16", 1),
    ("CAF", "ALAC_16", 2),
    ("OGG", "OPUS", 2),
    ("WAV", "DOUBLE", 1),
    ("WAV", "MS_ADPCM", 2),
]
SUFFIXES = ("", ".gsm", ".raw", ".ulaw", ".g722", ".m4a", ".sln")
"""Names that may be wrong; without one it is the format's."""
VALUES = (1.0, 2.0**15, 1e30, -1.0, 0.0, np.nan, np.inf)
"""Factors of the last channel."""
CASES = int(os.environ.get("FUZZ_CASES", 1000))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS: run git lfs pull"),
        (b"SQLite format 3\0", "it is a project of Audacity, or a database: export its audio as wav"),
        (b"PK\3\4", "it is a zip file: unpack it"),
        (b"\n<!DOCTYPE html>", "it is a web page or XML, as .*: get the audio itself"),
    ],
)
def test_files_without_sound_are_called_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    for name in ("a.wav", "a.mp3"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as audio: {message}"):
            read_audio(tmp_path / name)


@pytest.mark.parametrize(("places", "channels"), [((28, 29, 30, 31), 1), ((20, 141, 142, 143, 144), 2)])
def test_a_container_with_sound_of_an_unknown_coding_is_named(
    tmp_path: Path, places: tuple[int, ...], channels: int
) -> None:
    """The coding has no name, or parameters for which nobody has written a decoder of FFmpeg's."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (3000, channels)).astype(np.float32)
    content = bytes_of(noise, format="CAF", subtype="ALAC_16")
    for place in places:
        content[place] = 0
    (tmp_path / "a.caf").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.caf cannot be read as audio: .*") as error:
        read_audio(tmp_path / "a.caf")
    assert "\n" not in str(error.value)


@pytest.mark.slow
@settings(max_examples=CASES, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    parts=st.sampled_from((1, 1, 2, 3)),
    damage=DAMAGE | st.just([]),
    cut=st.none() | st.integers(0, 2**16),
    suffix=st.sampled_from(SUFFIXES),
    factor=st.sampled_from(VALUES),
)
def test_any_file_is_read_or_refused_in_one_line(
    kind: tuple[str, str, int], parts: int, damage: list, cut: int | None, suffix: str, factor: float
) -> None:
    audio_format, subtype, channels = kind
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (3000, channels)).astype(np.float32)
    noise[:, -1] = noise[:, 0] * np.float32(factor)
    if subtype not in ("FLOAT", "DOUBLE"):
        noise = np.clip(np.nan_to_num(noise), -1, 1)
    content = parts * bytes_of(noise, format=audio_format, subtype=subtype)
    for where, new in damage:
        at = where % len(content)
        content[at : at + len(new)] = new
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix or '.' + audio_format.lower()}"
        path.write_bytes(content[: None if cut is None else cut % len(content)])
        for reader in (read_audio, examine, seconds_of, lambda path: require_short(path, seconds=5)):
            try:
                reader(path)
            except ValueError as error:
                message = str(error)
                assert len(message) < 1000 and "\n" not in message and path.name in message and ": " in message
