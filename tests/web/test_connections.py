"""Clients that are hostile or cut off, over real connections."""

from __future__ import annotations

import contextlib
import gc
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from shared_moe_conformer.bundle import Bundle
from tests.web.conftest import serve_bundle, wait_until
from tests.web.test_websocket import CHUNKS, Save, Speaker, alone, check, num_streams


@pytest.fixture
def streaming(saved: Save, tiny_bundle: Bundle) -> Iterator[str]:
    with serve_bundle(tiny_bundle, saved(), **CHUNKS) as url:
        yield url


class Raw:
    """A client that sends what it likes, and reads nothing unless it is told to."""

    def __init__(self, url: str, begin: bytes = b"") -> None:
        host, port = url.removeprefix("http://").split(":")
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(20)
        self._socket.connect((host, int(port)))
        self._socket.sendall(begin)

    def upgrade(self) -> Raw:
        """Become a WebSocket."""
        self._socket.sendall(REQUEST + b"\r\n")
        assert self._socket.recv(4096).startswith(b"HTTP/1.1 101 ")
        return self

    def send(self, data: bytes, *, times: int = 1) -> None:
        """Send the same again and again, until the server closes the connection."""
        with contextlib.suppress(ConnectionError):
            for _ in range(times):
                self._socket.sendall(data)

    def rest(self) -> bytes:
        """What comes until the server closes the connection, or says that it does."""
        found = b""
        while b"\x88" not in found and (part := self._socket.recv(1 << 16)):
            found += part
        self.leave()
        return found

    def leave(self) -> None:
        self._socket.close()


REQUEST = (
    b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)
CONTINUED, BINARY, PING = 0x00, 0x82, 0x89


def frame(kind: int, payload: bytes, *, length: int | None = None) -> bytes:
    """A masked frame; `length` is what it says of itself, if that is a lie. Source: RFC 6455, section 5.2."""
    length = len(payload) if length is None else length
    size = bytes([0x80 | length]) if length < 126 else b"\xff" + length.to_bytes(8, "big")
    return bytes([kind]) + size + bytes(4) + payload


def test_hostile_clients_and_half_open_connections_disturb_nobody(
    saved: Save, tiny_bundle: Bundle, tones: np.ndarray
) -> None:
    def send_single_samples() -> None:
        client = Raw(url).upgrade()
        client.send(frame(BINARY, bytes(4)) * 5000, times=8)
        client.leave()

    def never_end_a_message() -> None:
        client = Raw(url).upgrade()
        client.send(frame(0x02, bytes(90_000)))
        client.send(frame(CONTINUED, bytes(90_000)), times=300)
        client.leave()

    def announce_a_huge_frame() -> None:
        client = Raw(url).upgrade()
        client.send(frame(BINARY, bytes(90_000), length=2**62), times=300)
        client.leave()

    def send_noise() -> None:
        for seed in range(20):
            client = Raw(url).upgrade()
            client.send(np.random.default_rng(seed).bytes(3000))
            client.leave()

    def be_half_open() -> None:
        """Say nothing, or stop in the middle of a request, of a frame's head, or of a message."""
        silent = [Raw(url) for _ in range(20)] + [Raw(url, REQUEST) for _ in range(20)]
        begun = [Raw(url).upgrade() for _ in range(2)]
        for client, part in zip(begun, (b"\x82", frame(BINARY, bytes(50), length=100))):
            client.send(part)
        assert {client.rest() for client in silent} == {b""}
        assert all(b"nothing came for 1 seconds" in client.rest() for client in begun)

    attacks = [send_single_samples, never_end_a_message, announce_a_huge_frame, send_noise, be_half_open]
    speech = np.tile(tones, 6)
    with (
        serve_bundle(tiny_bundle, saved(), **CHUNKS, idle_seconds=1, max_streams=100) as url,
        ThreadPoolExecutor(len(attacks) + 2) as pool,
    ):
        spoken = [pool.submit(Speaker(url).speak, speech, seed=seed) for seed in range(2)]
        for done in [pool.submit(attack) for attack in attacks]:
            done.result(60)
        for future in spoken:
            check(future.result(60), alone(tiny_bundle, speech))
        wait_until(lambda: num_streams(url) == 0)


def test_a_flood_of_pings_whose_answers_nobody_reads_takes_neither_memory_nor_the_others_turns(
    streaming: str,
) -> None:
    protocol: Any = pytest.importorskip("uvicorn.protocols.websockets.wsproto_impl").WSProtocol
    client, waited = Raw(streaming).upgrade(), []

    def flood() -> None:
        client.send(frame(PING, bytes(100)) * 1000, times=60)
        client.send(frame(PING, b"") * 10_000, times=4)

    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood)
        while not flooding.done():
            begin = time.monotonic()
            num_streams(streaming)
            waited.append(time.monotonic() - begin)
            time.sleep(0.01)
    connections = [found for found in gc.get_objects() if issubclass(type(found), protocol) and not found.disconnected]
    assert max(found.transport.get_write_buffer_size() for found in connections) < 200_000 and max(waited) < 1
    client.leave()


def test_connections_do_not_take_all_files(
    streaming: str, tiny_bundle: Bundle, tones: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (40, 40))
    speaker = Speaker(streaming)
    clients = [Raw(streaming) for _ in range(60)]
    assert {client.rest() for client in clients[30:]} == {b""}
    check(speaker.speak(tones), alone(tiny_bundle, tones))
    for client in clients:
        client.leave()


def test_messages_are_not_compressed(streaming: str) -> None:
    """A small one might become gigabytes."""
    client = Raw(streaming, REQUEST + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
    answer = client._socket.recv(4096).lower()
    assert answer.startswith(b"http/1.1 101 ") and b"deflate" not in answer
    client.leave()
