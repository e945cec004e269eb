"""Every script runs with tiny sizes and returns whole rows."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path

import pytest

from benchmarks.run import SCRIPTS
from benchmarks.tables import Ratio, Report

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def measured(script: str) -> Report:
    return importlib.import_module(f"benchmarks.{script}").measure(True)


STARTING_PROCESSES = ["data_loading", "growth"]


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name not in STARTING_PROCESSES])
def test_script_measures_what_its_columns_say(script: str) -> None:
    assert_whole(measured(script))


@pytest.mark.slow
@pytest.mark.parametrize("script", STARTING_PROCESSES)
def test_slow_script_measures_what_its_columns_say(script: str) -> None:
    assert_whole(measured(script))


def assert_whole(report: Report) -> None:
    assert report.tables
    for table in report.tables:
        for row in table.rows:
            assert len(row) == len(table.columns)
            parts = [part for cell in row for part in (cell if isinstance(cell, Ratio) else [cell])]
            numbers = [part for part in parts if isinstance(part, (int, float))]
            assert numbers and all(math.isfinite(number) and number >= 0 for number in numbers)
    assert all(math.isfinite(floor.median) and floor.target > 0 for floor in report.floors)


def test_readme_names_every_script() -> None:
    listed = re.findall(r"^\| \[(\w+)\.py\]", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(SCRIPTS)
