"""A recipe's test set as wav files, which every runtime reads."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.data.features import resample
from shared_moe_conformer.data.manifests import read_cuts


class Utterance(NamedTuple):
    """A recording of the test set."""

    name: str
    wav: Path
    """At the model's sampling rate, in float32."""
    text: str
    """What was said."""


def write_test_set(recipe_dir: Path, split: str, folder: Path, *, bundle: Bundle) -> list[Utterance]:
    """The recordings of a recipe's split as wav files of the model's sampling rate.

    Raises:
      FileNotFoundError: the recipe has not been prepared.
    """
    rate, utterances = bundle.config.features.sampling_rate, []
    cuts = read_cuts(recipe_dir / bundle.config.data.manifest_dir, split, recipe_dir=recipe_dir)
    for number, cut in enumerate(cuts):
        samples = resample(cut.load_audio().mean(axis=0).astype(np.float32), cut.sampling_rate, rate)
        path = folder / f"{number}.wav"
        soundfile.write(path, samples, rate, subtype="FLOAT")
        utterances.append(Utterance(cut.id, path, " ".join(s.text or "" for s in cut.supervisions)))
    return utterances
