"""A model pushed to a repository of Hugging Face and loaded from it, by a little of Hugging Face's server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.zoo_server import serve_hub

pytest.importorskip("huggingface_hub")

PROGRAM = """
import sys
import soundfile
from transformers import AutoModel, pipeline
from shared_moe_conformer.convert import main

released, folder = sys.argv[1:]
main(["--model", released, "--to", "transformers", "--output", folder, "--push", "hf://o/an4"])
samples, sampling_rate = soundfile.read(f"{released}/test.wav", dtype="float32")
recogniser = pipeline("automatic-speech-recognition", model="o/an4", trust_remote_code=True)
print(recogniser({"raw": samples, "sampling_rate": sampling_rate})["text"])
print(type(AutoModel.from_pretrained("o/an4", trust_remote_code=True)).__name__)
"""


@pytest.mark.slow  # 7 s: transformers, and the model twice
def test_a_pushed_model_runs_by_its_repositorys_name(released: Path, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    with serve_hub(tmp_path / "hub") as url:
        own = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "hf_test"}
        own |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_DISABLE_XET": "1"}
        own["PYTHONPATH"] = str(released.parents[1])
        command = [sys.executable, "-c", PROGRAM, str(released), str(tmp_path / "an4-transformers")]
        result = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-3:] == [
        "hf://o/an4: now has it",
        "L K K N THIRTY EIGHT",
        "SharedMoeConformerModel",
    ]
    pushed, own_files = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("hub", "an4-transformers")
    )
    assert pushed == own_files
