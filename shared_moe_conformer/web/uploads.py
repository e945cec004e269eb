"""Recordings that are posted, as the body of a request or as files of a form (`curl -F file=@a.wav`)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import require
from shared_moe_conformer.routing import experts_table, transcribe_with_experts
from shared_moe_conformer.speech.audio import require_short, warnings_of
from shared_moe_conformer.speech.containers import WITHOUT_HEADER
from shared_moe_conformer.speech.transcript import as_record
from shared_moe_conformer.text import one_line

UNNAMED = "the recording"
LONGEST_NAME = 200
"""Characters of a file's name that are kept."""
MOST_FILES = 100
"""Most files that a form may have."""
FORM_BYTES = 1 << 16
"""Most bytes of a form besides its files."""
FORM = "multipart/form-data"
LINGER = 5.0
"""Seconds for which the rest of a refused body is read."""
MAX_SECONDS = 600.0
"""Longest recording that the server takes, in seconds; `transcribe` has no such limit."""


class Upload(NamedTuple):
    """A recording that was received."""

    path: Path
    name: str
    """Its owner's name for it."""


class TooLong(ValueError):
    """A request has too many bytes."""


class TooSlow(ValueError):
    """A client sends nothing."""


def has_forms() -> bool:
    """Whether the package that reads forms is installed."""
    return importlib.util.find_spec("python_multipart") is not None


def is_form(request: Request) -> bool:
    """Whether a request's body is a form with files, unlike that of `curl --data-binary`."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower() == FORM


async def receive(
    request: Request, folder: Path, *, name: str, max_bytes: int, idle_seconds: float = 60.0
) -> list[Upload]:
    """Write what a request brings into a folder.

    Args:
      request: its body is one recording, or a form with one or more.
      folder: there and empty.
      name: the recording's, unless a form gives one.
      max_bytes: most bytes of all recordings together.
      idle_seconds: longest time without a byte from the client.

    Raises:
      TooLong, TooSlow: the client exceeds one of these.
      ValueError: a form that cannot be read, or has no file.
      ClientDisconnect: the client has left.
    """
    encoding = request.headers.get("content-encoding", "identity")
    require(encoding.lower() == "identity", f"the body is encoded ({encoding}): send the file as it is")
    if not is_form(request):
        body = _body(request, max_bytes=max_bytes, idle_seconds=idle_seconds)
        path = folder / f"recording{_suffix(name)}"
        async with contextlib.aclosing(body):
            with path.open("wb") as file:
                async for block in body:
                    file.write(block)
        return [Upload(path, shown(name))]
    body = _body(request, max_bytes=max_bytes, more=FORM_BYTES, idle_seconds=idle_seconds)
    async with contextlib.aclosing(body):
        files = await _files(request, body)
    return [
        await _keep(file, folder / f"{number}{_suffix(file.filename or name)}", name)
        for number, file in enumerate(files)
    ]


def shown(name: str | None) -> str:
    """A file's name in one line that is not too long."""
    return one_line(name or "")[:LONGEST_NAME] or UNNAMED


def _suffix(name: str) -> str:
    """The suffix of a name, if the content does not tell the format."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix in WITHOUT_HEADER else ""


async def discard(request: Request) -> None:
    """Read the rest of a refused body for a while: most clients send all of it before they read an answer.

    Clients that ask first, as curl does with large bodies, have sent nothing if nothing was read.
    """

    async def read() -> None:
        async for _ in request.stream():
            pass

    asks_first = request.headers.get("expect", "").lower() == "100-continue"
    if asks_first and not getattr(request.state, "is_read", False):
        return
    with contextlib.suppress(asyncio.TimeoutError, ClientDisconnect, RuntimeError):
        await asyncio.wait_for(read(), LINGER)


async def _body(request: Request, *, max_bytes: int, idle_seconds: float, more: int = 0) -> AsyncGenerator[bytes, None]:
    """The blocks of a request's body, which may have `more` bytes than `max_bytes`; see `receive`."""
    too_long = TooLong(f"the upload has more than {max_bytes / 1e6:g} MB, the most that is taken")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_bytes + more:
        raise too_long
    request.state.is_read = True
    came, stream = 0, request.stream()
    async with contextlib.aclosing(stream):
        while True:
            try:
                block = await asyncio.wait_for(stream.__anext__(), idle_seconds)
            except asyncio.TimeoutError:
                raise TooSlow(f"nothing came for {idle_seconds:g} seconds") from None
            if not block:
                return
            came += len(block)
            if came > max_bytes + more:
                raise too_long
            yield block


class _FormParser(MultiPartParser):
    """Knows whether a form had its end."""

    is_whole = False

    def on_end(self) -> None:
        """The form's last boundary was read."""
        self.is_whole = True


async def _files(request: Request, body: AsyncGenerator[bytes, None]) -> list[UploadFile]:
    """The files of a form."""
    if not has_forms():
        raise ValueError(
            "forms need the package python-multipart where the server runs (pip install python-multipart); without it "
            "post the file itself: curl --data-binary @a.wav"
        )
    try:
        parser = _FormParser(request.headers, body, max_files=MOST_FILES)
        form = await parser.parse()
    except MultiPartException as error:
        raise ValueError(f"the form cannot be read: {error.message}") from error
    require(parser.is_whole, "the form is cut off: its last boundary is missing; send it again")
    fields = [value for _, value in form.multi_items()]
    files = [value for value in fields if isinstance(value, UploadFile) and (value.filename or value.size)]
    if not files:
        raise ValueError("the form has no file: send one as curl -F file=@a.wav does, with the @")
    return files


async def _keep(file: UploadFile, path: Path, name: str) -> Upload:
    """Write a form's file, in a thread of the web server."""

    def copy() -> None:
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target)
        file.file.close()

    await run_in_threadpool(copy)
    return Upload(path, shown(file.filename or name))


def recognise(bundle: Bundle, path: Path, *, name: str, vad: bool = False) -> dict[str, Any]:
    """The transcript of a recording, and its experts.

    Args:
      bundle: the model.
      path: the recording.
      name: the owner's name for it.
      vad: believe words only where Silero VAD hears speech.

    Raises:
      ValueError: it is not audio, or too long; the message has the owner's name for it.
    """
    require(path.stat().st_size > 0, f"{name} is empty")
    with warnings_of({str(path): name}) as warnings:
        try:
            seconds = require_short(path, seconds=MAX_SECONDS)
            transcript, segments = transcribe_with_experts(bundle, path, vad=vad)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), name)) from error
    facts: dict[str, Any] = {"name": name, "seconds": round(seconds, 3)}
    if warnings:
        facts["warnings"] = list(dict.fromkeys(warnings))
    return {**facts, **as_record(transcript), "experts": experts_table(bundle, segments)}
