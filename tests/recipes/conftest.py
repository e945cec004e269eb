"""Real speech for corpora in miniature, and recipes that are run on them by their own programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from tests.recipes.corpora import MADE, Clip
from tests.recipes.loading import load

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "--encoder-dim=16",
    "--feed-forward-dim=24",
    "--num-attention-heads=2",
    "--subsampling-channels=4",
    "--decoder-dim=8",
    "--joiner-dim=8",
    "--num-epochs=1",
    "--num-workers=0",
    "--num-buckets=2",
    "--warmup-steps=1",
)
"""Flags of a model that trains in a second."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def clips(downloaded_recipe: Path) -> list[Clip]:
    """Prompts of 1.8 to 4 s and at most 20 characters a second, in the order of their names."""
    manifests = load(ROOT / "egs/asterisk/ASR/local/build_manifests.py")
    result = []
    for clip in manifests.find_clips(downloaded_recipe / "download"):
        duration = soundfile.info(str(clip.path)).duration
        text = manifests.normalise(clip.text)
        if not clip.reason_to_drop and 1.8 <= duration <= 4 and len(text) < 20 * duration:
            result.append(Clip(clip.path, text))
    assert len(result) > 100
    return list({clip.text: clip for clip in result}.values())


@pytest.fixture
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a recipe's folder in a clone of its own; the test's parameter names the recipe."""
    shutil.copytree(ROOT / "local", tmp_path / "clone/local")
    folder = tmp_path / "clone/egs" / request.param / "ASR"
    shutil.copytree(ROOT / "egs" / request.param / "ASR", folder, ignore=MADE)
    return folder


@pytest.fixture
def run(python_folder: Path) -> Run:
    """Run a program that must succeed; from another folder than its own."""

    def run(program: str | Path, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{python_folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        command = [str(program), *map(str, arguments)]
        result = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
        assert result.returncode == status, result.stdout + result.stderr
        return result

    return run


@pytest.fixture
def use(run: Run) -> Callable[..., str]:
    """Train on a prepared recipe, decode, release, and transcribe the released model's example; its text."""

    def use(recipe: Path, *options: str) -> str:
        run(recipe / "train.py", *TINY, *options)
        method = ("--decoding-method", "1best", "--graph", "HLG", "--search-beam", "8", "--max-active", "200")
        for decoding in ((), method):
            run(recipe / "decode.py", *decoding)
        run(recipe / "export.py", "--zoo-dir", recipe / "zoo", "--name", "tiny")
        model = recipe / "zoo/tiny"
        said = run("python3", "-m", "shared_moe_conformer.transcribe", "--model", model, "--format", "text",
                   "--vad", "false", model / "test.wav").stdout  # fmt: skip
        return said.strip()

    return use
