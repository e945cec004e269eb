"""The application behind the page that recognises speech: words, their times and the experts of each frame, as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import ENCODER_FRAME_SHIFT
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.routing import SegmentExperts, expert_layers, transcribe_with_experts
from shared_moe_conformer.speech.audio import require_short
from shared_moe_conformer.streaming import StreamingRecognizer
from shared_moe_conformer.web.pages import read_page, security_policy
from shared_moe_conformer.web.stream_socket import serve_stream
from shared_moe_conformer.web.streams import StreamHub

MAX_SECONDS = 600.0
"""Seconds of a recording that a page shows at most; `transcribe` has no such limit."""
LONGEST_NAME = 200
"""Characters of a file's name that are kept."""


class TooLong(ValueError):
    """An upload has more bytes than it may have."""


class LiveOptions(NamedTuple):
    """Options of recognition while somebody speaks."""

    chunk_size: int | None = None
    """Encoder frames of a chunk; None: the largest that the model was trained with."""
    left_context: int | None = None
    """Frames before its chunk that a frame attends to; None: the most that the model was trained with."""
    max_streams: int = 16
    """Clients at once."""
    idle_seconds: float = 60.0
    """A client that sends nothing for so long is disconnected."""


LIVE = LiveOptions()


def create_app(
    bundle: Bundle, folder: Path, *, max_bytes: int, hosts: Sequence[str], live: LiveOptions = LIVE
) -> FastAPI:
    """The application.

    Args:
      bundle: the model.
      folder: the bundle's, for its test wav.
      max_bytes: bytes of an upload at most.
      hosts: names and addresses under which browsers may ask; any other is refused, so that no web page from
        elsewhere can have its own name lead here.
      live: of `/stream`.

    Raises:
      ValueError: a value in `live` that cannot be used.
    """
    recognizer, why_not = _recognizer(bundle, live)
    hub: StreamHub | None = None

    @contextlib.asynccontextmanager
    async def recognise_streams(app: FastAPI) -> AsyncIterator[None]:
        nonlocal hub
        if recognizer is None:
            yield
            return
        hub = app.state.hub = StreamHub(recognizer, max_streams=live.max_streams)
        worker = asyncio.create_task(hub.run())
        yield
        worker.cancel()

    app = FastAPI(
        title=bundle.manifest.name, docs_url=None, redoc_url=None, openapi_url=None, lifespan=recognise_streams
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    page = read_page("recognise.html")
    headers = {
        "Content-Security-Policy": security_policy(page, connect_src="'self'", media_src="blob:", img_src="data:"),
        "X-Content-Type-Options": "nosniff",
    }
    one_at_a_time = threading.Lock()

    def recognise_alone(path: Path, name: str) -> dict[str, Any]:
        with one_at_a_time:
            return recognise(bundle, path, name=name)

    @app.get("/")
    def show_page() -> Response:
        return HTMLResponse(page, headers=headers)

    @app.get("/model")
    def show_model() -> dict[str, Any]:
        return {**describe_model(bundle), "max_bytes": max_bytes, "why_not_live": why_not}

    @app.get("/example.wav")
    def show_example() -> Response:
        return FileResponse(folder / TEST_WAV, media_type="audio/wav")

    @app.post("/transcribe")
    async def transcribe(request: Request, name: str = "the recording") -> Response:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "recording"
            try:
                await _receive(request, path, max_bytes=max_bytes)
                found = await run_in_threadpool(recognise_alone, path, name[:LONGEST_NAME])
            except TooLong as error:
                return JSONResponse({"error": str(error)}, status_code=413)
            except ValueError as error:
                return JSONResponse({"error": str(error)}, status_code=400)
            except ClientDisconnect:
                return Response(status_code=400)
        return JSONResponse(found)

    @app.websocket("/stream")
    @app.websocket("/")
    async def stream(websocket: WebSocket) -> None:
        await serve_stream(websocket, hub, why_not=why_not, hosts=hosts, idle_seconds=live.idle_seconds)

    return app


def _recognizer(bundle: Bundle, live: LiveOptions) -> tuple[StreamingRecognizer | None, str]:
    """The recogniser of streams; None and why, where the model cannot stream and nobody asked for it."""
    try:
        return bundle.recognizer(chunk_size=live.chunk_size, left_context=live.left_context), ""
    except (ValueError, OSError) as error:
        if live.chunk_size is not None or live.left_context is not None:
            raise
        return None, str(error)


async def _receive(request: Request, path: Path, *, max_bytes: int) -> None:
    """Write a request's body to a file; more than `max_bytes` are refused."""
    came = 0
    with path.open("wb") as file:
        async for block in request.stream():
            came += len(block)
            if came > max_bytes:
                raise TooLong(f"the file has more than {max_bytes / 1e6:g} MB, the most that is taken")
            file.write(block)
    if not came:
        raise ValueError("the file is empty")


def recognise(bundle: Bundle, path: Path, *, name: str) -> dict[str, Any]:
    """The transcript of a recording, and its experts.

    Args:
      bundle: the model.
      path: the recording.
      name: what its owner calls it.

    Raises:
      ValueError: no audio, or too long; said with the owner's name of it.
    """
    try:
        seconds = require_short(path, seconds=MAX_SECONDS)
        transcript, segments = transcribe_with_experts(bundle, path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), name)) from error
    values = transcript._asdict()
    values["words"] = [word._asdict() for word in transcript.words]
    return {"name": name, "seconds": round(seconds, 3), **values, "experts": experts_table(bundle, segments)}


def experts_table(bundle: Bundle, segments: Sequence[SegmentExperts]) -> dict[str, Any] | None:
    """The experts of each frame; None where the model has none.

    Returns:
      frame_shift, in seconds; num_experts; layers; and each segment's start in seconds and expert_ids, (L, T', K).
    """
    encoder = bundle.config.model.encoder
    if encoder.experts_in == "none":
        return None
    return {
        "frame_shift": ENCODER_FRAME_SHIFT,
        "num_experts": encoder.num_experts,
        "layers": [layer._asdict() for layer in expert_layers(encoder)],
        "segments": [{"start": round(s.start, 3), "expert_ids": s.expert_ids.tolist()} for s in segments],
    }


def describe_model(bundle: Bundle) -> dict[str, Any]:
    """The facts about the model that the page shows."""
    names = ("name", "corpus", "language", "licence", "unique_parameters", "active_parameters", "decoding_method")
    return {**{name: getattr(bundle.manifest, name) for name in names}, "max_seconds": MAX_SECONDS}
