"""Zoos of models that look like bundles from outside."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from shared_moe_conformer.release.manifest import FILES, WEIGHTS_FILE, Manifest, write_manifest
from shared_moe_conformer.release.zoo_index import add, write_sums


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A zoo of two models."""
    for name in ("base", "full"):
        make_model(tmp_path / "zoo", name, seed=len(name))
    return tmp_path / "zoo"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


def make_model(zoo_dir: Path, name: str, *, seed: int = 0) -> Path:
    folder = zoo_dir / name
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file).write_bytes(random.Random(f"{file}{seed}").randbytes(20_000 if file == WEIGHTS_FILE else 300))
    facts = {"corpus": "telephone", "language": "en", "licence": "MIT", "decoding_method": "greedy_search"}
    counts = {"unique_parameters": 15, "unrolled_parameters": 40, "active_parameters": 20}
    write_manifest(Manifest(name=name, **facts, **counts), folder)  # type: ignore[arg-type]
    write_sums(folder)
    add(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
