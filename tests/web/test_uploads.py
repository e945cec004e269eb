"""Forms with recordings, posted to a real server."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.speech.audio import write_wav
from tests.web.conftest import ask, post_form, serve_bundle

uploads: Any = pytest.importorskip("shared_moe_conformer.web.uploads", reason="fastapi is not installed")
needs_forms = pytest.mark.skipif(not uploads.has_forms(), reason="python-multipart is not installed")


@pytest.fixture
def recording(tones: np.ndarray, tmp_path: Path) -> bytes:
    write_wav(tmp_path / "tones.wav", tones, sampling_rate=16000)
    return (tmp_path / "tones.wav").read_bytes()


@needs_forms
def test_a_form_with_a_file_is_as_its_content_alone(served: str, recording: bytes) -> None:
    found = post_form(served, ("a.wav", recording))
    assert (found.status, found.json["name"]) == (200, "a.wav")
    assert found.body == ask(f"{served}/transcribe?name=a.wav", recording).body


@needs_forms
def test_curl_posts_forms_and_files(served: str, tmp_path: Path, recording: bytes) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl")
    for way in (["-F", "file=@tones.wav"], ["--data-binary", "@tones.wav"], ["-T", "tones.wav", "-X", "POST"]):
        command = [curl, "-s", *way, f"{served}/transcribe"]
        found = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout)
        assert found["seconds"] == 2 and found["text"], way


@needs_forms
def test_each_file_of_a_form_has_its_words_or_its_error(served: str, recording: bytes) -> None:
    files = [("a.wav", recording), ("poem.txt", b"not audio"), ("empty.wav", b""), ("b.wav", recording)]
    found = post_form(served, *files)
    assert found.status == 200
    a, poem, empty, b = found.json
    assert a["text"] == b["text"] != "" and (a["name"], b["name"]) == ("a.wav", "b.wav")
    assert poem["error"].startswith("poem.txt cannot be read as audio") and "text" not in poem
    assert empty == {"name": "empty.wav", "error": "empty.wav is empty"}


@needs_forms
@pytest.mark.parametrize(
    ("files", "status", "message"),
    [
        ([("a\tb.wav", b"not audio")], 400, "a b.wav cannot be read as audio"),
        ([], 400, "the form has no file: send one as curl -F file=@a.wav does, with the @"),
        ([("", b"")], 400, "the form has no file"),
        ([("a.wav", bytes(500_000))] * 3, 413, "the upload has more than 1 MB, the most that is taken"),
        ([("a.wav", b"x")] * 101, 400, "the form cannot be read: Too many files. Maximum number of files is 100."),
    ],
)
def test_forms_that_cannot_be_taken_are_refused_in_one_line(
    served: str, files: list[tuple[str, bytes]], status: int, message: str
) -> None:
    found = post_form(served, *files)
    assert found.status == status
    assert found.json["error"].startswith(message) and "\n" not in found.json["error"]


@needs_forms
def test_a_file_may_have_as_many_bytes_in_a_form_as_alone(served: str) -> None:
    assert "cannot be read as audio" in post_form(served, ("a.wav", bytes(1_000_000))).json["error"]


@needs_forms
def test_a_field_without_a_file_and_broken_forms_are_refused(served: str) -> None:
    assert post_form(served, ("a.wav", b""), field="name").json["error"].startswith("the form has no file")
    for body, kind in ((b"no edge", "multipart/form-data; boundary=edge"), (b"--edge", "multipart/form-data")):
        found = ask(f"{served}/transcribe", body, Content_Type=kind)
        assert found.status == 400 and found.json["error"].startswith("the form cannot be read: ")


def test_without_the_package_that_reads_forms_it_is_named(
    tiny_bundle: Bundle, recording: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "python_multipart" else find(name))
    with serve_bundle(tiny_bundle, Path()) as url:
        found = post_form(url, ("a.wav", recording))
        assert found.status == 400 and "pip install python-multipart" in found.json["error"]
        curls = ask(f"{url}/transcribe", recording, Content_Type="application/x-www-form-urlencoded")
        assert curls.status == 200, "curl --data-binary calls any file a form"


def test_names_are_short_and_in_one_line() -> None:
    assert uploads.shown(" a\n b.wav") == "a b.wav"
    assert uploads.shown(None) == uploads.shown(" ") == uploads.UNNAMED
    assert len(uploads.shown("x" * 1000)) == uploads.LONGEST_NAME
