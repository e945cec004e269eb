"""Options of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared_moe_conformer.config.values import require, require_choice

FeatureExtractor = Literal["lhotse", "kaldifeat"]


@dataclass(frozen=True)
class FeatureConfig:
    """How audio becomes `features` (N, T, F)."""

    sampling_rate: int = 16000
    """Rate that every recording is resampled to, in Hz."""
    num_mel_bins: int = 80
    """Mel filters per frame; a frame is 25 ms long, every 10 ms."""
    feature_extractor: FeatureExtractor = "lhotse"
    """Who computes the Kaldi-compatible filter banks; both agree to 1e-3 (kaldifeat: `make kaldifeat`)."""

    def __post_init__(self) -> None:
        require(8000 <= self.sampling_rate <= 192_000, f"sampling_rate is {self.sampling_rate} Hz: give 8000 to 192000")
        require(self.num_mel_bins >= 16, f"num_mel_bins is {self.num_mel_bins}: give 16 or more")
        require_choice("feature_extractor", self.feature_extractor, FeatureExtractor)
