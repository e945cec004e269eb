"""Files from a zoo that is elsewhere: a folder, `file://`, `http(s)://`, or `hf://` on Hugging Face."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from shared_moe_conformer import __version__
from shared_moe_conformer.config import require
from shared_moe_conformer.release.checksums import file_sha256
from shared_moe_conformer.release.hub import HUB, hub_download

ATTEMPTS = 4
"""Times in a row that a download may end before a byte has come; longer ones are taken up as often as they break."""
PAUSE = 1.0
"""Seconds before the second attempt in a row, twice as many before the third, and so on."""
BUSY = (429, 500, 502, 503, 504)
"""HTTP statuses after which it is worth to try again."""
BLOCK = 1 << 16
"""Bytes read at once."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
Progress = Callable[[int], Any]
"""Called with the bytes that have come since the last call; negative if they are of no use."""


class TooLong(ValueError):
    """More bytes came than the file may have."""


class Interrupted(ConnectionError):
    """A download ended early; what has come is kept."""


def fetch(
    location: str,
    path: str,
    target: Path,
    *,
    max_bytes: int,
    sha256: str | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Download one file of a zoo, or the rest of it if part of it is there from an earlier call.

    Args:
      location: the zoo.
      path: the file's in the zoo, with `/`.
      target: the file to be; kept as it is if its sum is right.
      max_bytes: a longer file is refused before it fills the disk.
      sha256: what it must have; None: anything.
      progress: told about the bytes that come.

    Raises:
      FileNotFoundError: the zoo has no such file.
      ValueError: too long, another sum, or no way to read it; what has come is kept only if it may be right.
    """
    source = f"{location.rstrip('/')}/{path}"
    for _ in range(2):  # a second time, from the start, if the file has changed since its first part came
        resumed = target.is_file()
        if not (resumed and sha256 and file_sha256(target) == sha256):
            _fetch_rest(location, path, target, max_bytes=max_bytes, progress=progress)
        if sha256 is None or file_sha256(target) == sha256:
            return
        progress(-target.stat().st_size)
        target.unlink()
        if not resumed:
            break
    raise ValueError(f"{source} is not the file that was released (its SHA-256 differs): it was not kept")


def url_of(location: str) -> str:
    """The URL of a zoo: a folder's path becomes a `file://` one.

    Raises:
      ValueError: a scheme that is none of http, https and file.
    """
    if "://" not in location:
        return Path(location).resolve().as_uri()
    scheme = urllib.parse.urlsplit(location).scheme
    require(
        scheme in ("http", "https", "file"), f"{location}: a zoo is a folder, file://, http(s):// or {HUB}owner/name"
    )
    return location.rstrip("/")


def _fetch_rest(location: str, path: str, target: Path, *, max_bytes: int, progress: Progress) -> None:
    source = f"{location.rstrip('/')}/{path}"
    if location.startswith(HUB):
        hub_download(location, path, target, max_bytes=max_bytes)
        progress(target.stat().st_size)
        return
    url = f"{url_of(location)}/{urllib.parse.quote(path)}"
    in_vain = 0
    while True:
        before = _length(target)
        try:
            return _fetch_once(url, target, max_bytes=max_bytes, progress=progress)
        except Interrupted as error:
            in_vain = 0 if _length(target) > before else in_vain + 1
            if in_vain == ATTEMPTS:
                raise ValueError(f"{source}: {error}: what has come is kept, so try again") from error
            time.sleep(PAUSE * in_vain)
        except (OSError, http.client.HTTPException) as error:
            raise _explained(source, error) from error


def _fetch_once(url: str, target: Path, *, max_bytes: int, progress: Progress) -> None:
    """Append to the target what it lacks, or write it anew where the server cannot continue."""
    there = _length(target)
    headers = {"User-Agent": f"shared-moe-conformer/{__version__}", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing
        if error.code in BUSY:
            raise Interrupted(f"the server is busy (status {error.code})") from error
        raise
    except OSError as error:
        if isinstance(getattr(error, "reason", error), (ConnectionResetError, TimeoutError)):
            raise Interrupted("the server did not answer") from error
        raise
    with answer:
        continues = str(answer.headers.get("Content-Range", "")).startswith(f"bytes {there}-")
        if there and not (answer.status == http.client.PARTIAL_CONTENT and continues):
            progress(-there)
            there = 0
        length = answer.headers.get("Content-Length")
        try:
            with target.open("ab" if there else "wb") as file:
                came = _copy(answer, file, room=max_bytes - there, progress=progress)
        except TooLong:
            target.unlink()
            raise ValueError(f"{url} is longer than its zoo's index says: it was not kept") from None
    if length is not None and came < int(length):
        raise Interrupted(f"the connection broke after {there + came} bytes")


def _length(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _copy(answer: Any, file: IO[bytes], *, room: int, progress: Progress) -> int:
    came = 0
    while block := _read(answer):
        came += len(block)
        if came > room:
            raise TooLong
        file.write(block)
        progress(len(block))
    return came


def _read(answer: Any) -> bytes:
    try:
        return answer.read1(BLOCK) if hasattr(answer, "read1") else answer.read(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the connection broke ({type(error).__name__})") from error


def _explained(source: str, error: Exception) -> Exception:
    """The error as one that its reader can act on."""
    reason = getattr(error, "reason", error)
    missing = isinstance(error, urllib.error.HTTPError) and error.code in (404, 410)
    if missing or isinstance(error, FileNotFoundError) or isinstance(reason, FileNotFoundError):
        return FileNotFoundError(f"{source} is not there: look at the zoo's address")
    return ValueError(f"{source} cannot be read ({reason}): look at its address, or try again later")
