from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.release.manifest import ExampleRecording
from shared_moe_conformer.speech.audio import write_wav

RunSherpa = Callable[..., str]


@pytest.fixture(scope="module")
def bundle_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle, lang_dir: Path, tones: np.ndarray
) -> Path:
    """The tiny bundle, in a zoo of its own."""
    folder = tmp_path_factory.mktemp("zoo") / "tiny"
    tiny_bundle.save(folder, lang_dir=lang_dir, example=ExampleRecording(tones, 16000, "ONE TWO"))
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, tones: np.ndarray) -> list[Path]:
    """Recordings of 0.1 to 6 seconds at 16 kHz."""
    folder = tmp_path_factory.mktemp("wavs")
    parts = [tones, tones[::-1], tones[:1600], tones[5000:13000], np.tile(tones[3000:], 3) * 0.5]
    for i, samples in enumerate(parts):
        write_wav(folder / f"{i}.wav", samples, sampling_rate=16000)
    return sorted(folder.iterdir())


@pytest.fixture
def run_sherpa() -> RunSherpa:
    """Run a program that uses sherpa-onnx, in a process of its own: sherpa-onnx ends it where it dislikes a model."""
    if importlib.util.find_spec("sherpa_onnx") is None:
        pytest.skip("sherpa-onnx is not installed")

    def run(program: str, *arguments: object, cwd: Path | None = None) -> str:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run
