"""A released model as a folder of transformers, with all its code offline."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.release.manifest import ExampleRecording


@pytest.fixture(scope="session", autouse=True)
def transformers_installed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where there is no transformers; its copies of folders' code go into the tests' own folder."""
    os.environ["HF_MODULES_CACHE"] = str(tmp_path_factory.mktemp("modules"))  # read at the first import
    pytest.importorskip("transformers", reason="needs transformers, which ENGINE=torch has", exc_type=ImportError)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection."""

    def refuse(*arguments: object) -> NoReturn:
        raise AssertionError(f"a connection to {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def tiny_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle, lang_dir: Path, tones: np.ndarray
) -> Path:
    """The tiny bundle for transformers."""
    from shared_moe_conformer.forms.transformers_folder import write_transformers

    zoo = tmp_path_factory.mktemp("zoo")
    tiny_bundle.save(zoo / "tiny", lang_dir=lang_dir, example=ExampleRecording(tones, 16000, "ONE TWO"))
    write_transformers(zoo / "tiny", zoo / "tiny-transformers")
    return zoo / "tiny-transformers"


@pytest.fixture(scope="session")
def released() -> Path:
    """The model in the clone, which recognises real speech."""
    return Path(__file__).resolve().parents[2] / "zoo/an4-base"


@pytest.fixture(scope="session")
def released_folder(tmp_path_factory: pytest.TempPathFactory, released: Path) -> Path:
    """The same for transformers."""
    from shared_moe_conformer.forms.transformers_folder import write_transformers

    folder = tmp_path_factory.mktemp("zoo") / "an4-base-transformers"
    write_transformers(released, folder)
    return folder
