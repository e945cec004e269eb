"""Running the command lines of local/ in this process: importing lhotse again takes seconds."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from shared_moe_conformer.cli import run_main

LOCAL = Path(__file__).resolve().parents[2] / "local"


class Result(NamedTuple):
    """What a command line did."""

    status: int
    out: str
    err: str


@pytest.fixture
def run_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run `local/<program>.py <arguments>` in the test's folder."""

    def run(program: str, *arguments: object) -> Result:
        spec = importlib.util.spec_from_file_location(program, LOCAL / f"{program}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", [program, *map(str, arguments)])
        capfd.readouterr()
        try:
            run_main(module.main)
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Result(status, *capfd.readouterr())

    return run
