"""Who may import whom: nouns never import verbs, and each outside library enters in few places."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "shared_moe_conformer"

VERBS = {
    "train",
    "train_lm",
    "decode",
    "export",
    "transcribe",
    "compare_forms",
    "convert",
    "zoo",
    "serve",
    "report",
}

FOUNDATION = {"atomic", "device", "text"}
"""Parts that any other may import."""

MAY_IMPORT = {
    "config": set(),
    "cli": {"config"},
    "kernels": set(),
    "model": {"config", "kernels", "loss"},
    "loss": {"kernels"},
    "data": {"config", "speech"},  # of speech the one reader of audio files
    "lattice": set(),
    "params": {"cli", "config", "model"},
    "training": {"config", "data", "model", "params"},  # of data the types alone
    "decoding": {"config", "model", "lattice", "loss", "data"},  # of data the types alone
    "speech": {"config", "decoding", "model"},  # of decoding the type of hypotheses
    "release": {"config", "model"},
    "forms": {"bundle", "config", "data", "decoding", "model", "release", "speech"},
    "hugging_face": {"config", "data", "kernels", "loss", "model", "release", "speech"},
    "routing": {"bundle", "config", "data", "model", "speech"},
    "web": {"bundle", "config", "release", "routing", "speech", "streaming"},
    "reporting": {"config", "web"},
}
"""What each part may import of the package, besides itself; a file that is not listed may import all but verbs."""

ONLY_IN = {
    "k2": {"loss/pruned_transducer.py", "lattice/k2_engine.py"},
    "lhotse": {"data/"},
    "kaldifst": {"lattice/lg.py"},
    "kaldilm": {"lattice/lg.py"},
    "kaldi_decoder": set(),
    "av": {"speech/containers.py"},
    "fastapi": {"web/app.py"},
    "markdown_it": {"web/zoo_site.py"},
    "espnet2": {"espnet.py"},
    "nemo": {"nemo.py"},
    "sentencepiece": {"data/tokenizer.py"},
    "silero_vad": {"speech/voice_activity.py"},
    "transformers": {"hugging_face/"},
}
"""Files or folders of the package in which an outside library may be imported."""

FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


def imported_modules(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(module: str) -> str | None:
    """`config` of `shared_moe_conformer.config.Config`; None for what is not the package's."""
    first, *rest = module.split(".")
    return rest[0] if first == PACKAGE and rest else None


def part_of_file(file: Path) -> str:
    return file.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file: Path) -> None:
    own = part_of_file(file)
    known = {path.stem for path in (ROOT / PACKAGE).iterdir()}
    imported = {part for module in imported_modules(file) if (part := part_of(module)) in known} - {own} - FOUNDATION
    assert not imported & VERBS, "nobody imports a verb"
    assert imported <= MAY_IMPORT.get(own, imported)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_outside_libraries_enter_where_they_belong(file: Path) -> None:
    path = str(file.relative_to(ROOT / PACKAGE))
    imported = {module.split(".")[0] for module in imported_modules(file)}
    misplaced = {library for library in imported & ONLY_IN.keys() if not path.startswith(tuple(ONLY_IN[library]))}
    assert not misplaced


@pytest.mark.parametrize("file", [f for f in FILES if part_of_file(f) in ("config", "cli")], ids=lambda file: file.stem)
def test_options_need_the_standard_library_alone(file: Path) -> None:
    imported = {module.split(".")[0] for module in imported_modules(file)}
    assert not imported & {"torch", "numpy", "lhotse"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in FILES}
    left = {name: imported_modules(file) & modules.keys() - {name} for name, file in modules.items()}
    while leaves := {name for name, imported in left.items() if not imported & left.keys()}:
        left = {name: imported for name, imported in left.items() if name not in leaves}
    assert not left


@pytest.mark.parametrize("folder", [PACKAGE, "benchmarks", "local", "docs", "egs"])
def test_nothing_but_tests_imports_tests(folder: str) -> None:
    files = [*(ROOT / folder).rglob("*.py")]
    assert files
    assert [file for file in files if any(name.split(".")[0] == "tests" for name in imported_modules(file))] == []


def test_only_the_benchmarks_own_tests_import_benchmarks() -> None:
    files = [file for file in (ROOT / "tests").rglob("*.py") if file.parent.name != "benchmarks"]
    assert [file for file in files if any(name.split(".")[0] == "benchmarks" for name in imported_modules(file))] == []
