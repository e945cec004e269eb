"""The application behind the page that recognises speech: words, their times and the experts of each frame, as JSON."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import ENCODER_FRAME_SHIFT
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.routing import SegmentExperts, expert_layers, transcribe_with_experts
from shared_moe_conformer.speech.audio import require_short
from shared_moe_conformer.web.pages import read_page, security_policy

MAX_SECONDS = 600.0
"""Seconds of a recording that a page shows at most; `transcribe` has no such limit."""
LONGEST_NAME = 200
"""Characters of a file's name that are kept."""


class TooLong(ValueError):
    """An upload has more bytes than it may have."""


def create_app(bundle: Bundle, folder: Path, *, max_bytes: int, hosts: Sequence[str]) -> FastAPI:
    """The application.

    Args:
      bundle: the model.
      folder: the bundle's, for its test wav.
      max_bytes: bytes of an upload at most.
      hosts: names and addresses under which browsers may ask; any other is refused, so that no web page from
        elsewhere can have its own name lead here.
    """
    app = FastAPI(title=bundle.manifest.name, docs_url=None, redoc_url=None, openapi_url=None)
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
        return {**describe_model(bundle), "max_bytes": max_bytes}

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

    return app


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
