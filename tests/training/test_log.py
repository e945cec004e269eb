from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch

from shared_moe_conformer import cpu
from shared_moe_conformer.training import log
from shared_moe_conformer.training.log import environment


def test_versions_are_those_of_this_process() -> None:
    found = environment(torch.device("cpu"))
    assert found["Python"] == platform.python_version() and found["device"] == "cpu"
    assert torch.__version__.startswith(found["torch"]) and found["threads"] == str(torch.get_num_threads())
    assert json.loads(json.dumps(found)) == found


def test_what_is_not_there_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "PACKAGES", ("no-such-package-anywhere",))
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "none")
    found = environment(torch.device("cpu"))
    assert "no-such-package-anywhere" not in found and found["processor"] == platform.machine()
