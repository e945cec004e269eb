"""The whole story on real speech, with a model so small that it says nothing right: prepare, train, decode, release."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.decoding.methods import METHODS
from shared_moe_conformer.onnx_compare import compare_precisions, write_test_set
from shared_moe_conformer.onnx_export import export_onnx

TINY = (
    "--encoder-dim=32",
    "--feed-forward-dim=64",
    "--group-sizes=2",
    "--subsampling-channels=8",
    "--max-duration=200",
)


def run(recipe: Path, *arguments: str) -> str:
    """What the recipe's run.sh prints; it must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    package = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(package)}
    command = [str(recipe / "run.sh"), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_one_command_goes_from_speech_to_a_released_model(prepared_recipe: Path) -> None:
    printed = run(prepared_recipe, "--num-epochs", "1", *TINY)
    for method in METHODS:
        assert list((prepared_recipe / "exp/base" / method).glob("wer-summary-test-epoch-1-avg-1-*.txt"))
        assert method in printed
    zoo = prepared_recipe.parents[2] / "zoo"
    entry = json.loads((zoo / "index.json").read_text())
    assert "asterisk-en-base" in json.dumps(entry)
    expected = (zoo / "asterisk-en-base/test.txt").read_text().splitlines()[1]
    assert printed.count(expected) >= 2, "the released model transcribes its test recording as it says it does"

    trained = (prepared_recipe / "exp/base/epoch-1.pt").stat().st_mtime_ns
    run(prepared_recipe, "--num-epochs", "1", *TINY)
    assert (prepared_recipe / "exp/base/epoch-1.pt").stat().st_mtime_ns == trained, (
        "a second run goes on where the first stopped"
    )
    check_precisions(zoo / "asterisk-en-base", prepared_recipe)


def check_precisions(folder: Path, recipe: Path) -> None:
    """float16 and int8 make sherpa-onnx's error rates on the whole test set half a point better or worse at most."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "sherpa_onnx")):
        return
    onnx_dir = folder.with_name("onnx")
    export_onnx(folder, onnx_dir)
    bundle = Bundle.load(folder)
    wavs = recipe / "wavs"
    wavs.mkdir()
    utterances = write_test_set(recipe, "test", wavs, bundle=bundle)
    assert len(utterances) == 52
    rates = {(row.kind, row.precision): row.word_error_rate for row in
             compare_precisions(bundle, onnx_dir, utterances, rounds=1)}  # fmt: skip
    assert len(rates) == 6
    for (kind, _), rate in rates.items():
        assert abs(rate - rates[kind, "float32"]) <= 0.5
