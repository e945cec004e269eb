from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wsproto", reason="wsproto is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")

from benchmarks import streams
from benchmarks.speakers import RATE, Delays, Heard, speak
from shared_moe_conformer.bundle import Bundle
from tests.web.conftest import serve_bundle


def heard(
    seconds: float, words: list[tuple[str, float, float]], *, is_final: bool = False, start: float = 0.0
) -> Heard:
    times = [{"text": text, "start": begin, "end": end} for text, begin, end in words]
    return Heard(seconds, {"start_time": start, "word_times": times, "is_final": is_final})


def test_delays_count_from_the_words_times() -> None:
    found = Delays()
    found.add(
        [
            heard(1.0, []),
            heard(1.5, [("THIR", 1.0, 1.2)]),
            heard(2.0, [("THIRTY", 1.0, 1.4), ("TEN", 1.5, 1.7)]),
            heard(2.5, [("THIRTY", 1.0, 1.4), ("EIGHT", 1.5, 1.9)]),
            heard(4.0, [("THIRTY", 1.0, 1.4), ("EIGHT", 1.5, 1.9)], is_final=True),
            heard(5.0, [], is_final=True),
            heard(14.0, [("A", 2.0, 2.5)], start=10.0, is_final=True),
        ]
    )
    assert found.first_word == pytest.approx([0.5, 2.0])
    assert found.word == pytest.approx([0.6, 0.6, 1.5])
    assert found.final == pytest.approx([2.1, 1.5])
    assert (found.num_shown, found.num_grown, found.num_changed) == (4, 1, 1)
    assert streams.row_of(found) == pytest.approx([1250, 600, 1320, 1800, 0.25, 0.25])


def test_the_number_that_is_held_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def delays(address: Any, speeches: list[np.ndarray]) -> Delays:
        tried.append(len(speeches))
        return Delays(word=[0.1 if len(speeches) <= held else 2.0])

    monkeypatch.setattr(streams, "delays", delays)
    sizes = streams.Sizes([8], alone=1, together=1, most=100, memory=1)
    for held, expected in ((0, 0), (1, 1), (5, 5), (44, 44), (1000, 100)):
        low, rows = streams.streams_held(("", 0), [np.zeros(RATE)], sizes, delay=0.5)
        assert expected * 0.9 <= low <= expected and max(tried) <= 2 * max(held, 1)
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_speakers_hear_what_the_model_finds_at_the_pace_of_speech(
    tiny_bundle: Bundle, tones: np.ndarray, tmp_path: Path
) -> None:
    with serve_bundle(tiny_bundle, tmp_path, chunk_size=8, left_context=16) as url:
        answers = asyncio.run(speak("127.0.0.1", int(url.rpartition(":")[2]), tones))
        stream = tiny_bundle.stream(chunk_size=8, left_context=16)
    stream.accept(tones, RATE)
    assert [a.message["text"] for a in answers if a.message["is_final"]] == [stream.finish().text]
    assert answers[0].seconds >= 0.36 and answers[-1].seconds >= 2.0 and len(answers) >= 5


@pytest.mark.slow
def test_the_benchmark_measures_what_its_columns_say(
    saved: Callable[..., Path], tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a server in this process."""
    folder = saved()

    @contextlib.contextmanager
    def served(model: Path, chunk_size: int) -> Iterator[streams.Server]:
        assert model == folder
        with serve_bundle(tiny_bundle, model, chunk_size=chunk_size) as url:
            yield streams.Server(("127.0.0.1", int(url.rpartition(":")[2])), os.getpid())

    for name, value in (("served", served), ("PAUSE", 0.1), ("STAGGER", 0.5)):
        monkeypatch.setattr(streams, name, value)
    report = streams.measure(folder, [], streams.QUICK._replace(alone=1.0, together=1.0, memory=10.0), delay=60.0)
    for table in report.tables:
        assert table.rows and {len(row) for row in table.rows} == {len(table.columns)}
    assert [row[:3] for row in report.tables[2].rows] == [[320, 2, 1], [320, 2, 2]]
    minutes, mib = zip(*report.tables[3].rows)
    assert minutes[0] < minutes[-1] <= 13 / 60 and min(mib) > 50
