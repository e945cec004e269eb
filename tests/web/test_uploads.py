"""Recordings that are posted to a real server, and what is found in them."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.routing import transcribe_with_experts
from shared_moe_conformer.speech.audio import write_wav
from tests.conftest import TINY
from tests.web.conftest import ask, post_form, serve_bundle

uploads: Any = pytest.importorskip("shared_moe_conformer.web.uploads", reason="fastapi is not installed")
Save = Callable[..., Path]
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
def test_what_only_a_name_tells_is_known_from_it(served: str, tones: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.gsm", tones[::2], 8000, format="RAW", subtype="GSM610")
    content = (tmp_path / "a.gsm").read_bytes()
    for found in (post_form(served, ("a.gsm", content)), ask(f"{served}/transcribe?name=a.gsm", content)):
        assert found.status == 200 and abs(found.json["seconds"] - 2) < 0.05
    assert "a.raw has no header that tells its encoding" in post_form(served, ("a.raw", bytes(8000))).json["error"]


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


@needs_forms
def test_forms_that_end_too_early_and_encoded_bodies_are_refused(served: str, recording: bytes) -> None:
    part = b'--edge\r\nContent-Disposition: form-data; name="a"; filename="a.wav"\r\n\r\n' + recording
    for body in (part, part + b"\r\n" + part):
        found = ask(f"{served}/transcribe", body, Content_Type="multipart/form-data; boundary=edge")
        assert found.status == 400 and found.json["error"].startswith("the form is cut off: its last boundary is miss")
    found = ask(f"{served}/transcribe", gzip.compress(recording), Content_Encoding="gzip")
    assert (found.status, found.json) == (400, {"error": "the body is encoded (gzip): send the file as it is"})


def test_who_posts_a_recording_that_is_cut_off_is_told_by_its_own_name(served: str, recording: bytes) -> None:
    found = ask(f"{served}/transcribe?name=my%20call.wav", recording[:30_000])
    warning = "my call.wav is cut off: it has 0.94 s, and its header says 2.00 s"
    assert found.status == 200 and found.json["warnings"] == [warning]
    assert "warnings" not in ask(f"{served}/transcribe", recording).json


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


@contextlib.contextmanager
def encoder_calls(bundle: Bundle) -> Iterator[list[Any]]:
    """Gains an entry whenever the encoder computes."""
    calls: list[Any] = []
    hook = bundle.model.encoder.register_forward_hook(lambda module, args, output: calls.append(output))
    yield calls
    hook.remove()


def test_the_words_are_the_bundles_and_the_experts_the_routers(saved: Save, tiny_bundle: Bundle) -> None:
    path = saved() / TEST_WAV
    with encoder_calls(tiny_bundle) as calls:
        found = json.loads(json.dumps(uploads.recognise(tiny_bundle, path, name="a.wav")))
    assert len(calls) == 1, "words and experts are of one computation"
    expected = tiny_bundle.transcribe(path)
    assert (found["name"], found["text"], found["seconds"]) == ("a.wav", expected.text, 2.0)
    assert [(w["text"], w["start"], w["end"]) for w in found["words"]] == [tuple(w)[:3] for w in expected.words]
    _, (segment,) = transcribe_with_experts(tiny_bundle, path)
    assert found["experts"]["segments"] == [{"start": 0.0, "expert_ids": segment.expert_ids.tolist()}]
    assert len(found["experts"]["layers"]) == len(segment.expert_ids)
    assert found["experts"]["num_experts"] == 3


def test_models_without_experts_have_none(tiny_bundle: Bundle, saved: Save) -> None:
    config = replace_fields(TINY, {"experts_in": "none"})
    bundle = dataclasses.replace(tiny_bundle, config=config, model=AsrModel(config.model).eval())
    assert uploads.recognise(bundle, saved() / TEST_WAV, name="a.wav")["experts"] is None


def test_errors_speak_of_the_file_by_its_owners_name(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "upload").write_text("not audio")
    with pytest.raises(ValueError, match=r"^song\.mp3 cannot be read as audio") as caught:
        uploads.recognise(tiny_bundle, tmp_path / "upload", name="song.mp3")
    assert str(tmp_path) not in str(caught.value)
    monkeypatch.setattr(uploads, "MAX_SECONDS", 0.5)
    write_wav(tmp_path / "long", np.zeros(16000), sampling_rate=16000)
    with pytest.raises(ValueError, match=r"^song\.mp3 lasts more than 0\.00833333 minutes"):
        uploads.recognise(tiny_bundle, tmp_path / "long", name="song.mp3")
