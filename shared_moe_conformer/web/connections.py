"""Connections to clients: the protocol of live recognition over WebSockets, and bounds on clients that are hostile.

The protocol is that of sherpa-onnx's streaming servers, so its clients work unchanged. The client sends float32
little-endian samples at 16 kHz, mono, in binary messages of any length, and the text `Done` at the end. The server
answers with a JSON object after each chunk that it has recognised, and with the text `Done!` at the end. An error is a
JSON object with an `error`; then the connection is closed, and its reason says the same.

Plain uvicorn would wait for a request as long as a connection stands, take connections until there are no files left,
answer pings of clients that read no answer, and keep a connection until all of its last words are read. Here each of
these is bounded.

Source: sherpa-onnx, online-websocket-server-impl.cc and OnlineRecognizerResult::AsJsonString.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import json
import math
import re
import resource
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from shared_moe_conformer.routing import experts_message
from shared_moe_conformer.speech.transcript import DIGITS, WORD_START
from shared_moe_conformer.web.streams import SAMPLING_RATE, Busy, Client, StreamHub, Update

_Http: Any = AutoHTTPProtocol
_LAST_WORDS = 10.0
"""Seconds that a connection is kept if its client does not read the last words."""
_READ_AT_ONCE = 4096
"""Bytes read from a client before others have their turn: hundreds of frames at most, not thousands."""
_WAITING = 64
"""Connections that may wait to be accepted, and are accepted at once."""


class PatientHttp(_Http):
    """An HTTP connection that is closed unless the head of a request comes within `idle_seconds`.

    It is closed at once if connections already take three quarters of the files that the process may open; the rest is
    for new connections and for recordings.
    """

    def __init__(self, *args: Any, idle_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._idle_seconds = idle_seconds
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        if len(self.connections) > resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 / 4:
            transport.abort()
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; wait on if its head has not come to an end."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, error: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(error)

    def _wait(self) -> None:
        is_served = self.transport.get_protocol() is not self or (self.cycle and not self.cycle.response_complete)
        if is_served:
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self._idle_seconds, self._close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _close(self) -> None:
        if self.transport.get_protocol() is self:
            self.transport.close()


def connection_options(idle_seconds: float) -> dict[str, Any]:
    """uvicorn's options for connections that are bounded.

    Compressed messages are not accepted: a kilobyte could become a megabyte before it can be counted, and speech hardly
    becomes shorter.
    """
    options: dict[str, Any] = {"http": functools.partial(PatientHttp, idle_seconds=idle_seconds)}
    if importlib.util.find_spec("wsproto"):
        options["ws"] = _web_socket()
    return {**options, "ws_per_message_deflate": False, "backlog": _WAITING}


@functools.cache
def _web_socket() -> type[asyncio.Protocol]:
    from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

    class PatientWebSocket(WSProtocol):
        """A WebSocket that answers pings only while the client reads, and that ends."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            with contextlib.suppress(AttributeError):  # only asyncio's own loop has it
                transport.max_size = _READ_AT_ONCE

        def handle_ping(self, event: Any) -> None:
            if self.writable.is_set():
                super().handle_ping(event)

        async def run_asgi(self) -> None:
            await super().run_asgi()
            self.loop.call_later(_LAST_WORDS, self.transport.abort)

    return PatientWebSocket


END_OF_AUDIO = "Done"
END_OF_WORDS = "Done!"
LONGEST_MESSAGE = 100
"""Longest message, in seconds of audio. Source: sherpa-onnx's client, --samples-per-message."""
LOUDEST = 100.0
"""Samples are between -1 and 1; a client that sends those of 16-bit integers is told so."""
FAREWELL = 5.0
"""Seconds that the client has to close the connection itself after the last words."""
LONGEST_REASON = 123
"""Bytes of a reason for closing. Source: RFC 6455, section 5.5."""

UNSUPPORTED, INVALID, POLICY, TOO_LONG, BROKEN, TRY_LATER = 1003, 1007, 1008, 1009, 1011, 1013
"""Codes for closing. Source: RFC 6455, section 7.4.1, and the IANA registry of close codes."""


class Refused(Exception):
    """The connection is closed, and the client is told why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


async def serve_stream(
    websocket: WebSocket, hub: StreamHub | None, *, why_not: str = "", hosts: Sequence[str], idle_seconds: float
) -> None:
    """Talk to a client until it has its last words, leaves, or is refused.

    Args:
      websocket: the client's connection, not accepted yet.
      hub: takes its stream; None: there are no streams, and `why_not` says why.
      hosts: names of hosts whose pages may connect, `*` for all; programs, which name no page, always may.
      idle_seconds: a client that sends or reads nothing for this long is disconnected.
    """
    if not may_connect(websocket.headers.get("origin"), hosts):
        await websocket.close(POLICY, "pages from elsewhere may not connect")
        return
    await websocket.accept()
    try:
        if hub is None:
            raise Refused(POLICY, why_not)
        with hub.join() as client:
            await _converse(websocket, client, idle_seconds)
    except Busy:
        await _refuse(websocket, TRY_LATER, "busy: this server takes no more speakers now; try again later")
    except Refused as error:
        await _refuse(websocket, error.code, str(error))
    except WebSocketDisconnect:
        pass


def may_connect(origin: str | None, hosts: Sequence[str]) -> bool:
    """Whether a page from this origin may connect; None: it is not a page. Browsers connect without asking."""
    if origin is None or "*" in hosts:
        return True
    page = re.fullmatch(r"https?://(.+?)(:\d+)?", origin)
    return page is not None and page[1] in hosts


def to_samples(data: bytes) -> np.ndarray:
    """The samples, (num_samples,), of a binary message.

    Raises:
      Refused: it does not hold samples.
    """
    if len(data) > 4 * SAMPLING_RATE * LONGEST_MESSAGE:
        raise Refused(TOO_LONG, f"a message of {len(data)} bytes: send at most {LONGEST_MESSAGE} seconds at once")
    if len(data) % 4:
        raise Refused(INVALID, f"a message of {len(data)} bytes: float32 samples have 4 bytes each")
    samples = np.frombuffer(data, dtype="<f4").astype(np.float32)
    if not np.isfinite(samples).all():
        raise Refused(INVALID, "there are infinite or undefined samples: send float32 from -1 to 1")
    if len(samples) and (loudest := float(np.abs(samples).max())) > LOUDEST:
        raise Refused(INVALID, f"there is a sample of {loudest:g}: send float32 from -1 to 1")
    return samples


def to_message(update: Update, *, with_experts: bool = False) -> dict[str, Any]:
    """An update as sherpa-onnx's clients expect it, and `word_times`; their times count from the segment's start.

    `words` and `lm_probs` belong to graphs and language models in sherpa-onnx and stay empty here. `experts` are there
    if the client asked for them and a chunk was recognised; their start counts from the stream's beginning.
    """
    _, tokens, times, words, confidences = update.transcript
    start = update.start
    least = 0.5 * 10**-DIGITS
    experts = {"experts": experts_message(update.experts)} if with_experts and update.experts else {}
    return {
        "text": update.transcript.text,
        "tokens": [token.replace(WORD_START, " ") for token in tokens],
        "timestamps": [round(time - start, 3) for time in times],
        "ys_probs": [round(math.log(max(confidence, least)), 3) for confidence in confidences or ()],
        "lm_probs": [],
        "context_scores": [],
        "segment": update.segment,
        "words": [],
        "word_times": [
            {**word._asdict(), "start": round(word.start - start, 3), "end": round(word.end - start, 3)}
            for word in words
        ],
        "start_time": round(start, 3),
        "is_final": update.is_final,
        "is_eof": update.is_eof,
        **experts,
    }


async def _converse(websocket: WebSocket, client: Client, idle_seconds: float) -> None:
    receiving = asyncio.create_task(_receive(websocket, client, idle_seconds))
    sending = asyncio.create_task(_send(websocket, client, idle_seconds))
    try:
        await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            receiving.result()  # raises: the client has left or is refused
        sending.result()
        await asyncio.wait({receiving}, timeout=FAREWELL)
        if not receiving.done():
            await websocket.close()
    finally:
        for task in (receiving, sending):
            task.cancel()
        await asyncio.gather(receiving, sending, return_exceptions=True)


async def _receive(websocket: WebSocket, client: Client, idle_seconds: float) -> None:
    """Take the client's audio until it leaves, which raises."""
    limit: float | None = idle_seconds
    while True:
        try:
            message = await asyncio.wait_for(websocket.receive(), limit)
        except asyncio.TimeoutError:
            raise Refused(POLICY, f"nothing came for {idle_seconds:g} seconds") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        if limit is None:
            continue  # nothing counts after the end
        text = message.get("text")
        if text is None:
            await client.add(to_samples(message["bytes"]))
        elif text == END_OF_AUDIO:
            client.end()
            limit = None
        else:
            raise Refused(UNSUPPORTED, f"the text {text[:20]!r}: send samples, and {END_OF_AUDIO} at the end")


async def _send(websocket: WebSocket, client: Client, idle_seconds: float) -> None:
    """Send the client's updates until the last one has gone."""
    is_eof = False
    while not is_eof:
        try:
            update = await client.next_update()
        except Exception as error:
            raise Refused(BROKEN, "the audio cannot be recognised: the program's log says why") from error
        is_eof = update.is_eof
        message = to_message(update, with_experts=websocket.query_params.get("experts") == "true")
        text = json.dumps(message, ensure_ascii=False)
        await _within(websocket.send_text(text), idle_seconds)
    await _within(websocket.send_text(END_OF_WORDS), idle_seconds)


async def _within(sending: Any, seconds: float) -> None:
    try:
        await asyncio.wait_for(sending, seconds)
    except asyncio.TimeoutError:
        raise Refused(POLICY, f"nothing was read for {seconds:g} seconds") from None


async def _refuse(websocket: WebSocket, code: int, reason: str) -> None:
    """Tell the client why, in a message and in the close frame, since clients show one or the other, and close."""
    shortened = reason.encode()[:LONGEST_REASON].decode(errors="ignore")
    try:
        await _within(websocket.send_text(json.dumps({"error": reason}, ensure_ascii=False)), FAREWELL)
        await websocket.close(code, shortened)
    except (Refused, RuntimeError, WebSocketDisconnect):
        pass  # it has left
