"""bundle.json: what a released model says about itself."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared_moe_conformer import __version__
from shared_moe_conformer.config import ADDED_LATER, from_dict, require, to_dict

FORMAT_VERSION = 1
"""Version of the bundle's layout; raised whenever an older reader would misread a newer bundle."""
MANIFEST_FILE = "bundle.json"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILES = ("bpe.model", "tokens.txt")
CARD_FILE = "README.md"
TEST_WAV = "test.wav"
TEST_TEXT = "test.txt"
FILES = (MANIFEST_FILE, CONFIG_FILE, WEIGHTS_FILE, *TOKENIZER_FILES, CARD_FILE, TEST_WAV, TEST_TEXT)
"""What every bundle holds, besides SHA256SUMS."""
WORD_FILES = ("words.txt", "lexicon.txt", "G.arpa")
GRAPH_FILES = (
    *WORD_FILES,
    *("HLG_standard.safetensors", "HLG_modified.safetensors"),
    *("HLG_standard.npz", "HLG_modified.npz"),  # as version 0.1 wrote them
)
"""What a bundle may hold besides: a lexicon, an n-gram over words, and the decoding graph made of them."""
DEFAULT_SEARCH = "greedy_search"
"""The search that models are released with, and by whose word error rate a zoo compares them."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Manifest:
    """Facts about a released model that its configuration does not hold."""

    name: str
    """Name in the zoo: letters, digits, `.`, `_` and `-`."""
    corpus: str
    """What it was trained on."""
    language: str
    """BCP-47 code of its language; several with commas between them."""
    licence: str
    """SPDX identifier of the licence of its corpus, and so of the weights and the test wav."""
    unique_parameters: int
    """Parameters that are stored."""
    unrolled_parameters: int
    """Parameters, those of shared blocks counted once per layer."""
    active_parameters: int
    """Unrolled parameters that compute one frame."""
    decoding_method: str
    """The search that `transcribe` uses by default and that gave the expected text of the test wav."""
    error_rates: dict[str, dict[str, float]] = field(default_factory=dict)
    """Word error rate in percent by test set and decoding method; empty where nothing was decoded."""
    segment_seconds: float | None = field(default=None, metadata=ADDED_LATER)
    """Seconds of a segment of a long recording at most: 95 % of the training's utterances are no longer; None: not
    known."""
    format_version: int = FORMAT_VERSION
    """Layout of the bundle."""
    package_version: str = __version__
    """Version of this package that wrote the bundle."""
    commit: str | None = None
    """Git commit of this package that wrote the bundle, where known."""

    def __post_init__(self) -> None:
        require_types(self)
        require_name(self.name)


def is_default_search(settings: str) -> bool:
    """Whether a key of `error_rates`, a search with or without its options, is of the search that is compared."""
    return settings.split("-")[0] == DEFAULT_SEARCH


def require_name(name: str) -> None:
    """Refuse a name that could not be a plain folder's.

    Raises:
      ValueError: not 1 to 100 letters, digits, `.`, `_`, `-` beginning with a letter or a digit.
    """
    fits = isinstance(name, str) and NAME.fullmatch(name) is not None
    require(fits, f"{name!r} cannot be a model's name: use letters, digits, '.', '_', '-', a letter or digit first")


def require_types(record: Any) -> None:
    """Refuse a dataclass read from JSON if a value is not of its field's type.

    Raises:
      ValueError: the field is named.
    """
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        require(_is_a(value, str(f.type)), f"{f.name} is {value!r}: it must be {f.type}")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
      FileNotFoundError: the folder is no bundle.
      ValueError: not a manifest of this version.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no released model in {folder} (it has no {MANIFEST_FILE}): ./export.py makes one")
    try:
        return _parse_manifest(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def _parse_manifest(values: Any) -> Manifest:
    require(isinstance(values, dict), "not a JSON object")
    version = values.get("format_version")
    require(isinstance(version, int), f"format_version is {version!r}: not a released model's manifest")
    require(
        version <= FORMAT_VERSION,
        f"format version {version} is newer than this program's {FORMAT_VERSION}: update shared-moe-conformer",
    )
    return from_dict(Manifest, values)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write bundle.json."""
    text = json.dumps(to_dict(manifest), indent=2, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def package_commit() -> str | None:
    """The git commit of this package's source, `-dirty` added if files differ from it; None outside a checkout."""
    source = Path(__file__).resolve()
    git = ("git", "-C", str(source.parent))
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", source.name], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.decode().strip()


def _is_a(value: Any, kind: str) -> bool:
    """Whether a value that came from JSON has a field's type."""
    checks: Mapping[str, bool] = {
        "str": isinstance(value, str),
        "int": type(value) is int and value >= 0,
        "float | None": value is None or type(value) in (int, float),
        "str | None": value is None or isinstance(value, str),
        "dict[str, dict[str, float]]": _is_table(value),
    }
    return checks[kind]


def _is_table(value: Any) -> bool:
    rows = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(row, dict) and all(type(rate) in (int, float) for rate in row.values()) for row in rows)
