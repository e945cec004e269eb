from __future__ import annotations

import http.client
import json
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.release.manifest import TEST_WAV

Save = Callable[..., Path]


def ask(url: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of the answer."""
    headers = {"Content-Type": "application/octet-stream", **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_posted_recording_comes_back_as_words(served: str, tmp_path: Path, tiny_bundle: Bundle) -> None:
    path = tmp_path / "zoo" / "tiny" / TEST_WAV
    status, body = ask(f"{served}/transcribe?name=a.wav", path.read_bytes())
    assert status == 200
    assert json.loads(body)["text"] == tiny_bundle.transcribe(path).text
    assert ask(f"{served}/example.wav") == (200, path.read_bytes())
    assert json.loads(ask(f"{served}/model")[1])["max_bytes"] == 1_000_000


def test_several_at_once_are_recognised_one_after_the_other(served: str, tmp_path: Path) -> None:
    body = (tmp_path / "zoo" / "tiny" / TEST_WAV).read_bytes()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(f"{served}/transcribe", body), range(4)))
    assert answers == [answers[0]] * 4
    assert answers[0][0] == 200


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"not audio", 400, "<b>a.wav cannot be read as audio"),
        (b"", 400, "the file is empty"),
        (bytes(1_000_000), 400, "<b>a.wav cannot be read as audio"),
        (bytes(1_000_001), 413, "more than 1 MB"),
    ],
)
def test_what_cannot_be_taken_is_said_in_one_line(served: str, body: bytes, status: int, message: str) -> None:
    found, answer = ask(f"{served}/transcribe?name=%3Cb%3Ea.wav", body)
    error: dict[str, Any] = json.loads(answer)
    assert found == status
    assert message in error["error"]
    assert "\n" not in error["error"] and tempfile.gettempdir() not in error["error"]


def test_an_upload_without_a_length_is_limited_too(served: str) -> None:
    connection = http.client.HTTPConnection(served.removeprefix("http://"), timeout=30)
    connection.request("POST", "/transcribe", body=(bytes(100_000) for _ in range(11)), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_only_local_names_lead_here(served: str) -> None:
    port = served.rpartition(":")[2]
    assert ask(served, Host=f"localhost:{port}")[0] == 200
    assert ask(served, Host="evil.example")[0] == 400


def test_the_page_may_load_nothing_from_elsewhere(served: str) -> None:
    with urllib.request.urlopen(served) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy and "unsafe" not in policy


@pytest.mark.parametrize("path", ["docs", "redoc", "openapi.json", "..%2f..%2fetc%2fpasswd", "bundle.json"])
def test_nothing_else_is_served(served: str, path: str) -> None:
    assert ask(f"{served}/{path}")[0] == 404
