"""The notebook of docs/ for those who begin."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs/first_training.ipynb"


def test_the_notebook_has_no_outputs_and_is_small() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert NOTEBOOK.stat().st_size < 20_000


@pytest.mark.slow  # a minute: it trains on real speech
def test_the_notebook_trains_and_reads_strings_that_it_has_not_heard(downloaded_recipe: Path) -> None:
    docs = downloaded_recipe.parents[2] / "docs"
    docs.mkdir(exist_ok=True)
    shutil.copy(NOTEBOOK, docs)
    notebook = nbformat.read(docs / NOTEBOOK.name, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(docs)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    (right,) = re.findall(r"(\d+) of 40 strings are right", printed)
    assert int(right) >= 20
    assert any("image/png" in output.get("data", {}) for output in outputs)
