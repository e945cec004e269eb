from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
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
from shared_moe_conformer.web import answers
from tests.conftest import TINY

Save = Callable[..., Path]


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
        found = json.loads(json.dumps(answers.recognise(tiny_bundle, path, name="a.wav")))
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
    assert answers.recognise(bundle, saved() / TEST_WAV, name="a.wav")["experts"] is None


def test_errors_speak_of_the_file_by_its_owners_name(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "upload").write_text("not audio")
    with pytest.raises(ValueError, match=r"^song\.mp3 cannot be read as audio") as caught:
        answers.recognise(tiny_bundle, tmp_path / "upload", name="song.mp3")
    assert str(tmp_path) not in str(caught.value)
    monkeypatch.setattr(answers, "MAX_SECONDS", 0.5)
    write_wav(tmp_path / "long", np.zeros(16000), sampling_rate=16000)
    with pytest.raises(ValueError, match=r"^song\.mp3 lasts more than 0\.00833333 minutes"):
        answers.recognise(tiny_bundle, tmp_path / "long", name="song.mp3")


def test_the_model_is_described(tiny_bundle: Bundle) -> None:
    described = answers.describe_model(tiny_bundle)
    assert described["name"] == "tiny"
    assert described["unique_parameters"] == 1000
