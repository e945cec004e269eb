"""The application behind the page that recognises speech, and its interface for programs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.routing import experts_table
from shared_moe_conformer.streaming import EndpointRules, StreamingRecognizer
from shared_moe_conformer.web import read_page, security_policy
from shared_moe_conformer.web.connections import connection_options, serve_stream
from shared_moe_conformer.web.queue import RETRY_AFTER, Ending, Full, RecognitionQueue
from shared_moe_conformer.web.streams import StreamHub
from shared_moe_conformer.web.uploads import (
    MAX_SECONDS,
    UNNAMED,
    TooLong,
    TooSlow,
    Upload,
    discard,
    receive,
    recognise,
)

STATUS = {TooLong: 413, TooSlow: 408, Full: 503, Ending: 503}
"""HTTP status by kind of error; any other is 400."""
PAGE = ["GET", "HEAD"]
"""Methods of what does not change; programs that watch a server ask by HEAD."""
GRACE = 20
"""Seconds that Ctrl-C waits for the recording in work and for answers that are being sent."""


class LiveOptions(NamedTuple):
    """Options of recognition while somebody speaks."""

    chunk_size: int | None = None
    """Encoder frames of a chunk; None: the largest that the model was trained with."""
    left_context: int | None = None
    """Frames before its chunk that a frame attends to; None: the most that the model was trained with."""
    max_streams: int = 16
    """Clients at once."""
    idle_seconds: float = 60.0
    """A client that sends nothing for this long is disconnected."""
    rules: EndpointRules = EndpointRules()
    """Rules by which segments end."""


LIVE = LiveOptions()


class Limits(NamedTuple):
    """Bounds on posted recordings."""

    max_bytes: int = 32_000_000
    """Bytes of an upload."""
    max_waiting: int = 16
    """Uploads that may wait while another one is recognised."""


LIMITS = Limits()


def create_app(
    bundle: Bundle,
    folder: Path,
    *,
    hosts: Sequence[str],
    limits: Limits = LIMITS,
    live: LiveOptions = LIVE,
    vad: bool = False,
) -> FastAPI:
    """The application.

    Args:
      bundle: the model.
      folder: the bundle's, for its test wav.
      hosts: names and addresses under which browsers may ask; others are refused, so that no foreign web page can
        point its own name here.
      limits: of `/transcribe`.
      live: of `/stream`.
      vad: believe words only where Silero VAD hears speech.

    Raises:
      ValueError: a value in `live` that cannot be used.
    """
    recognizer, why_not = _recognizer(bundle, live, vad=vad)
    queue = RecognitionQueue(max_waiting=limits.max_waiting)
    hub: StreamHub | None = None

    @contextlib.asynccontextmanager
    async def work(app: FastAPI) -> AsyncIterator[None]:
        nonlocal hub
        worker = None
        if recognizer is not None:
            hub = app.state.hub = StreamHub(recognizer, max_streams=live.max_streams)
            worker = asyncio.create_task(hub.run())
        yield
        if worker is not None:
            worker.cancel()

    app = FastAPI(title=bundle.manifest.name, docs_url=None, redoc_url=None, openapi_url=None, lifespan=work)
    app.state.queue, app.state.idle_seconds = queue, live.idle_seconds
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    page = read_page("recognise.html")
    headers = {
        "Content-Security-Policy": security_policy(page, connect_src="'self'", media_src="blob:", img_src="data:"),
        "X-Content-Type-Options": "nosniff",
    }

    @app.api_route("/", methods=PAGE)
    async def show_page() -> Response:
        return HTMLResponse(page, headers=headers)

    @app.api_route("/model", methods=PAGE)
    async def show_model() -> dict[str, Any]:
        return {**describe_model(bundle), "max_bytes": limits.max_bytes, "why_not_live": why_not}

    @app.api_route("/health", methods=PAGE)
    async def show_health() -> dict[str, Any]:
        return {
            "status": "busy" if queue.is_full else "ok",
            "model": bundle.manifest.name,
            "waiting": queue.num_waiting,
            "streams": hub.num_streams if hub else 0,
        }

    @app.api_route("/example.wav", methods=PAGE)
    async def show_example() -> Response:
        return FileResponse(folder / TEST_WAV, media_type="audio/wav")

    @app.post("/transcribe")
    async def transcribe(request: Request, name: str = UNNAMED) -> Response:
        with tempfile.TemporaryDirectory() as temporary:
            try:
                queue.require_room()
                uploads = await receive(
                    request, Path(temporary), name=name, max_bytes=limits.max_bytes, idle_seconds=live.idle_seconds
                )
                parts = [functools.partial(_answer, bundle, upload, vad=vad) for upload in uploads]
                found = await _unless_client_leaves(request, queue.run(*parts))
            except (Ending, Full, ValueError) as error:
                return await _refuse(request, error)
            except ClientDisconnect:
                return Response(status_code=400)
        (answer, *more) = found
        return JSONResponse(found if more else answer, status_code=400 if "error" in answer and not more else 200)

    @app.websocket("/stream")
    @app.websocket("/")
    async def stream(websocket: WebSocket) -> None:
        await serve_stream(websocket, hub, why_not=why_not, hosts=hosts, idle_seconds=live.idle_seconds)

    return app


class Server(uvicorn.Server):
    """The application's server: when it ends, recordings that wait for their turn are refused first."""

    def __init__(self, app: FastAPI) -> None:
        options = connection_options(app.state.idle_seconds)
        config = uvicorn.Config(
            app, log_level="warning", server_header=False, timeout_graceful_shutdown=GRACE, **options
        )
        super().__init__(config)
        self._queue: RecognitionQueue = app.state.queue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; recordings that wait are refused."""
        self._queue.close()
        await super().shutdown(sockets)


def describe_model(bundle: Bundle) -> dict[str, Any]:
    """The facts about the model that the page shows."""
    names = ("name", "corpus", "language", "licence", "unique_parameters", "active_parameters", "decoding_method")
    facts = {name: getattr(bundle.manifest, name) for name in names}
    return {**facts, "max_seconds": MAX_SECONDS, "experts": experts_table(bundle, [])}


def _recognizer(bundle: Bundle, live: LiveOptions, *, vad: bool) -> tuple[StreamingRecognizer | None, str]:
    """The recogniser of streams, or None and the reason if the model cannot stream and nobody asked for it."""
    try:
        recognizer = bundle.recognizer(
            chunk_size=live.chunk_size, left_context=live.left_context, rules=live.rules, vad=vad
        )
        return recognizer, ""
    except (ValueError, OSError) as error:
        if live.chunk_size is not None or live.left_context is not None:
            raise
        return None, str(error)


def _answer(bundle: Bundle, upload: Upload, *, vad: bool) -> dict[str, Any]:
    """The transcript of an upload, or its `error` in one line."""
    try:
        return recognise(bundle, upload.path, name=upload.name, vad=vad)
    except ValueError as error:
        return {"name": upload.name, "error": " ".join(str(error).split())}


async def _refuse(request: Request, error: Exception) -> Response:
    """The answer that reports an error."""
    if not isinstance(error, TooSlow):
        await discard(request)
    headers = {"Retry-After": str(RETRY_AFTER)} if isinstance(error, Full) else {}
    return JSONResponse({"error": str(error)}, status_code=STATUS.get(type(error), 400), headers=headers)


async def _unless_client_leaves(request: Request, work: Coroutine[Any, Any, list[Any]]) -> list[Any]:
    """The result of the work, which is cancelled if the client leaves (`ClientDisconnect`)."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(leave())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
