from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.decoding.methods import METHODS
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.release.manifest import FILES, TEST_WAV, WEIGHTS_FILE, ExampleRecording, expected_text
from shared_moe_conformer.release.zoo_index import SUMS_FILE, add, write_sums
from shared_moe_conformer.speech.audio import write_wav

ROOT = Path(__file__).resolve().parent.parent
Save = Callable[..., Path]


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    write_sums(path.parent)


def test_folder_holds_what_it_should_and_only_readable_files(saved: Save) -> None:
    folder = saved()
    assert {path.name for path in folder.iterdir()} == {*FILES, SUMS_FILE}
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "safetensors writes files for the owner alone"


def test_model_survives_the_round_trip(saved: Save, tiny_bundle: Bundle, tones: np.ndarray) -> None:
    loaded = Bundle.load(saved())
    assert loaded.manifest == tiny_bundle.manifest
    assert loaded.config == tiny_bundle.config
    assert not loaded.model.training
    state = tiny_bundle.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.transcribe(tones, sampling_rate=16000) == tiny_bundle.transcribe(tones, sampling_rate=16000)


def test_a_loaded_bundle_can_be_saved_again_with_equal_bytes(saved: Save, tmp_path: Path, tones: np.ndarray) -> None:
    first = saved()
    example = ExampleRecording(tones, 16000, "ONE TWO THREE FOUR")
    Bundle.load(first).save(tmp_path / "second", lang_dir=first, example=example)
    assert (tmp_path / "second" / SUMS_FILE).read_text() == (first / SUMS_FILE).read_text()


def test_expected_text_is_what_the_model_says_and_the_reference_stands_beside_it(saved: Save) -> None:
    folder = saved()
    transcript = Bundle.load(folder).transcribe(folder / TEST_WAV)
    assert transcript.text
    assert transcript.text == expected_text(folder)
    assert "reference (what was said): ONE TWO THREE FOUR\n" in (folder / "test.txt").read_text()


@pytest.mark.parametrize("name", FILES)
def test_any_changed_file_is_refused_by_name(saved: Save, name: str) -> None:
    path = saved() / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        Bundle.load(path.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_any_missing_file_is_refused_by_name(saved: Save, name: str) -> None:
    folder = saved()
    (folder / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=name):
        Bundle.load(folder)


def test_a_model_has_a_name_in_a_zoo_here_or_elsewhere(saved: Save, tmp_path: Path, tones: np.ndarray) -> None:
    folder = saved()
    add(folder)
    expected = Bundle.load(folder).transcribe(tones, sampling_rate=16000)
    for model, zoo_dir in (("tiny", folder.parent), (folder.as_uri(), tmp_path / "here")):
        assert Bundle.load(model, zoo_dir=zoo_dir).transcribe(tones, sampling_rate=16000) == expected
    assert (tmp_path / "here" / "tiny" / WEIGHTS_FILE).is_file()


def test_sums_are_optional(saved: Save) -> None:
    folder = saved()
    (folder / SUMS_FILE).unlink()
    Bundle.load(folder, verify=False)
    with pytest.raises(ValueError, match=SUMS_FILE):
        Bundle.load(folder)


@pytest.mark.parametrize("seconds", [0.1, 31, float("nan")])
def test_segments_that_cannot_be_are_refused(saved: Save, seconds: float) -> None:
    folder = saved()
    edit_json(folder / "bundle.json", segment_seconds=seconds)
    with pytest.raises(ValueError, match=f"segment_seconds is {seconds}: it must be 5 to 30"):
        Bundle.load(folder)


def test_tuned_values_survive_and_are_the_default(saved: Save, tones: np.ndarray) -> None:
    loaded = Bundle.load(
        saved(decoding_options={"greedy_search": {"blank_penalty": -6.0}, "1best": {"hlg_scale": 0.3}})
    )
    assert loaded.default_search == DecodingConfig(blank_penalty=-6.0)
    by_default = loaded.transcribe(tones, sampling_rate=16000)
    assert by_default == loaded.transcribe(tones, sampling_rate=16000, decoding=DecodingConfig(blank_penalty=-6.0))
    assert by_default != loaded.transcribe(tones, sampling_rate=16000, decoding=DecodingConfig())


def test_tuned_values_that_cannot_be_are_refused(saved: Save) -> None:
    folder = saved()
    edit_json(folder / "bundle.json", decoding_options={"1best": {"hlg_scale": -1.0}})
    with pytest.raises(ValueError, match=r"bundle\.json: decoding_options: hlg_scale is -1\.0: give a positive number"):
        Bundle.load(folder)


def test_newer_formats_are_refused(saved: Save) -> None:
    folder = saved()
    edit_json(folder / "bundle.json", format_version=99)
    with pytest.raises(ValueError, match="format version 99 is newer"):
        Bundle.load(folder)


def test_unknown_and_missing_options_are_named(saved: Save) -> None:
    folder = saved()
    edit_json(folder / "config.json", new_part={})
    with pytest.raises(ValueError, match="new_part"):
        Bundle.load(folder)
    edit_json(saved("other") / "bundle.json", decoding_method="telepathy")
    with pytest.raises(ValueError, match="telepathy"):
        Bundle.load(folder.parent / "other")


@pytest.mark.parametrize("encoder_dim", ["16", 16.5, [16], None, 2**40, True])
def test_a_model_that_cannot_be_is_refused_with_one_line(saved: Save, encoder_dim: object) -> None:
    path = saved() / "config.json"
    values = json.loads(path.read_text())
    values["model"]["encoder"]["encoder_dim"] = encoder_dim
    edit_json(path, **values)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        Bundle.load(path.parent)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(saved: Save) -> None:
    path = saved() / WEIGHTS_FILE
    weights = load_file(path)
    name = "joiner.output.weight"
    for changed in (
        {n: w for n, w in weights.items() if n != name},
        {**weights, name: weights[name][:-1].clone()},
        {**weights, f"{name}.more": weights[name].clone()},
    ):
        save_file(changed, path)
        write_sums(path.parent)
        with pytest.raises(ValueError, match=name) as caught:
            Bundle.load(path.parent)
        assert "\n" not in str(caught.value)


def test_a_pickle_is_never_opened(saved: Save, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "sprung"),)

    folder = saved()
    torch.save({"model": Trap()}, folder / WEIGHTS_FILE)
    write_sums(folder)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        Bundle.load(folder)
    assert not (tmp_path / "sprung").exists()


def test_existing_bundle_is_replaced_only_on_demand(saved: Save, tiny_bundle: Bundle, tones: np.ndarray) -> None:
    folder = saved()
    sums = (folder / SUMS_FILE).read_text()
    for overwrite, error in ((False, FileExistsError), (True, FileNotFoundError)):
        with pytest.raises(error):
            tiny_bundle.save(
                folder, lang_dir=folder / "nowhere", example=ExampleRecording(tones, 16000, ""), overwrite=overwrite
            )
        assert (folder / SUMS_FILE).read_text() == sums
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    tiny_bundle.save(folder, lang_dir=folder, example=ExampleRecording(tones[:8000], 16000, ""), overwrite=True)
    assert (folder / SUMS_FILE).read_text() != sums
    Bundle.load(folder)


BY_THEMSELVES = [name for name, method in METHODS.items() if set(method.uses) <= {"word_graph", "hotwords", "to_text"}]
"""Searches that need no file besides the model, with the default options."""


def test_a_search_that_needs_a_language_model_says_that_there_is_none(saved: Save, tones: np.ndarray) -> None:
    decoding = DecodingConfig(decoding_method="modified_beam_search_LODR")
    with pytest.raises(FileNotFoundError, match="no n-gram over tokens in .*tiny/token_"):
        Bundle.load(saved()).transcribe(tones, sampling_rate=16000, decoding=decoding)


def test_an_oracle_has_nothing_to_choose_by(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    decoding = DecodingConfig(decoding_method="nbest_oracle", graph="H")
    with pytest.raises(ValueError, match="no transcripts to choose by: an oracle can decode test sets"):
        tiny_bundle.transcribe(tones, sampling_rate=16000, decoding=decoding)


@pytest.mark.parametrize("method", BY_THEMSELVES)
def test_every_search_gives_rising_times_and_the_words_of_the_text(
    tiny_bundle: Bundle, tones: np.ndarray, method: str
) -> None:
    if METHODS[method].engines == ("k2",):
        pytest.importorskip("k2")
    decoding = DecodingConfig(decoding_method=method)  # type: ignore[arg-type]
    if "graph" in METHODS[method].options:
        decoding = dataclasses.replace(decoding, graph="H")
    transcript = tiny_bundle.transcribe(tones, sampling_rate=16000, decoding=decoding)
    assert transcript.text
    assert transcript.times == sorted(transcript.times)
    assert [word.text for word in transcript.words] == transcript.text.split()


def test_a_file_of_hotwords_is_read_as_it_is_now(tiny_bundle: Bundle, tones: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    texts = []
    for phrase in ("FOUR", "TWO"):
        file.write_text(phrase)
        decoding = DecodingConfig(
            decoding_method="modified_beam_search", hotwords_file=str(file), hotwords_score=60.0, beam_size=8
        )
        texts.append(tiny_bundle.transcribe(tones, sampling_rate=16000, decoding=decoding).text)
    assert "FOUR" in texts[0] and "TWO" in texts[1] and "FOUR" not in texts[1]


def other_python() -> Path | None:
    """The interpreter of the other environment: $OTHER_PYTHON, or the one that `make` built in the clone."""
    if os.environ.get("OTHER_PYTHON"):
        return Path(os.environ["OTHER_PYTHON"])
    built = (ROOT / f".venv-{engine}" / "bin" / "python" for engine in ("k2", "torch"))
    return next((path for path in built if path.exists() and path.parent.parent != Path(sys.prefix)), None)


@pytest.mark.slow
@pytest.mark.skipif(other_python() is None, reason="only one environment here: give the other's as OTHER_PYTHON")
def test_the_other_environment_transcribes_identically(saved: Save, tones: np.ndarray, tmp_path: Path) -> None:
    folder = saved()
    rates = (8000, 16000, 22050, 44100, 48000)
    paths = [tmp_path / f"{rate}.wav" for rate in rates]
    for path, rate in zip(paths, rates):
        write_wav(path, tones, sampling_rate=rate)
    options = ["--model", folder, "--format", "json", "--vad", "false"]
    command = [other_python(), "-m", "shared_moe_conformer.transcribe", *options, *paths]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    here = Bundle.load(folder)
    for path, line in zip(paths, result.stdout.splitlines()):
        there, mine = json.loads(line), here.transcribe(path)
        assert mine.text
        assert (there["text"], there["tokens"], there["times"]) == (mine.text, mine.tokens, mine.times)
