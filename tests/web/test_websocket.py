"""The protocol: over real connections, and with clients that tests move by hand."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import Chunking
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.speech.audio import read_audio, write_wav
from shared_moe_conformer.streaming import EndedSegment
from shared_moe_conformer.web.streams import StreamHub
from tests.web.conftest import ask, serve_bundle, wait_until

websocket: Any = pytest.importorskip("shared_moe_conformer.web.connections", reason="fastapi is not installed")
wsproto: Any = pytest.importorskip("wsproto", reason="wsproto is not installed")
events: Any = pytest.importorskip("wsproto.events", reason="wsproto is not installed")

Save = Callable[..., Path]
CHUNKS = {"chunk_size": 8, "left_context": 16}
RATE = 16000


class Speaker:
    """A client over a real connection."""

    def __init__(self, url: str, path: str = "/stream", **headers: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._send(events.Request(host=f"{host}:{port}", target=path, extra_headers=extra))
        self._events = self._receive()
        self.answer = next(self._events)

    def send(self, message: bytes | str | np.ndarray) -> None:
        if isinstance(message, str):
            self._send(events.TextMessage(data=message))
        else:
            data = message if isinstance(message, bytes) else message.astype("<f4").tobytes()
            self._send(events.BytesMessage(data=data))

    def next_text(self) -> str:
        """The next message; a closed connection raises its code and reason."""
        text = ""
        for event in self._events:
            if isinstance(event, events.CloseConnection):
                raise ConnectionError(event.code, event.reason)
            text += event.data
            if event.message_finished:
                return text
        raise ConnectionError(None, None)

    def speak(self, samples: np.ndarray, *, seed: int = 0) -> list[dict[str, Any]]:
        """Say everything in parts of 0 to 0.4 seconds; all answers."""
        sizes = np.random.default_rng(seed).integers(0, 6400, size=1 + len(samples) // 3000)
        for part in np.split(samples, np.minimum(np.cumsum(sizes), len(samples))):
            self.send(part)
        self.send("Done")
        answers = list(iter(self.next_text, "Done!"))
        self.leave()
        return [json.loads(answer) for answer in answers]

    def refusal(self) -> tuple[str, int]:
        """The error that the server says, and the code with which it closes the connection with the same words."""
        while "error" not in (answer := json.loads(self.next_text())):
            pass
        with pytest.raises(ConnectionError) as closed:
            self.next_text()
        code, reason = closed.value.args
        assert answer["error"].startswith(reason) and len(reason) > 10
        self.leave()
        return answer["error"], code

    def leave(self) -> None:
        self._socket.close()

    def _send(self, event: Any) -> None:
        self._socket.sendall(self._connection.send(event))

    def _receive(self) -> Iterator[Any]:
        while data := self._socket.recv(1 << 16):
            self._connection.receive_data(data)
            yield from self._connection.events()


@pytest.fixture
def streaming(saved: Save, tiny_bundle: Bundle) -> Iterator[str]:
    with serve_bundle(tiny_bundle, saved(), **CHUNKS, max_streams=4) as url:
        yield url


def alone(bundle: Bundle, samples: np.ndarray) -> list[EndedSegment]:
    stream = bundle.stream(**CHUNKS)
    stream.accept(samples, RATE)
    stream.finish()
    return stream.pop_segments()


def check(answers: list[dict[str, Any]], expected: list[EndedSegment]) -> None:
    """The final answers are these segments, each after partial ones."""
    final = [answer for answer in answers if answer["is_final"] and answer["text"]]
    assert [answer["segment"] for answer in final] == list(range(len(expected)))
    for answer, (start, transcript) in zip(final, expected):
        assert answer["text"] == transcript.text
        assert answer["tokens"] == [token.replace("\u2581", " ") for token in transcript.tokens]
        times = np.array(answer["timestamps"]) + answer["start_time"]
        np.testing.assert_allclose(times, transcript.times, atol=2e-3)
        assert answer["start_time"] == pytest.approx(start, abs=1e-3)
        assert [w["text"] for w in answer["word_times"]] == [w.text for w in transcript.words]
        assert len(answer["ys_probs"]) == len(answer["tokens"]) and max(answer["ys_probs"]) <= 0
    assert [answer["is_eof"] for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert sum(not answer["is_final"] for answer in answers) > len(final)


def test_several_clients_at_once_find_what_each_would_alone(
    streaming: str, tiny_bundle: Bundle, tones: np.ndarray
) -> None:
    pause = np.zeros(3 * RATE, dtype=np.float32)
    recordings = [tones, np.concatenate([tones, pause, tones[5000:]]), tones[::-1].copy(), tones[3000:]]
    with ThreadPoolExecutor(4) as pool:
        speak = [pool.submit(Speaker(streaming).speak, samples, seed=i) for i, samples in enumerate(recordings)]
        for future, samples in zip(speak, recordings):
            check(future.result(), alone(tiny_bundle, samples))


def test_the_experts_of_each_frame_come_with_its_chunk_if_they_are_asked_for(
    streaming: str, tiny_bundle: Bundle, tones: np.ndarray
) -> None:
    speech = np.concatenate([tones, np.zeros(3 * RATE, dtype=np.float32), tones])
    found = [a["experts"] for a in Speaker(streaming, "/stream?experts=true").speak(speech) if "experts" in a]
    features = tiny_bundle.features(speech, RATE)
    encoded = tiny_bundle.model.encode(features[None], torch.tensor([len(features)]), Chunking(8, 16))
    assert torch.equal(torch.cat([torch.tensor(part["expert_ids"]) for part in found], 1), encoded.routing.expert_ids)
    assert [part["start"] for part in found] == [round(0.32 * i, 3) for i in range(len(found))]
    assert not any("experts" in answer for answer in Speaker(streaming).speak(tones))


def test_recordings_that_are_posted_meanwhile_disturb_nobody(
    streaming: str, tiny_bundle: Bundle, tones: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "zoo" / "tiny" / TEST_WAV

    def post(_: int) -> str:
        request = urllib.request.Request(f"{streaming}/transcribe", data=path.read_bytes())
        with urllib.request.urlopen(request, timeout=30) as answer:
            text: str = json.load(answer)["text"]
            return text

    with ThreadPoolExecutor(4) as pool:
        posted = pool.map(post, range(6))
        spoken = [pool.submit(Speaker(streaming).speak, np.tile(tones, 3), seed=i) for i in range(2)]
        expected = alone(tiny_bundle, np.tile(tones, 3))
        for future in spoken:
            check(future.result(), expected)
        assert set(posted) == {tiny_bundle.transcribe(path).text}


def test_sherpas_clients_connect_at_the_root_and_may_say_nothing(
    streaming: str, tiny_bundle: Bundle, tones: np.ndarray
) -> None:
    check(Speaker(streaming, "/").speak(tones), alone(tiny_bundle, tones))
    (answer,) = Speaker(streaming, "/").speak(tones[:0])
    assert (answer["text"], answer["is_final"], answer["is_eof"], answer["segment"]) == ("", True, True, 0)
    assert {"tokens", "timestamps", "ys_probs", "lm_probs", "context_scores", "words", "start_time"} <= answer.keys()


def test_sherpas_own_client_finds_the_words(
    streaming: str, tiny_bundle: Bundle, tones: np.ndarray, tmp_path: Path
) -> None:
    client = shutil.which("sherpa-onnx-online-websocket-client")
    if client is None:
        pytest.skip("no sherpa-onnx-online-websocket-client (pip install sherpa-onnx-bin)")
    write_wav(tmp_path / "a.wav", tones, sampling_rate=RATE)
    command = [client, "--server-ip=127.0.0.1", f"--server-port={streaming.rpartition(':')[2]}"]
    command += ["--samples-per-message=8000", "--seconds-per-message=0.05", str(tmp_path / "a.wav")]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=True)
    lines = [line for line in said.stdout.splitlines() if "OnMessage" in line]
    check(
        [json.loads(line[line.index("{") :]) for line in lines], alone(tiny_bundle, read_audio(tmp_path / "a.wav")[0])
    )


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (b"abc", 1007, "a message of 3 bytes: float32 samples have 4 bytes each"),
        (np.array([0.0, np.nan]), 1007, "there are infinite or undefined samples"),
        (np.array([0.0, -20000.0]), 1007, "there is a sample of 20000: send float32 from -1 to 1"),
        (bytes(4 * 16000 * 100 + 4), 1009, "a message of 6400004 bytes: send at most 100 seconds at once"),
        ("Stop", 1003, "the text 'Stop': send samples, and Done at the end"),
    ],
)
def test_garbage_ends_its_own_stream_alone(
    streaming: str, tiny_bundle: Bundle, tones: np.ndarray, message: Any, code: int, reason: str
) -> None:
    other, bad = Speaker(streaming), Speaker(streaming)
    other.send(tones[:9000])
    bad.send(tones)
    bad.send(message)
    said, closed = bad.refusal()
    assert said.startswith(reason) and closed == code
    check(other.speak(tones[9000:]), alone(tiny_bundle, tones))


def test_who_is_cut_off_restarts_or_sends_no_speech_disturbs_nobody(
    saved: Save, tiny_bundle: Bundle, tones: np.ndarray
) -> None:
    def cut_off(speaker: Speaker) -> None:
        """In the middle of a message."""
        speaker.send(tones)
        speaker._socket.sendall(speaker._connection.send(events.BytesMessage(data=bytes(64_000)))[:1000])
        speaker.leave()

    def restart(speaker: Speaker) -> None:
        for _ in range(3):
            speaker.send(tones)
            speaker.next_text()
            speaker.leave()
            speaker = Speaker(url)
        speaker.leave()

    def break_the_protocol(speaker: Speaker) -> None:
        speaker._socket.sendall(b"\xff" * 1000)
        speaker.leave()

    def speak_at_another_rate(speaker: Speaker) -> None:
        assert speaker.speak(np.repeat(tones, 3))[-1]["is_eof"]

    def be_silent_for_a_minute(speaker: Speaker) -> None:
        assert speaker.speak(np.zeros(60 * RATE))[-1]["is_eof"]

    def send_nothing(speaker: Speaker) -> None:
        assert speaker.refusal() == ("nothing came for 2 seconds", websocket.POLICY)

    others = [cut_off, restart, break_the_protocol, speak_at_another_rate, be_silent_for_a_minute, send_nothing]
    speech = np.tile(tones, 6)
    with (
        serve_bundle(tiny_bundle, saved(), **CHUNKS, idle_seconds=2) as url,
        ThreadPoolExecutor(len(others) + 2) as pool,
    ):
        spoken = [pool.submit(Speaker(url).speak, speech, seed=seed) for seed in range(2)]
        for done in [pool.submit(disturb, Speaker(url)) for disturb in others]:
            done.result(60)
        for future in spoken:
            check(future.result(60), alone(tiny_bundle, speech))
        wait_until(lambda: num_streams(url) == 0)


def test_beyond_a_bound_the_server_is_busy_until_somebody_leaves(saved: Save, tiny_bundle: Bundle) -> None:
    with serve_bundle(tiny_bundle, saved(), **CHUNKS, max_streams=1) as url:
        first = Speaker(url)
        first.send(np.zeros(RATE))
        first.next_text()
        assert Speaker(url).refusal() == (
            "busy: this server takes no more speakers now; try again later",
            websocket.TRY_LATER,
        )
        first.leave()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                assert Speaker(url).speak(np.zeros(RATE))[-1]["is_eof"]
                return
            except (ConnectionError, KeyError):
                time.sleep(0.1)
        pytest.fail("the stream of a client that left was not freed")


@pytest.mark.parametrize("seconds", [0.1, 90])
def test_a_client_that_leaves_frees_its_stream_whether_it_says_little_or_too_much(
    streaming: str, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Nothing is recognised of the one; the 280 chunks of the other would take 28 seconds."""
    step = tiny_bundle.model.encoder.step
    monkeypatch.setattr(tiny_bundle.model.encoder, "step", lambda *chunks: (time.sleep(0.1), step(*chunks))[1])
    speaker = Speaker(streaming)
    speaker.send(np.zeros(round(seconds * RATE)))
    if seconds > 1:
        speaker.next_text()
    wait_until(lambda: num_streams(streaming) == 1)
    speaker.leave()
    wait_until(lambda: num_streams(streaming) == 0)


def num_streams(url: str) -> int:
    number: int = ask(f"{url}/health").json["streams"]
    return number


def test_who_says_nothing_is_disconnected(saved: Save, tiny_bundle: Bundle, tones: np.ndarray) -> None:
    with serve_bundle(tiny_bundle, saved(), **CHUNKS, idle_seconds=0.5) as url:
        silent = Speaker(url)
        silent.send(tones)
        assert silent.refusal() == ("nothing came for 0.5 seconds", websocket.POLICY)
        check(Speaker(url).speak(tones), alone(tiny_bundle, tones))


class Connection:
    """A connection to a client that says all at once, does not leave, and perhaps reads nothing."""

    headers: dict[str, str] = {}
    query_params: dict[str, str] = {}

    def __init__(self, *messages: dict[str, Any], reads: bool = True) -> None:
        self._messages, self._reads = list(messages), reads
        self.sent: list[str] = []
        self.closed: tuple[Any, ...] | None = None

    async def accept(self) -> None: ...

    async def receive(self) -> dict[str, Any]:
        return self._messages.pop(0) if self._messages else await asyncio.Future()

    async def send_text(self, text: str) -> None:
        await asyncio.sleep(0 if self._reads else 100)
        self.sent.append(text)

    async def close(self, *args: Any) -> None:
        self.closed = args


DONE = {"type": "websocket.receive", "text": "Done"}


def converse(bundle: Bundle, connection: Connection, *, seconds_of_recognition: float = 0.0) -> None:
    """Serve a client that may be idle for 0.1 seconds."""

    async def serve() -> None:
        hub = StreamHub(bundle.recognizer(**CHUNKS), max_streams=1)
        asyncio.get_running_loop().call_later(
            seconds_of_recognition, lambda: workers.append(asyncio.create_task(hub.run()))
        )
        await websocket.serve_stream(connection, hub, hosts=[], idle_seconds=0.1)
        assert hub.num_streams == 0
        workers[0].cancel()

    workers: list[asyncio.Task[None]] = []
    asyncio.run(asyncio.wait_for(serve(), 20))


def test_who_has_said_everything_may_wait_for_the_words_and_is_then_disconnected(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "FAREWELL", 0.05)
    connection = Connection(DONE)
    converse(tiny_bundle, connection, seconds_of_recognition=0.4)
    assert connection.sent[-1] == "Done!" and connection.closed == ()


def test_who_reads_nothing_is_disconnected(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "FAREWELL", 0.05)
    connection = Connection(DONE, reads=False)
    converse(tiny_bundle, connection)
    assert connection.sent == []


def test_a_model_that_was_not_trained_to_stream_says_so(served: str) -> None:
    said, _ = Speaker(served).refusal()
    assert said.startswith("tiny was not trained to stream")


def test_a_chunk_size_that_cannot_be_is_refused_at_the_start(saved: Save, tiny_bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="chunk_size is -1"), serve_bundle(tiny_bundle, saved(), chunk_size=-1):
        pass


def test_who_speaks_is_told_when_the_server_ends(saved: Save, tiny_bundle: Bundle, tones: np.ndarray) -> None:
    with serve_bundle(tiny_bundle, saved(), **CHUNKS) as url:
        speaker = Speaker(url)
        speaker.send(tones)
        speaker.next_text()
    with pytest.raises(ConnectionError) as closed:
        while True:
            speaker.next_text()
    assert closed.value.args[0] == 1012, "service restart"
    speaker.leave()


def test_pages_from_elsewhere_may_not_connect(streaming: str) -> None:
    for origin in ("https://evil.example", "https://localhost.evil.example", "null", "http://["):
        assert Speaker(streaming, origin=origin).answer.status_code == 403
    assert isinstance(Speaker(streaming, origin="http://localhost:6006").answer, events.AcceptConnection)
    assert websocket.may_connect("http://[::1]:8000", ["[::1]"])
    assert websocket.may_connect("https://speech.example", ["*"])


def test_a_client_that_sends_faster_than_it_is_recognised_waits(
    streaming: str, tiny_bundle: Bundle, tones: np.ndarray
) -> None:
    long = np.tile(tones, 12)
    speaker = Speaker(streaming)
    speaker.send(long)
    answers = speaker.speak(long[:0])
    check(answers, alone(tiny_bundle, long))


def test_an_error_of_the_recogniser_is_said_to_the_clients_and_outlived(
    saved: Save, tiny_bundle: Bundle, tones: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_bundle(tiny_bundle, saved(), **CHUNKS) as url:
        with monkeypatch.context() as patch:
            patch.setattr(type(tiny_bundle.model.encoder), "step", lambda *_: 1 / 0)
            speaker = Speaker(url)
            speaker.send(tones)
            said, code = speaker.refusal()
            assert said == "the audio cannot be recognised: the program's log says why"
            assert code == websocket.BROKEN
        check(Speaker(url).speak(tones), alone(tiny_bundle, tones))
