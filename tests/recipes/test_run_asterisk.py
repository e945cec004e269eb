"""The whole story on real speech, with a model so small that it says nothing right: prepare, train, decode, release."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lhotse import CutSet

from shared_moe_conformer.decoding.methods import label
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.searches import resolved

TINY = (
    "--encoder-dim=32",
    "--feed-forward-dim=64",
    "--group-sizes=2",
    "--subsampling-channels=8",
    "--max-duration=200",
)


@pytest.fixture
def recipe(prepared_recipe: Path, tmp_path: Path) -> Path:
    """A copy of the prepared recipe with few recordings to decode: an untrained model's lattices are huge."""
    shutil.copytree(prepared_recipe.parents[2], tmp_path / "clone")
    copy = tmp_path / "clone/egs/asterisk/ASR"
    for split in ("dev", "test"):
        path = copy / f"data/fbank/cuts_{split}.jsonl.gz"
        few = sorted(CutSet.from_file(path), key=lambda cut: cut.duration)[4:6]
        path.unlink()
        CutSet.from_cuts(few).to_file(path)
    return copy


def start(recipe: Path, *arguments: str, python: Path) -> subprocess.Popen[str]:
    """The recipe's run.sh, with the python3 of a folder."""
    package = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(package)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([recipe / "run.sh", *arguments], env=environment, start_new_session=True, **pipes)


@pytest.mark.slow
def test_one_command_goes_from_speech_to_a_released_model(recipe: Path, python_folder: Path) -> None:
    with start(recipe, "--num-epochs", "1", *TINY, python=python_folder) as process:
        printed, errors = process.communicate(timeout=900)
    assert process.returncode == 0, printed + errors
    for search in resolved(DecodingConfig(decoding_method="all"), vocab_size=64):
        method = search.decoding_method
        assert list((recipe / "exp/merged" / method).glob("*wer-summary-test-epoch-1-avg-1-*.txt"))
        assert f"\n{label(search)} " in printed
    assert "left out" not in printed or "k2 is not installed" in printed, "prepare.sh makes all that searches need"
    assert (recipe / "exp/merged/comparison-test-epoch-1-avg-1.txt").is_file()
    zoo = recipe.parents[2] / "zoo"
    entry = json.loads((zoo / "index.json").read_text())
    assert '"asterisk-en"' in json.dumps(entry)
    expected = (zoo / "asterisk-en/test.txt").read_text().splitlines()[1]
    assert printed.count(expected) >= 2, "the released model transcribes its test recording as it says it does"

    trained = (recipe / "exp/merged/epoch-1.pt").stat().st_mtime_ns
    with start(recipe, "--num-epochs", "1", *TINY, python=Path(sys.executable).parent) as process:
        assert process.stdout and any("== Choose scales" in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGKILL)
    assert (recipe / "exp/merged/epoch-1.pt").stat().st_mtime_ns == trained, "a second run goes on after the first"
