from __future__ import annotations

import http.client
import re
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.data.distortions import Setting, music
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.speech.audio import read_audio, write_wav
from tests.web.conftest import ask, post_form, serve_bundle, wait_until

app: Any = pytest.importorskip("shared_moe_conformer.web.app", reason="fastapi is not installed")
pytest.importorskip("uvicorn")
recognise = app.recognise
Save = Callable[..., Path]
MEMO = struct.pack(">I", 24) + b"ftypM4A \0\0\2\0M4A isom" + bytes(100)
"""The beginning of an m4a file."""


def test_a_posted_recording_comes_back_as_words(served: str, tmp_path: Path, tiny_bundle: Bundle) -> None:
    path = tmp_path / "zoo" / "tiny" / TEST_WAV
    found = ask(f"{served}/transcribe?name=a.wav", path.read_bytes())
    assert found.status == 200
    assert found.json["text"] == tiny_bundle.transcribe(path).text
    assert ask(f"{served}/example.wav")[:2] == (200, path.read_bytes())
    described = ask(f"{served}/model").json
    assert (described["name"], described["unique_parameters"], described["max_bytes"]) == ("tiny", 1000, 1_000_000)


def test_several_at_once_are_recognised_one_after_the_other(served: str, tmp_path: Path) -> None:
    body = (tmp_path / "zoo" / "tiny" / TEST_WAV).read_bytes()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(f"{served}/transcribe", body), range(4)))
    assert [answer.body for answer in answers] == [answers[0].body] * 4
    assert answers[0].status == 200


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"not audio", 400, "<b>a.wav cannot be read as audio"),
        (b"", 400, "<b>a.wav is empty"),
        (bytes(1_000_000), 400, "<b>a.wav cannot be read as audio"),
        (bytes(1_000_001), 413, "more than 1 MB"),
    ],
)
def test_what_cannot_be_taken_is_said_in_one_line(served: str, body: bytes, status: int, message: str) -> None:
    found = ask(f"{served}/transcribe?name=%3Cb%3Ea.wav", body)
    error: str = found.json["error"]
    assert found.status == status
    assert message in error
    assert "\n" not in error and tempfile.gettempdir() not in error


def test_an_upload_without_a_length_is_limited_too(served: str) -> None:
    connection = http.client.HTTPConnection(served.removeprefix("http://"), timeout=30)
    connection.request("POST", "/transcribe", body=(bytes(100_000) for _ in range(11)), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_programs_that_watch_the_server_ask_for_heads(served: str) -> None:
    for path in ("/", "/health", "/model", "/example.wav"):
        with urllib.request.urlopen(urllib.request.Request(f"{served}{path}", method="HEAD")) as answer:
            assert answer.status == 200 and answer.read() == b"", path


def test_only_local_names_lead_here(served: str) -> None:
    port = served.rpartition(":")[2]
    assert ask(served, Host=f"localhost:{port}").status == 200
    assert ask(served, Host="evil.example").status == 400


def test_the_page_may_load_nothing_from_elsewhere(served: str) -> None:
    with urllib.request.urlopen(served) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy and "unsafe" not in policy


@pytest.mark.parametrize("path", ["docs", "redoc", "openapi.json", "..%2f..%2fetc%2fpasswd", "bundle.json"])
def test_nothing_else_is_served(served: str, path: str) -> None:
    assert ask(f"{served}/{path}").status == 404


class Gate:
    """Recognises nothing until it is opened; `begun` are the names of what it was asked to recognise."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._open = threading.Event()

    def recognise(self, bundle: Bundle, path: Path, *, name: str, vad: bool) -> dict[str, Any]:
        self.begun.append(name)
        assert self._open.wait(30)
        return {"name": name, "text": "", "seconds": 1.0}

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(app, "recognise", gate.recognise)
    yield gate
    gate.open()


def waiting(url: str) -> int:
    number: int = ask(f"{url}/health").json["waiting"]
    return number


def test_beyond_a_bound_an_upload_is_told_when_to_come_again(saved: Save, tiny_bundle: Bundle, gate: Gate) -> None:
    with serve_bundle(tiny_bundle, saved(), max_waiting=2) as url, ThreadPoolExecutor(3) as pool:
        assert ask(f"{url}/health").json == {"status": "ok", "model": "tiny", "waiting": 0, "streams": 0}
        taken = []
        for name in "abc":
            taken.append(pool.submit(ask, f"{url}/transcribe?name={name}", b"speech"))
            wait_until(lambda: gate.begun == ["a"] and waiting(url) == len(taken) - 1)
        assert ask(f"{url}/health").json["status"] == "busy"
        for refused in (ask(f"{url}/transcribe", bytes(900_000)), post_form(url, ("d.wav", b"speech"))):
            assert refused.status == 503 and int(refused.headers["Retry-After"]) >= 1
            said = f"busy: 2 recordings waiting, and no other may wait; try again in {refused.headers['Retry-After']} s"
            assert refused.json == {"error": said}
        gate.open()
        assert [future.result().json["name"] for future in taken] == gate.begun == ["a", "b", "c"]
        assert ask(f"{url}/transcribe?name=d", b"speech").status == 200


def test_at_its_end_the_server_answers_what_is_recognised_and_refuses_what_waits(
    saved: Save, tiny_bundle: Bundle, gate: Gate
) -> None:
    with ThreadPoolExecutor(3) as pool, ExitStack() as server:
        url = server.enter_context(serve_bundle(tiny_bundle, saved()))
        first = pool.submit(ask, f"{url}/transcribe?name=first", b"speech")
        wait_until(lambda: gate.begun)
        second = pool.submit(ask, f"{url}/transcribe?name=second", b"speech")
        wait_until(lambda: waiting(url) == 1)
        ended = pool.submit(server.pop_all().close)
        refused = second.result(20)
        assert (refused.status, refused.json) == (503, {"error": "the server ends: the recording was not recognised"})
        assert not first.done() and not ended.done()
        gate.open()
        assert first.result(20).status == 200 and gate.begun == ["first"]
        ended.result(20)


def test_a_client_that_leaves_is_not_recognised(saved: Save, tiny_bundle: Bundle, gate: Gate) -> None:
    with serve_bundle(tiny_bundle, saved(), max_waiting=1) as url, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, f"{url}/transcribe?name=first", b"speech")
        wait_until(lambda: gate.begun)
        with posting(url, b"speech", name="left"):
            wait_until(lambda: waiting(url) == 1)
        wait_until(lambda: waiting(url) == 0)
        last = pool.submit(ask, f"{url}/transcribe?name=last", b"speech")
        wait_until(lambda: waiting(url) == 1)
        gate.open()
        assert (first.result().status, last.result().status) == (200, 200)
        assert gate.begun == ["first", "last"]


def test_a_client_that_leaves_while_it_uploads_takes_no_place(saved: Save, tiny_bundle: Bundle, gate: Gate) -> None:
    with serve_bundle(tiny_bundle, saved(), max_waiting=0) as url:
        with posting(url, b"speech", name="left", length=1000):
            assert ask(f"{url}/health").json["status"] == "ok"
        gate.open()
        assert ask(f"{url}/transcribe?name=last", b"speech").status == 200
        assert gate.begun == ["last"]


def test_who_uploads_too_slowly_is_told_so(saved: Save, tiny_bundle: Bundle) -> None:
    with serve_bundle(tiny_bundle, saved(), idle_seconds=0.2) as url:
        with posting(url, b"speech", name="slow", length=1000) as connection:
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 408") and b"nothing came for 0.2 seconds" in answer


@contextmanager
def posting(url: str, body: bytes, *, name: str, length: int | None = None) -> Iterator[socket.socket]:
    """A connection over which a body has gone, perhaps the first part of one; it is cut when the block ends."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /transcribe?name={name} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length or len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        yield connection


def test_large_bodies_are_refused_before_they_are_sent_if_the_client_asks(served: str) -> None:
    host, port = served.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /transcribe HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000001\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413")


@pytest.fixture(scope="module")
def an4_served(an4: Bundle) -> Iterator[str]:
    assert an4.folder
    with serve_bundle(an4, an4.folder, max_bytes=5_000_000, max_waiting=60) as url:
        yield url


def test_the_released_model_is_served(an4_served: str, an4: Bundle) -> None:
    assert an4.folder
    recording = (an4.folder / TEST_WAV).read_bytes()
    assert ask(f"{an4_served}/transcribe", recording).json["text"] == "L K K N THIRTY EIGHT"
    assert ask(f"{an4_served}/health").json == {"status": "ok", "model": "an4-base", "waiting": 0, "streams": 0}


def test_an_upload_is_recognised_where_somebody_speaks(an4: Bundle, tmp_path: Path) -> None:
    assert an4.folder
    speech, rate = read_audio(an4.folder / TEST_WAV)
    made = music(6 * rate, Setting(rate, np.random.default_rng(6), lambda: speech))
    write_wav(tmp_path / "a.wav", np.concatenate([made * 2 * speech.std() / made.std(), speech]), sampling_rate=rate)
    words = []
    for vad in (False, True):
        answer = app._answer(an4, app.Upload(tmp_path / "a.wav", "a.wav"), vad=vad)
        words.append(len(answer["words"]))
        assert answer["text"].endswith("L K K N THIRTY EIGHT")
    assert words[1] < words[0]


def test_pages_answer_at_once_while_recordings_are_recognised(
    an4_served: str, an4: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More clients wait than the web server has threads."""
    assert an4.folder
    recording, is_measured, seconds = (an4.folder / TEST_WAV).read_bytes(), threading.Event(), []

    def recognise_until_all_is_measured(*args: Any, **options: Any) -> dict[str, Any]:
        while not is_measured.is_set():
            recognise(*args, **options)
        return recognise(*args, **options)

    monkeypatch.setattr(app, "recognise", recognise_until_all_is_measured)
    with ThreadPoolExecutor(1) as pool, ExitStack() as others:
        others.callback(is_measured.set)
        posted = pool.submit(ask, f"{an4_served}/transcribe", recording)
        for _ in range(45):
            others.enter_context(posting(an4_served, recording, name="a.wav"))
        wait_until(lambda: waiting(an4_served) == 45)
        for path in ("health", "", "example.wav", "model") * 5:
            begin = time.perf_counter()
            assert ask(f"{an4_served}/{path}").status == 200
            seconds.append(time.perf_counter() - begin)
        others.close()
        assert posted.result().json["text"] == "L K K N THIRTY EIGHT"
    assert statistics.median(seconds) < 0.1 and max(seconds) < 2.0


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("webm", "libopus")])
def test_what_browsers_record_is_recognised(
    an4_served: str, an4: Bundle, tmp_path: Path, suffix: str, codec: str
) -> None:
    av = pytest.importorskip("av")
    assert an4.folder
    samples, sampling_rate = read_audio(an4.folder / TEST_WAV)
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = sampling_rate
        for part in [*av.AudioResampler(format="fltp", layout="mono", rate=48_000).resample(frame), None]:
            for packet in stream.encode(part):
                container.mux(packet)
    assert ask(f"{an4_served}/transcribe", path.read_bytes()).json["text"] == "L K K N THIRTY EIGHT"


def test_where_nothing_decodes_what_browsers_record_the_server_says_what_to_do(
    served: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "av", None)
    found = ask(f"{served}/transcribe?name=memo.m4a", MEMO)
    assert found.status == 400
    assert "\n" not in found.json["error"]
    assert re.search(r"^memo\.m4a cannot be read as audio: .*install ffmpeg or pip install av", found.json["error"])
