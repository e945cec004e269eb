"""Streams: how many people one core can listen to at once, and how long they wait for their words.

    python -m benchmarks.streams --model zoo/NAME [--audio recordings/]

The server runs in a process of its own, with one thread on one core; people speak to it over the loopback at the pace
of speech, from this process on the other cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.speakers import RATE, Delays, Heard, speak, speak_together
from benchmarks.tables import Report, Table, plain, to_json
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.cli import run_main
from shared_moe_conformer.config import ENCODER_FRAME_SHIFT, require
from shared_moe_conformer.data.features import resample
from shared_moe_conformer.device import tune_cpu
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.speech.audio import read_audio
from shared_moe_conformer.speech.files import find_audio

PAUSE = 1.8
"""Seconds of silence between recordings, in which a segment ends."""
STAGGER = 2.0
"""Seconds within which people begin, so that their chunks do not come together."""
BATCHES = (1, 8, 32)
"""Numbers of streams whose real-time factor is measured."""


class Sizes(NamedTuple):
    """How much is measured."""

    chunk_sizes: list[int]
    alone: float
    """Seconds of one person's speech."""
    together: float
    """Seconds of each one's speech where many speak."""
    most: int
    """People at once at most."""
    memory: float
    """Seconds of the speech during which the server's memory is looked at."""


class Server(NamedTuple):
    """A server that listens."""

    address: tuple[str, int]
    """Host and port."""
    process: int
    """Its number."""


QUICK = Sizes([8], alone=4.0, together=3.0, most=2, memory=10.0)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a released model that was trained to stream")
    parser.add_argument("--audio", nargs="*", default=[], help="recordings or folders [the model's test recording]")
    parser.add_argument(
        "--chunk-sizes", type=int, nargs="*", default=[4, 8, 16, 32], help="in encoder frames of 40 ms [4 8 16 32]"
    )
    parser.add_argument("--alone", type=float, default=60.0, help="seconds of one person's speech [60]")
    parser.add_argument("--together", type=float, default=15.0, help="seconds where many speak [15]")
    parser.add_argument("--most", type=int, default=512, help="people at once at most [512]")
    parser.add_argument("--memory", type=float, default=3600.0, help="seconds of the speech whose memory counts [3600]")
    parser.add_argument(
        "--delay", type=float, default=0.5, help="seconds within which half of the words must be shown [0.5]"
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds, one chunk size: does it run?")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    run_main(lambda: _main(args))


def _main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else Sizes(args.chunk_sizes, args.alone, args.together, args.most, args.memory)
    tune_cpu(1)
    report = measure(Path(args.model), args.audio, sizes, delay=args.delay)
    for table in report.tables:
        print(f"\n{plain(table)}")
    if args.json:
        args.json.write_text(to_json(report))


def measure(model: Path, audio: Sequence[str], sizes: Sizes, *, delay: float) -> Report:
    """All tables.

    Args:
      model: the folder of a bundle.
      audio: files or folders; none: the bundle's test recording.
      sizes: how much.
      delay: seconds within which half of the words must be shown.
    """
    recordings = [samples_of(Path(name)) for name in find_audio(audio or [str(model / TEST_WAV)])]
    factors, alone, together = [], [], []
    for chunk_size in sizes.chunk_sizes:
        milliseconds = round(1000 * ENCODER_FRAME_SHIFT * chunk_size)
        speech = said(recordings, seconds=sizes.alone)
        factors.append([milliseconds, *real_time_factors(Bundle.load(model), chunk_size, speech)])
        with served(model, chunk_size) as server:
            alone.append([milliseconds, *row_of(delays(server.address, [speech]))])
            most, rows = streams_held(server.address, recordings, sizes, delay=delay)
            together += [[milliseconds, most, *row] for row in rows]
    memory = memory_of_a_stream(model, sizes.chunk_sizes[-1], said(recordings, seconds=sizes.memory))
    columns = ["chunk, ms", "first word after its beginning, ms", "word after its end, ms", "9 of 10 words within, ms"]
    columns += ["final after the last word's end, ms", "shown words that grow", "that change"]
    return Report(
        [
            Table("Real-time factor, one thread", ["chunk, ms", *(f"batch of {n}" for n in BATCHES)], factors),
            Table("One person, over the server", columns, alone),
            Table(
                f"People at once, half of the words within {1000 * delay:g} ms, server on one core",
                ["chunk, ms", "held", "tried", "word after its end, ms", "9 of 10 words within, ms"],
                together,
            ),
            Table("Memory of the server, one stream as fast as it goes", ["minutes of speech", "MiB"], memory),
        ],
        [],
    )


def samples_of(path: Path) -> np.ndarray:
    """A recording at the server's rate, (num_samples,)."""
    samples, rate = read_audio(path)
    return resample(samples, rate, RATE)


def said(recordings: Sequence[np.ndarray], *, seconds: float, first: int = 0) -> np.ndarray:
    """Recordings one after the other, with pauses, from one of them on and over again, until they last so long."""
    pause, parts, length = np.zeros(round(PAUSE * RATE), dtype=np.float32), [], 0
    for number in itertools.count(first):
        parts += [recordings[number % len(recordings)], pause]
        length += len(parts[-2]) + len(pause)
        if length >= seconds * RATE:
            return np.concatenate(parts)
    raise AssertionError("unreachable")


def real_time_factors(bundle: Bundle, chunk_size: int, speech: np.ndarray) -> list[float]:
    """CPU seconds for a second of audio, of a stream alone and of streams in batches."""
    factors = []
    for number in BATCHES:
        recognizer = bundle.recognizer(chunk_size=chunk_size)
        streams = [recognizer.stream() for _ in range(number)]
        begin = time.process_time()
        for first in range(0, len(speech), RATE):
            for stream in streams:
                stream.add(speech[first : first + RATE], RATE)
            recognizer.advance(streams)
            for stream in streams:
                stream.pop_segments()
        factors.append((time.process_time() - begin) / (number * len(speech) / RATE))
    return factors


@contextlib.contextmanager
def served(model: Path, chunk_size: int) -> Iterator[Server]:
    """A server with one thread on one core, which listens while the block runs."""
    core = max(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "shared_moe_conformer.serve", "--model", str(model), "--port", "0"]
    command += ["--chunk-size", str(chunk_size), "--max-streams", "100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    ) as server:
        try:
            assert server.stdout
            said = server.stdout.readline()
            require(said.startswith("http://"), "the server did not start: its message is above")
            yield Server(("127.0.0.1", int(said.split()[0].rpartition(":")[2])), server.pid)
        finally:
            server.terminate()


def memory_of_a_stream(model: Path, chunk_size: int, speech: np.ndarray) -> list[list[Any]]:
    """Minutes of speech so far and the MiB that the server holds then, in ten steps."""
    rows: list[list[Any]] = []
    seconds = len(speech) / RATE

    def note(heard: Heard) -> None:
        if heard.message["start_time"] >= seconds * len(rows) / 10 or heard.message["is_eof"]:
            rows.append([heard.message["start_time"] / 60, resident_mib(server.process)])

    with served(model, chunk_size) as server:
        asyncio.run(speak(*server.address, speech, pace=math.inf, note=note))
    return rows


def resident_mib(process: int) -> float:
    """Memory of a process that is in RAM, in MiB. Source: Linux, proc_pid_statm(5)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def delays(address: tuple[str, int], speeches: Sequence[np.ndarray]) -> Delays:
    """How late the words are of people who speak at once."""
    found = Delays()
    for heard in asyncio.run(speak_together(*address, speeches, within=STAGGER)):
        found.add(heard)
    require(found.word != [], "the model finds no word in the recordings: give others with --audio")
    return found


def row_of(found: Delays) -> list[Any]:
    """Milliseconds and shares, as in the table of one person."""
    median = [1000 * statistics.median(times) for times in (found.first_word, found.word, found.final)]
    shares = [count / max(found.num_shown, 1) for count in (found.num_grown, found.num_changed)]
    return [median[0], median[1], 1000 * nine_tenths(found.word), median[2], *shares]


def nine_tenths(values: Sequence[float]) -> float:
    """The value that nine tenths do not exceed."""
    return float(np.quantile(values, 0.9))


def streams_held(
    address: tuple[str, int], recordings: Sequence[np.ndarray], sizes: Sizes, *, delay: float
) -> tuple[int, list[list[Any]]]:
    """The largest number of people, to a tenth, whose words are not late, and a row for each number that was tried."""
    rows: list[list[Any]] = []

    def is_held(number: int) -> bool:
        speeches = [said(recordings, seconds=sizes.together, first=3 * i) for i in range(number)]
        found = delays(address, speeches)
        rows.append([number, 1000 * statistics.median(found.word), 1000 * nine_tenths(found.word)])
        return statistics.median(found.word) <= delay

    low, high = 0, 1
    while high <= sizes.most and is_held(high):
        low, high = high, 2 * high
    high = min(high, sizes.most + 1)
    while high - low > max(1, low // 10):
        middle = (low + high) // 2
        low, high = (middle, high) if is_held(middle) else (low, middle)
    return low, sorted(rows)


if __name__ == "__main__":
    main()
