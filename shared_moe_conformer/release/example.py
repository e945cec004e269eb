"""The recording that is released with a model, and test.txt: what the model makes of it and what was said."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared_moe_conformer.release.manifest import TEST_TEXT

EXPECTED, REFERENCE = "expected (this model's transcript):", "reference (what was said):"


class ExampleRecording(NamedTuple):
    """A recording of the test set, released with the model so that anybody can check their copy."""

    samples: np.ndarray
    """(num_samples,), in -1..1."""
    sampling_rate: int
    """In Hz."""
    reference: str
    """What was said."""


def write_test_text(folder: Path, *, expected: str, reference: str) -> None:
    """Write test.txt: what the model makes of the recording, and what was said."""
    lines = f"{EXPECTED} {expected}\n{REFERENCE} {reference}\n"
    (folder / TEST_TEXT).write_text(lines, encoding="utf-8")


def expected_text(folder: Path) -> str:
    """What a bundle's model makes of its own test.wav, as found when it was released.

    Raises:
      ValueError: test.txt does not say.
    """
    for line in (folder / TEST_TEXT).read_text(encoding="utf-8").splitlines():
        if line.startswith(EXPECTED):
            return line[len(EXPECTED) :].strip()
    raise ValueError(f"{folder / TEST_TEXT} has no line that begins with {EXPECTED!r}: get the model again")
