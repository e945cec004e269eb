"""Cuts whose recordings are distorted before their features are computed."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence

import numpy as np
from lhotse import MonoCut
from torch import Tensor

from shared_moe_conformer.config import Config, require
from shared_moe_conformer.data.batch import CutDataset
from shared_moe_conformer.data.distortions import Distortion, Setting
from shared_moe_conformer.data.features import compute_features
from shared_moe_conformer.data.tokenizer import Tokenizer

logger = logging.getLogger("shared_moe_conformer")


class DistortedDataset(CutDataset):
    """Computes features from distorted recordings; the stored ones are not read.

    What is random follows from a cut's id: it is the same in every batch, and at every value of a distortion.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, cuts: Sequence[MonoCut], distortion: Distortion) -> None:
        """Check what is needed; no recording is read yet.

        Raises:
          ValueError: a cut without a recording, or no second cut for babble.
        """
        super().__init__(tokenizer, config.data)
        self.features, self.cuts, self.distortion = config.features, cuts, distortion
        silent = [cut.id for cut in cuts if not cut.has_recording]
        require(not silent, f"--distort needs recordings: {len(silent)} cuts have features alone, {silent[:1]} first")
        needs_others = any(step.kind == "babble" for step in distortion.steps)
        require(
            len(cuts) > 1 or not needs_others, f"--distort {distortion.name}: babble is made of the set's other cuts"
        )
        for kind, value in distortion.steps:
            if kind == "band" and value >= (highest := config.features.sampling_rate / 2):
                message = "--distort %s changes nothing: at %d Hz nothing is above %g Hz"
                logger.warning(message, distortion.name, config.features.sampling_rate, highest)

    def features_of(self, cut: MonoCut) -> Tensor:
        rng = np.random.default_rng(zlib.crc32(cut.id.encode()))
        setting = Setting(cut.sampling_rate, rng, lambda: self._other(cut, rng))
        return compute_features(self.distortion(_samples(cut), setting), cut.sampling_rate, self.features)

    def _other(self, cut: MonoCut, rng: np.random.Generator) -> np.ndarray:
        """The samples of another cut."""
        while (other := self.cuts[int(rng.integers(len(self.cuts)))]).id == cut.id:
            pass
        return _samples(other)


def _samples(cut: MonoCut) -> np.ndarray:
    return np.asarray(cut.load_audio()[0])
