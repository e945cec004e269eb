"""A released model's description: bundle.json, and test.txt beside the test wav."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shared_moe_conformer import __version__
from shared_moe_conformer.config import ADDED_LATER, from_dict, require, to_dict

FORMAT_VERSION = 1
"""Version of the bundle's layout; it rises whenever an older reader would misread a newer bundle."""
MANIFEST_FILE = "bundle.json"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILES = ("bpe.model", "tokens.txt")
CARD_FILE = "README.md"
TEST_WAV = "test.wav"
TEST_TEXT = "test.txt"
FILES = (MANIFEST_FILE, CONFIG_FILE, WEIGHTS_FILE, *TOKENIZER_FILES, CARD_FILE, TEST_WAV, TEST_TEXT)
"""Files of every bundle, SHA256SUMS aside."""
WORD_FILES = ("words.txt", "lexicon.txt", "G.arpa")
GRAPH_FILES = (
    *WORD_FILES,
    *("HLG_standard.safetensors", "HLG_modified.safetensors"),
    *("HLG_standard.npz", "HLG_modified.npz"),  # as version 0.1 wrote them
)
"""Further files that a bundle may hold: a lexicon, an n-gram over words, and the decoding graph made of them."""
NEURAL_LM_FILES = ("rnn_lm.safetensors", "transformer_lm.safetensors")
LM_FILES = (*NEURAL_LM_FILES, "token_2gram.arpa")
"""Further files that a bundle may hold: neural language models over tokens, and the 2-gram that LODR subtracts."""
EXPECTED, REFERENCE = "expected (this model's transcript):", "reference (what was said):"
"""Beginnings of the lines of test.txt."""
DEFAULT_SEARCH = "greedy_search"
"""The search of models that are released without naming one."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class ModelFacts:
    """Facts that stand in a model's own manifest and in the index of its zoo."""

    name: str
    """Name in the zoo: letters, digits, `.`, `_` and `-`."""
    corpus: str
    """Corpus that it was trained on."""
    language: str
    """BCP-47 code of its language; several with commas between them."""
    licence: str
    """SPDX identifier of the licence of its corpus, and so of the weights and the test wav."""
    unique_parameters: int
    """Parameters that are stored."""
    unrolled_parameters: int
    """Parameters, with those of shared blocks counted once per layer."""
    active_parameters: int
    """Unrolled parameters that compute one frame."""
    error_rates: dict[str, dict[str, float]] = field(default_factory=dict, kw_only=True)
    """Word error rate in percent by test set and search (method and options); empty: nothing was decoded.

    The search with the model's own options comes before others by the same method.
    """

    def __post_init__(self) -> None:
        require_name(self.name)
        for name in (f.name for f in fields(self) if f.type == "int"):
            value = getattr(self, name)
            require(value >= 0, f"{name} is {value}: it must not be negative")


@dataclass(frozen=True)
class Manifest(ModelFacts):
    """Facts about a released model that its configuration does not hold."""

    decoding_method: str
    """The default search of `transcribe`, which gave the expected text of the test wav."""
    segment_seconds: float | None = field(default=None, metadata=ADDED_LATER)
    """Longest segment of a long recording, in seconds: 95 % of the training's utterances are no longer; None: not
    known."""
    decoding_options: dict[str, dict[str, float]] = field(default_factory=dict, metadata=ADDED_LATER)
    """Tuned values of each decoding method, by option; empty: defaults. `lm_scales` is a single scale here."""
    begun_with: dict[str, dict[str, str]] = field(default_factory=dict, metadata=ADDED_LATER)
    """Trained models that its first weights come from, nearest first: `corpus` and `licence` by name, where known."""
    format_version: int = FORMAT_VERSION
    """Layout of the bundle."""
    package_version: str = __version__
    """Version of this package that wrote the bundle."""
    commit: str | None = None
    """Git commit of this package that wrote the bundle, where known."""


def is_by(settings: str, method: str) -> bool:
    """Whether a key of `error_rates`, a method with or without options, names this method."""
    return settings.split("-")[0] == method


DEFAULTS = re.compile(
    r"-(max-sym-per-frame-1|beam-size-4|lm-order-3|lodr-scale-0\.1|hlg-scale-1\.0|lattice-engine-(k2|embedded)"
    r"|ctc-topology-(standard|modified)|search-beam-20\.0|output-beam-8\.0|max-active-7000|num-paths-200"
    r"|rescoring-ngram-G_4_gram|backoff-exact|beam-20\.0|max-contexts-8|max-states-64|nbest-scale-0\.5|ngram-lm-scale-0\.01)(?=-|$)"
)
"""Options of a search in a key of `error_rates` that have their defaults, or change hardly any text."""


def without_defaults(rates: Mapping[str, float]) -> dict[str, float]:
    """A test set's error rates by the searches' names for people, which leave defaults out.

    Searches with one name and one rate, as by two lattice engines, become one; with two rates the later one keeps its
    whole name.
    """
    named: dict[str, float] = {}
    for search, rate in rates.items():
        name = DEFAULTS.sub("", search)
        named[name if named.get(name, rate) == rate else search] = rate
    return named


def require_name(name: str) -> None:
    """Refuse a name unless it has 1 to 100 letters, digits, `.`, `_` or `-` and begins with a letter or digit."""
    fits = isinstance(name, str) and NAME.fullmatch(name) is not None
    require(fits, f"{name!r} cannot be a model's name: use letters, digits, '.', '_', '-', a letter or digit first")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
      FileNotFoundError: the folder is not a bundle.
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
    """Write bundle.json; without tuned values and trained models to begin with, earlier versions can read it too."""
    values = to_dict(manifest)
    for name in ("decoding_options", "begun_with"):
        if not values[name]:
            del values[name]
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


class ExampleRecording(NamedTuple):
    """A recording of the test set that is released with the model, so that anybody can check a copy."""

    samples: np.ndarray
    """(num_samples,), in -1..1."""
    sampling_rate: int
    """Rate of the samples, in Hz."""
    reference: str
    """The words that were said."""


def write_test_text(folder: Path, *, expected: str, reference: str) -> None:
    """Write test.txt: the model's transcript of the recording, and the reference."""
    lines = f"{EXPECTED} {expected}\n{REFERENCE} {reference}\n"
    (folder / TEST_TEXT).write_text(lines, encoding="utf-8")


def expected_text(folder: Path) -> str:
    """The transcript of test.wav by the bundle's model when it was released.

    Raises:
      ValueError: test.txt does not contain it.
    """
    return _told(folder, EXPECTED)


def reference_text(folder: Path) -> str:
    """The words spoken in test.wav; see `expected_text`."""
    return _told(folder, REFERENCE)


def _told(folder: Path, beginning: str) -> str:
    """The rest of the line of test.txt with this beginning."""
    for line in (folder / TEST_TEXT).read_text(encoding="utf-8").splitlines():
        if line.startswith(beginning):
            return line[len(beginning) :].strip()
    raise ValueError(f"{folder / TEST_TEXT} has no line that begins with {beginning!r}: get the model again")


def package_commit() -> str | None:
    """The git commit of this package's source, with `-dirty` if files differ from it; None outside a checkout."""
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
