from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.tables import Floor, Report, Table, to_json


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    results = tmp_path / "results" / "torch"
    results.mkdir(parents=True)
    report = Report([Table("Searches", ["", "ratio"], [["greedy", 0.25]])], [Floor("time", 0.5, 0.4)])
    (results / "searches.json").write_text(to_json(report))
    (results / "machine.json").write_text(json.dumps({"CPU": "some"}))
    (tmp_path / "README.md").write_text(f"above\n{run.BEGIN}\nold\n{run.END}\nbelow\n")
    for name, value in (("FOLDER", tmp_path), ("README", tmp_path / "README.md"), ("RESULTS", tmp_path / "results")):
        monkeypatch.setattr(run, name, value)
    return tmp_path


def test_report_replaces_what_is_between_the_markers_and_draws(folder: Path) -> None:
    run.report()
    text = (folder / "README.md").read_text()
    assert text.startswith("above\n") and text.endswith("below\n")
    assert "old" not in text
    assert "| greedy | 0.25 |" in text and "| time | <= 0.5 | 0.40 | yes |" in text and "CPU: some" in text
    assert "</svg>" in (folder / "ratios.svg").read_text()
    again = text
    run.report()
    assert (folder / "README.md").read_text() == again


def test_machine_says_that_there_was_no_gpu() -> None:
    about = run.machine()
    assert "torch" in about["software"] and about["GPU"].startswith("none")
