"""Downloads of a zoo's files, resumed where they broke: from a folder, `file://`, `http(s)://` or `hf://owner/name`."""

from __future__ import annotations

import contextlib
import http.client
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from shared_moe_conformer import __version__
from shared_moe_conformer.release.hub import HUB, hub_download
from shared_moe_conformer.release.zoo_index import file_sha256

ATTEMPTS = 4
"""Attempts in a row that may bring no byte; a download that makes progress resumes as often as it breaks."""
RETRIES = urllib3.Retry(
    total=None,
    connect=0,
    other=0,
    read=ATTEMPTS - 1,
    status=ATTEMPTS - 1,
    redirect=10,
    status_forcelist=(429, 500, 502, 503, 504),
    backoff_factor=1.0,
    respect_retry_after_header=False,
)
"""A busy server is asked again after 0, 2 and 4 seconds."""
BLOCK = 1 << 16
"""Bytes read at once."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
Progress = Callable[[int], Any]
"""Called with the bytes since the last call; a negative number takes back earlier ones, which were of no use."""


class TooLong(Exception):
    """A file has more bytes than it may have."""


def fetch(
    location: str,
    path: str,
    target: Path,
    *,
    max_bytes: int,
    sha256: str | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Download one file of a zoo, or the rest of it if an earlier call left a part.

    Args:
      path: the file's path in the zoo, with `/`.
      target: the file to write; it is kept if its sum is right.
      max_bytes: a longer file is refused before it fills the disk.
      sha256: the sum that it must have; None: any sum.

    Raises:
      FileNotFoundError: the zoo has no such file.
      ValueError: it is too long, has another sum, or cannot be read; a part that may be good is kept.
    """
    source = f"{location.rstrip('/')}/{path}"
    for _ in range(2):  # twice, in case the file has changed since its first part came
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


def _fetch_rest(location: str, path: str, target: Path, *, max_bytes: int, progress: Progress) -> None:
    """Append to the target what it lacks, as the location's scheme demands."""
    source = f"{location.rstrip('/')}/{path}"
    parts = urllib.parse.urlsplit(location if "://" in location else Path(location).resolve().as_uri())
    try:
        if parts.scheme == "hf":
            hub_download(location, path, target, max_bytes=max_bytes)
            progress(target.stat().st_size)
        elif parts.scheme == "file":
            _copy(Path(urllib.request.url2pathname(parts.path)) / path, target, max_bytes, progress)
        elif parts.scheme in ("http", "https"):
            _download(f"{location.rstrip('/')}/{urllib.parse.quote(path)}", target, max_bytes, progress)
        else:
            raise ValueError(f"{location}: a zoo is a folder, file://, http(s):// or {HUB}owner/name")
    except FileNotFoundError as error:
        raise (
            error if parts.scheme == "hf" else FileNotFoundError(f"{source} is not there: check the zoo's address")
        ) from error
    except TooLong:
        raise ValueError(f"{source} is longer than its zoo's index says: it was not kept") from None
    except (OSError, HTTPError) as error:
        reason = _reason(error)
        raise ValueError(
            f"{source} cannot be read ({reason}): check its address, or try again; the part received so far is kept"
        ) from error


def _copy(file: Path, target: Path, max_bytes: int, progress: Progress) -> None:
    with file.open("rb") as content:
        there = content.seek(_length(target))
        _append(partial(content.read, BLOCK), target, there=there, max_bytes=max_bytes, progress=progress)


def _download(url: str, target: Path, max_bytes: int, progress: Progress) -> None:
    """Append what is missing; retry while connections break but bytes arrive."""
    in_vain = 0
    while True:
        before = _length(target)
        try:
            return _download_once(url, target, max_bytes, progress)
        except (ProtocolError, ReadTimeoutError):
            in_vain = 0 if _length(target) > before else in_vain + 1
            if in_vain == ATTEMPTS:
                raise


def _download_once(url: str, target: Path, max_bytes: int, progress: Progress) -> None:
    """Append what is missing, or write the file from its start where the server cannot continue."""
    there = _length(target)
    headers = {"User-Agent": f"shared-moe-conformer/{__version__}", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={there}-"} if there else {}
    pool = _pool(url)
    answer = pool.request("GET", url, headers=headers, retries=RETRIES, timeout=TIMEOUT, preload_content=False)
    with contextlib.closing(answer):
        if answer.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing
        if answer.status in (http.client.NOT_FOUND, http.client.GONE):
            raise FileNotFoundError
        if answer.status >= http.client.BAD_REQUEST:
            raise HTTPError(f"status {answer.status}")
        continues = answer.headers.get("Content-Range", "").startswith(f"bytes {there}-")
        if there and not (answer.status == http.client.PARTIAL_CONTENT and continues):
            progress(-there)
            there = 0
        read = partial(answer.read1, BLOCK, decode_content=False)
        _append(read, target, there=there, max_bytes=max_bytes, progress=progress)


def _pool(url: str) -> urllib3.PoolManager:
    """Connections for a URL, through the environment's proxy if there is one."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return urllib3.PoolManager()
    login = urllib3.util.parse_url(proxy).auth  # name:password
    headers = urllib3.make_headers(proxy_basic_auth=urllib.parse.unquote(login)) if login else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers)


def _append(read: Callable[[], bytes], target: Path, *, there: int, max_bytes: int, progress: Progress) -> None:
    """Append blocks to those that are already there."""
    with target.open("ab" if there else "wb") as file:
        while block := read():
            there += len(block)
            if there > max_bytes:
                target.unlink()
                raise TooLong
            file.write(block)
            progress(len(block))


def _length(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _reason(error: Exception) -> BaseException:
    """The cause of an error of urllib3."""
    error = getattr(error, "reason", error)  # after several attempts
    return error.__cause__ or next((part for part in error.args if isinstance(part, Exception)), error)
