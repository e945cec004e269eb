"""The pages that a reader is given: links, and what commands name."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared_moe_conformer.config import Config, LmConfig, options_by_name, to_dict
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.streaming import EndpointRules
from shared_moe_conformer.training.averaging import Selection
from shared_moe_conformer.training.experiment import RunOptions

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("egs/*/*/*.md")]),
    ROOT / "benchmarks/README.md",
]
PROGRAMS = (
    "shared_moe_conformer/**/*.py",
    "local/*",
    "benchmarks/*.py",
    "docs/*.py",
    "egs/*/*/*.sh",
    "egs/*/*/local/*",
)
"""Where options are written out that are no field of a dataclass."""
OPTION = r"(?<![\w-])--[a-z][a-z0-9_-]*[a-z0-9]"
OF_OTHERS = {
    *("--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--time", "--requeue", "--signal"),  # Slurm
    "--data-binary",
    "--server-ip",
    "--server-port",
    "--no-deps",
    "--standalone",
    "--nnodes",
    "--nthreads",
    "--nworkers",
    "--redirects",
    "--tee",
    "--causal",
    "--dynamic-chunk-training",
    "--num-encoder-layers",
    "--tokens-ngram",
    "--use-ctc",
    "--python",
    "--sample-rate",
    "--logdir",
}
"""Options of curl, pip, torchrun, Dask, icefall, ESPnet, sherpa-onnx and TensorBoard; torchrun's others have _."""


@pytest.mark.parametrize("readme", PAGES, ids=str)
def test_links_lead_somewhere(readme: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", readme.read_text())
    assert [link for link in links if not (readme.parent / link).exists()] == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings; code and links inside them count by their text."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_to_sections_lead_to_a_heading(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text())
    targets = [(page.parent / path if path else page, anchor) for path, anchor in links]
    assert [(str(target), anchor) for target, anchor in targets if anchor not in anchors(target)] == []


@pytest.fixture(scope="module")
def options() -> set[str]:
    """What the programs of this repository understand."""
    fields = [f.name for cls in (DecodingConfig, EndpointRules, RunOptions, Selection) for f in dataclasses.fields(cls)]
    trees = options_by_name(to_dict(Config())) | options_by_name(to_dict(LmConfig()))
    flags = {f"--{name.replace('_', '-')}" for name in (*fields, *trees)}
    texts = [path.read_text() for pattern in PROGRAMS for path in ROOT.glob(pattern) if path.is_file()]
    return flags.union(*(re.findall(OPTION, text) for text in texts))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_options_that_are_named_are_there(page: Path, options: set[str]) -> None:
    named = {option for option in re.findall(OPTION, page.read_text()) if "_" not in option}
    assert named - options - OF_OTHERS - {"--init", "--teacher"} == set()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_programs_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    modules = re.findall(r"python -m ((?:shared_moe_conformer|benchmarks)\.\w+)", text)
    scripts = [script.removeprefix("../../../") for script in re.findall(r"(?:\.\./)*local/\w+\.(?:py|sh)", text)]
    names = [f"{module.replace('.', '/')}.py" for module in modules] + scripts
    assert [name for name in names if not (ROOT / name).exists() and not (page.parent / name).exists()] == []


def test_the_programs_of_the_page_about_python_run(saved: Callable[..., Path]) -> None:
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    assert len(programs) == 2
    code = "\n".join(programs).replace("zoo/an4-merged", str(saved()))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "torch.Size([2, 24, 64]) [24, 14]" in result.stdout


def test_the_modules_that_the_changelog_gives_as_new_are_there() -> None:
    rows = re.findall(r"^\| `.*\| (.*) \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert len(names) > 30
    package = ROOT / "shared_moe_conformer"
    assert [name for name in names if not (package / f"{name.replace('.', '/')}.py").exists()] == []
