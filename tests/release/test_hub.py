"""A repository of Hugging Face as a zoo, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared_moe_conformer.release.manifest import WEIGHTS_FILE
from shared_moe_conformer.release.zoo_index import INDEX_FILE, find, read_index
from tests.release.conftest import contents
from tests.zoo_server import serve_hub

pytest.importorskip("huggingface_hub")

ROOT = Path(__file__).resolve().parents[2]


def test_a_hugging_face_repository_is_a_zoo(zoo: Path, here: Path, tmp_path: Path) -> None:
    others: list[str] = []
    with serve_hub(tmp_path / "hub", busy=lambda: others.pop() if others else "") as url:
        environment = {
            **os.environ,
            "HF_ENDPOINT": url,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(ROOT),
        }

        def run_zoo(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "shared_moe_conformer.zoo", *arguments]
            return subprocess.run(command, env=environment, capture_output=True, text=True)

        for name in ("base", "full"):
            pushed = run_zoo("push", name, "--to", "hf://o/zoo", "--zoo-dir", str(zoo))
            assert pushed.returncode == 0, pushed.stderr
        assert contents(tmp_path / "hub" / "base") == contents(zoo / "base")
        assert len(json.loads((tmp_path / "hub" / INDEX_FILE).read_text())) == 2
        assert "--model hf://o/zoo/base speech.wav" in (tmp_path / "hub" / "README.md").read_text()
        (tmp_path / "hub" / "README.md").write_text("a page of somebody's own")
        pushed = run_zoo("push", "base", "--to", "hf://o/zoo", "--zoo-dir", str(zoo))
        assert pushed.returncode == 0, pushed.stderr
        assert (tmp_path / "hub" / "README.md").read_text() == "a page of somebody's own"
        others.append("f" * 40)
        conflict = run_zoo("push", "base", "--to", "hf://o/zoo", "--zoo-dir", str(zoo))
        assert conflict.stderr == "error: hf://o/zoo was changed by somebody else at this moment: push again\n"
        pulled = run_zoo("pull", "base", "--from", "hf://o/zoo", "--zoo-dir", str(here))
        assert pulled.returncode == 0, pulled.stderr
        assert contents(here / "base") == contents(zoo / "base")
        (tmp_path / "hub" / "full" / WEIGHTS_FILE).write_bytes(b"0" * 20_000)
        refused = run_zoo("pull", "full", "--from", "hf://o/zoo", "--zoo-dir", str(here))
        environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
        unreachable = run_zoo("list", "--from", "hf://o/zoo")
        assert unreachable.stderr.startswith("error: hf://o/zoo/index.json cannot be reached now")
        assert unreachable.stderr.count("\n") == 1
        offline = run_zoo("pull", "base", "--from", "hf://o/zoo", "--zoo-dir", str(here))
        assert offline.returncode == 0, offline.stderr
    assert refused.returncode == 1
    assert "is not the file that was released" in refused.stderr
    assert read_index(here) == [find("base", zoo_dir=here)]
