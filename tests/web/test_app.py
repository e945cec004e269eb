from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.routing import transcribe_with_experts
from shared_moe_conformer.speech.audio import write_wav
from tests.conftest import TINY

app: Any = pytest.importorskip("shared_moe_conformer.web.app", reason="fastapi is not installed")
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
        found = json.loads(json.dumps(app.recognise(tiny_bundle, path, name="a.wav")))
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
    assert app.recognise(bundle, saved() / TEST_WAV, name="a.wav")["experts"] is None


def test_errors_speak_of_the_file_by_its_owners_name(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "upload").write_text("not audio")
    with pytest.raises(ValueError, match=r"^song\.mp3 cannot be read as audio") as caught:
        app.recognise(tiny_bundle, tmp_path / "upload", name="song.mp3")
    assert str(tmp_path) not in str(caught.value)
    monkeypatch.setattr(app, "MAX_SECONDS", 0.5)
    write_wav(tmp_path / "long", np.zeros(16000), sampling_rate=16000)
    with pytest.raises(ValueError, match=r"^song\.mp3 lasts more than 0\.00833333 minutes"):
        app.recognise(tiny_bundle, tmp_path / "long", name="song.mp3")


def test_the_model_is_described(tiny_bundle: Bundle) -> None:
    described = app.describe_model(tiny_bundle)
    assert described["name"] == "tiny"
    assert described["unique_parameters"] == 1000
