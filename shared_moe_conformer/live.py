"""Speech recognised while it is spoken: sources of its samples, and printing of its words."""

from __future__ import annotations

import importlib
import importlib.util
import queue
import shutil
import signal
import struct
from collections.abc import Callable, Iterable, Iterator
from io import BufferedIOBase
from types import FrameType
from typing import Any, TextIO

import numpy as np

from shared_moe_conformer.config import require
from shared_moe_conformer.speech.transcript import Transcript, display_width
from shared_moe_conformer.streaming import Stream

BLOCK = 1 << 14
"""Most bytes that are read at once."""
FULL_SCALE = 32768
FORMATS = {
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3": "MP3",
    b".snd": "AU",
    b"FORM": "AIFF",
    b"RF64": "RF64",
    b"riff": "W64",
    b"caff": "CAF",
    b"NIST": "SPHERE",
    b"#!AMR": "AMR",
    b"\x1a\x45\xdf\xa3": "WebM",
}
"""Names of formats by their first bytes."""
MPEG_1, MPEG_2, MPEG_2_5 = 3, 2, 0
"""Versions as MP3's frames state them. Source: ISO/IEC 11172-3 and 13818-3, 2.4.2.3."""
KBITS = {
    MPEG_1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    MPEG_2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
KBITS[MPEG_2_5] = KBITS[MPEG_2]
RATES = {MPEG_1: (44100, 48000, 32000), MPEG_2: (22050, 24000, 16000), MPEG_2_5: (11025, 12000, 8000)}
SAMPLES = {MPEG_1: 1152, MPEG_2: 576, MPEG_2_5: 576}
"""Bit rates, sampling rates in Hz and the samples of a frame of MP3."""
CLEAR, DIM, PLAIN = "\r\x1b[K", "\x1b[2m", "\x1b[0m"
"""Codes with which a terminal clears the line and shows partial words paler than final ones (ECMA-48, EL and SGR)."""


def read_pcm(file: BufferedIOBase, *, sampling_rate: int) -> Iterator[np.ndarray]:
    """Samples from -1 to 1 of 16-bit little-endian mono PCM, as soon as they arrive.

    The header of a wav file before them, as `arecord` and `sox` write it, is skipped.

    Raises:
      ValueError: the header states another rate or something else than 16-bit mono PCM, or is that of another format.
    """
    start = file.read(12)
    if start[:4] == b"RIFF" and start[8:] == b"WAVE":
        _read_header(file, sampling_rate)
        start = b""
    else:
        start += file.read((_frame_bytes(start) or 10) - 10)  # up to the second header, if this is MP3
        require(
            (name := _format_of(start)) is None,
            f"the standard input is {name}, not samples: decode it by ffmpeg -i - -f s16le -ac 1 -ar {sampling_rate} -",
        )
    odd, block = b"", start or file.read1(BLOCK)
    while block:
        block = odd + block
        even = len(block) // 2 * 2
        yield np.frombuffer(block[:even], dtype="<i2") / np.float32(FULL_SCALE)
        odd, block = block[even:], file.read1(BLOCK)


def _format_of(start: bytes) -> str | None:
    """The format that a stream begins with; None for raw samples. MP3 without tags shows by two headers."""
    if start[4:8] == b"ftyp":
        return "MP4"
    for magic, name in FORMATS.items():
        if start.startswith(magic):
            return name
    length = _frame_bytes(start)
    is_mp3 = length is not None and start[length : length + 2] == start[:2]
    return "MP3" if is_mp3 else None


def _frame_bytes(start: bytes) -> int | None:
    """Bytes of the MP3 frame that a stream begins with; None if these are not the first bytes of one."""
    if len(start) < 4 or start[0] != 0xFF or start[1] & 0xE6 != 0xE2:  # synchronised, layer III
        return None
    version, kbits, rate = start[1] >> 3 & 3, start[2] >> 4, start[2] >> 2 & 3
    if version not in KBITS or not 1 <= kbits <= 14 or rate == 3:
        return None
    bits_per_second, padding = 1000 * KBITS[version][kbits - 1], start[2] >> 1 & 1
    return SAMPLES[version] // 8 * bits_per_second // RATES[version][rate] + padding


def _read_header(file: BufferedIOBase, sampling_rate: int) -> None:
    """Read on to the samples of a wav file.

    Source: Microsoft and IBM 1991, Multimedia Programming Interface and Data Specifications 1.0, WAVE form.
    """
    while len(chunk := file.read(8)) == 8 and chunk[:4] != b"data":
        (length,) = struct.unpack("<I", chunk[4:])
        body = file.read(length + length % 2)  # chunks begin at even places
        if chunk[:4] == b"fmt ":
            _, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16].ljust(16, b"\0"))
            require(
                (channels, bits) == (1, 16),
                f"the standard input has {channels} channels of {bits} bits: give one of 16 (arecord -f S16_LE -c 1)",
            )
            require(
                rate == sampling_rate, f"the standard input has {rate} Hz, not {sampling_rate}: --sampling-rate {rate}"
            )


def hear_microphone(sampling_rate: int) -> Iterator[np.ndarray]:
    """Samples from -1 to 1 of the system's microphone, without end.

    Raises:
      ValueError: no package for it, or no microphone.
    """
    require(
        importlib.util.find_spec("sounddevice") is not None,
        "the package sounddevice is not installed: pip install sounddevice, or give raw samples on the standard input "
        "(--live -)",
    )
    sounddevice = importlib.import_module("sounddevice")
    parts: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()

    def keep(samples: np.ndarray, *_: Any) -> None:
        parts.put(samples[:, 0].copy())

    try:
        with sounddevice.InputStream(samplerate=sampling_rate, channels=1, dtype="float32", callback=keep):
            while True:
                yield parts.get()
    except sounddevice.PortAudioError as error:
        raise ValueError(f"the microphone cannot be heard at {sampling_rate} Hz: {error}") from error


class Interruptible:
    """A context in which Ctrl-C ends the reading of audio, and a second Ctrl-C the recognition of what was read."""

    def __init__(self) -> None:
        self._came = self._is_reading = False

    def __enter__(self) -> Interruptible:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def read(self, source: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The parts of the source until its end or Ctrl-C."""
        parts = iter(source)
        while not self._came:
            try:
                self._is_reading = True
                part = next(parts)
            except (StopIteration, KeyboardInterrupt):
                return
            finally:
                self._is_reading = False
            yield part

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self._came = self._came, True
        if again or self._is_reading:
            raise KeyboardInterrupt


class LiveLines:
    """Prints final segments as lines and, on a terminal, the words of the current segment in the last line."""

    def __init__(self, out: TextIO, show: Callable[[Transcript], str]) -> None:
        """Print to `out`; `show` formats a final segment."""
        self._out, self._show = out, show
        self._is_terminal = out.isatty()
        self._partial = ""

    def final(self, transcript: Transcript) -> None:
        """Print a segment that has ended."""
        self.partial("")
        print(self._show(transcript), file=self._out, flush=True)

    def partial(self, text: str) -> None:
        """Show the words of the current segment, or the last of them if the line is too short."""
        if not self._is_terminal or text == self._partial:
            return
        self._partial = text
        width = shutil.get_terminal_size().columns - 1
        text = text[-width:]
        while display_width(text) > width:
            text = text[1:]
        self._out.write(f"{CLEAR}{DIM}{text}{PLAIN}" if text else CLEAR)
        self._out.flush()


def transcribe_live(stream: Stream, source: Iterable[np.ndarray], *, sampling_rate: int, lines: LiveLines) -> None:
    """Print what is said, the last words included, until the source ends or Ctrl-C is pressed."""

    def show() -> None:
        for segment in stream.pop_segments():
            lines.final(segment.transcript)
        lines.partial(stream.result.partial.text)

    with Interruptible() as reading:
        for samples in reading.read(source):
            stream.accept(samples, sampling_rate)
            show()
        stream.finish()
        show()
