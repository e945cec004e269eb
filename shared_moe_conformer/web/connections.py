"""Connections to clients that are hostile or cut off: what they hold, and for how long, is bounded.

uvicorn waits for a request as long as a connection stands, takes connections until there are no files left, answers
pings that nobody takes the answers of, and keeps a connection until all of its last words are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import resource
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_Http: Any = AutoHTTPProtocol
_LAST_WORDS = 10.0
"""Seconds for which a connection is kept whose client does not read the last words."""
_READ_AT_ONCE = 4096
"""Bytes that are read from a client before others have their turn: hundreds of frames at most, not thousands."""
_WAITING = 64
"""Connections that may wait to be taken, and are then taken at once."""


class PatientHttp(_Http):
    """An HTTP connection that is closed unless the head of a request comes within `idle_seconds`.

    It is closed at once if connections already take three quarters of the files that the process may open: the rest is
    for those that are being taken and for recordings.
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

    Compressed messages are not agreed on: a kilobyte would become a megabyte before anybody could count it, and speech
    is hardly shorter for it.
    """
    options: dict[str, Any] = {"http": functools.partial(PatientHttp, idle_seconds=idle_seconds)}
    if importlib.util.find_spec("wsproto"):
        options["ws"] = _web_socket()
    return {**options, "ws_per_message_deflate": False, "backlog": _WAITING}


@functools.cache
def _web_socket() -> type[asyncio.Protocol]:
    from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

    class PatientWebSocket(WSProtocol):
        """A WebSocket whose client's pings are answered while it reads the answers, and which ends."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            with contextlib.suppress(AttributeError):  # of asyncio's own loop alone
                transport.max_size = _READ_AT_ONCE

        def handle_ping(self, event: Any) -> None:
            if self.writable.is_set():
                super().handle_ping(event)

        async def run_asgi(self) -> None:
            await super().run_asgi()
            self.loop.call_later(_LAST_WORDS, self.transport.abort)

    return PatientWebSocket
