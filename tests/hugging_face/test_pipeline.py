"""The whole of `shared_moe_conformer.hugging_face` in transformers' pipeline, on real speech."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.speech.audio import read_audio

CTC = DecodingConfig(decoding_method="ctc_greedy_search")


@pytest.fixture(scope="module")
def recogniser(released_folder: Path) -> Any:
    from transformers import pipeline

    return pipeline("automatic-speech-recognition", model=str(released_folder), trust_remote_code=True)


@pytest.fixture(scope="module")
def speech(released: Path) -> np.ndarray:
    return read_audio(released / "test.wav")[0]


def as_input(samples: np.ndarray) -> dict[str, Any]:
    return {"raw": samples, "sampling_rate": 16000}


def test_texts_are_those_of_ctc_alone_or_in_batches(recogniser: Any, speech: np.ndarray, released: Path) -> None:
    bundle = Bundle.load(released)
    parts = [speech, speech[:24000], speech[20000:], speech[::-1].copy(), speech[:500]]
    own = [bundle.transcribe(part, sampling_rate=16000, decoding=CTC).text for part in parts]
    assert own[0] == "L K K N THIRTY EIGHT" and own[-1] == ""
    assert [recogniser(as_input(part))["text"] for part in parts] == own
    assert [found["text"] for found in recogniser([as_input(part) for part in parts], batch_size=5)] == own


def test_long_audio_in_chunks_has_the_text_and_the_times(recogniser: Any, speech: np.ndarray, released: Path) -> None:
    (seconds, text), once = (len(speech) / 16000, "L K K N THIRTY EIGHT"), as_input(np.tile(speech, 5))
    found = recogniser(once, chunk_length_s=5, return_timestamps="word")
    assert found["text"] == " ".join([text] * 5)
    words = Bundle.load(released).transcribe(speech, sampling_rate=16000, decoding=CTC).words
    expected = [(word.text, word.start + i * seconds) for i in range(5) for word in words]
    assert [chunk["text"] for chunk in found["chunks"]] == [word for word, _ in expected]
    starts = [chunk["timestamp"][0] for chunk in found["chunks"]]
    np.testing.assert_allclose(starts, [start for _, start in expected], atol=0.061)  # a frame and a half
    units = recogniser(as_input(speech), return_timestamps="char")["chunks"]
    assert "".join(unit["text"] for unit in units).split() == text.split()


def test_a_folder_that_was_saved_again_names_the_same_classes(
    recogniser: Any, tmp_path: Path, speech: np.ndarray, released_folder: Path
) -> None:
    from transformers import pipeline

    recogniser.save_pretrained(tmp_path)
    code = "code_shared_moe_conformer.py"
    assert (tmp_path / code).read_text() == (released_folder / code).read_text()
    for file in ("config.json", "tokenizer_config.json"):
        own, again = (json.loads((folder / file).read_text()) for folder in (released_folder, tmp_path))
        assert own["auto_map"] == again["auto_map"]
    registered = pipeline("automatic-speech-recognition", model=str(tmp_path))  # nothing of the folder is run
    assert registered(as_input(speech))["text"] == "L K K N THIRTY EIGHT"


def test_the_folders_code_says_in_one_line_what_is_missing(
    recogniser: Any, released_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(name.endswith(".code_shared_moe_conformer") for name in sys.modules)  # by it the pipeline was made
    monkeypatch.setitem(sys.modules, "shared_moe_conformer.hugging_face", None)
    expected = r"this model needs the package shared_moe_conformer \(.*\): in its repository, run pip install \. lhotse"
    with pytest.raises(ImportError, match=expected):
        runpy.run_path(str(released_folder / "code_shared_moe_conformer.py"))


def test_the_programs_of_the_page_run(
    released: Path, released_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (released.parents[1] / "docs/transformers.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = "".join(programs).replace("zoo/an4-base-transformers", str(released_folder))
    exec(code.replace("zoo/an4-base/", f"{released}/"), {})
    text, chunks, shape = capsys.readouterr().out.splitlines()
    assert (text, shape) == ("L K K N THIRTY EIGHT", "torch.Size([1, 74, 128])")
    assert "'THIRTY'" in chunks
