"""A released model in sherpa-onnx's layout, run by sherpa-onnx's own programs and in Node, on real speech."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from shared_moe_conformer.bundle import Bundle  # noqa: E402
from shared_moe_conformer.config import FeatureConfig  # noqa: E402
from shared_moe_conformer.decoding.options import DecodingConfig, DecodingMethod  # noqa: E402
from shared_moe_conformer.forms.sherpa_folder import feature_options, write_onnx_streaming, write_sherpa  # noqa: E402
from shared_moe_conformer.speech.audio import read_audio, write_wav  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RELEASED = ROOT / "zoo/an4-base"
TRANSDUCER = ("--encoder=encoder.onnx", "--decoder=decoder.onnx", "--joiner=joiner.onnx")
CTC = ("--zipformer-ctc-model=model.onnx",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in the clone, in sherpa-onnx's layout."""
    folder = tmp_path_factory.mktemp("zoo") / "sherpa-onnx-conformer-an4-base"
    assert max(write_sherpa(RELEASED, folder).values()) < 1e-3
    return folder


@pytest.fixture(scope="module")
def speech(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The test recording and two parts of it."""
    samples, sampling_rate = read_audio(folder / "test_wavs/0.wav")
    parts = tmp_path_factory.mktemp("parts")
    for name, part in (("begin", samples[:24000]), ("end", samples[20000:])):
        write_wav(parts / f"{name}.wav", np.asarray(part), sampling_rate=sampling_rate)
    return [folder / "test_wavs/0.wav", *sorted(parts.iterdir())]


def own_texts(recordings: list[Path], method: DecodingMethod) -> list[str]:
    """What the package itself recognises."""
    bundle, search = Bundle.load(RELEASED), DecodingConfig(decoding_method=method, max_sym_per_frame=1)
    texts = [bundle.transcribe(path, decoding=search).text for path in recordings]
    assert texts[0] == "L K K N THIRTY EIGHT" and all(texts)
    return texts


def program(name: str) -> str:
    """One of sherpa-onnx's programs."""
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        pytest.skip(f"{name} is not installed: pip install sherpa-onnx-bin")
    return str(path)


def texts_of(command: list[str], folder: Path) -> list[str]:
    """The texts that a program of sherpa-onnx prints."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return [json.loads(line)["text"] for line in result.stdout.splitlines() if line.startswith("{")]


def test_the_layout_is_that_of_sherpas_own_models(folder: Path) -> None:
    graphs = {"encoder.onnx", "encoder.int8.onnx", "decoder.onnx", "joiner.onnx", "model.onnx", "model.int8.onnx"}
    assert {path.name for path in folder.iterdir()} == {*graphs, "tokens.txt", "bpe.model", "README.md", "test_wavs"}
    assert {path.name for path in (folder / "test_wavs").iterdir()} == {"0.wav", "trans.txt"}
    assert (folder / "test_wavs/trans.txt").read_text() == "0.wav L K K N THIRTY EIGHT\n"
    _, header, body = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["library_name"] == "sherpa-onnx"
    assert body.startswith(f"\n# {folder.name}\n")


@pytest.mark.parametrize("graphs, method", [(TRANSDUCER, "greedy_search"), (CTC, "ctc_greedy_search")])
def test_sherpas_program_finds_the_packages_texts(
    folder: Path, speech: list[Path], graphs: tuple[str, ...], method: DecodingMethod
) -> None:
    command = [program("sherpa-onnx-offline"), "--tokens=tokens.txt", *graphs, *map(str, speech)]
    assert texts_of(command, folder) == own_texts(speech, method)


def test_the_commands_of_the_card_run(folder: Path) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    commands = [line.split() for line in block.replace("\\\n", "").splitlines()]
    for name, *arguments in commands:
        assert texts_of([program(name), *arguments], folder) == ["L K K N THIRTY EIGHT"]
    page = (ROOT / "docs/sherpa-onnx.md").read_text()
    assert block in page and page.count("\n") <= 40


@pytest.mark.slow  # 8 s: graphs of chunks of a real model are exported
def test_the_commands_of_the_streaming_card_run(tmp_path: Path) -> None:
    """sherpa-onnx's program adds silence before and after; the model, which knows only whole utterances, hears on."""
    write_onnx_streaming(RELEASED, tmp_path / "streaming")
    _, header, body = (tmp_path / "streaming/README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "bsd-2-clause"
    assert "model-index" not in header, "the model's error rates are not those of chunks"
    (block,) = re.findall(r"```bash\n(.*?)```", body, re.DOTALL)
    for name, *arguments in map(str.split, block.splitlines()):
        command = [program(name), *arguments]
        result = subprocess.run(command, cwd=tmp_path / "streaming", capture_output=True, text=True, timeout=120)
        found = re.findall(r'^{ "text": "(.*?)", "tokens"', result.stderr + result.stdout, re.MULTILINE)
        assert found == ["L K K N THIRTY EIGHT"], result.stderr


@pytest.mark.slow  # 6 s: sherpa-onnx is installed and compiled by node
def test_the_pages_program_for_node_finds_the_packages_texts(folder: Path, speech: list[Path], tmp_path: Path) -> None:
    """Its WebAssembly package has 15 MB, and npm keeps it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not (node and npm):
        pytest.skip("needs node and npm")
    install = [
        npm,
        "install",
        "--no-fund",
        "--no-audit",
        "--prefer-offline",
        "--prefix",
        str(tmp_path),
        "sherpa-onnx@1",
    ]
    installed = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if installed.returncode:
        pytest.skip(f"npm cannot install sherpa-onnx: {installed.stderr.strip().splitlines()[-1:]}")
    (code,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs/sherpa-onnx.md").read_text(), re.DOTALL)
    (tmp_path / "recognise.js").write_text(code.replace("encoder.int8", "encoder"))
    command = [node, "recognise.js", str(folder), *map(str, speech)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines() == own_texts(speech, "greedy_search"), result.stderr


def test_other_features_are_told_to_the_program() -> None:
    assert feature_options(FeatureConfig()) == ""
    other = FeatureConfig(sampling_rate=8000, num_mel_bins=40)
    assert feature_options(other) == "--sample-rate=8000 --feat-dim=40 "
