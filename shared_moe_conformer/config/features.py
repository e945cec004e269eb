"""Options of features, and the geometry of frames: how samples, feature frames and encoder frames lie in time.

A feature frame is 25 ms long; frame i is centred at 10 i + 5 ms (Kaldi's snip_edges=False). The front end's two
convolutions of kernel 3 and stride 2 pad nothing, so encoder frame t sees the feature frames 4 t to 4 t + 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from shared_moe_conformer.config.tree import require, require_choices, require_least

FeatureExtractor = Literal["lhotse", "kaldifeat"]

FRAME_LENGTH = 0.025
"""Seconds of audio in a feature frame."""
FRAME_SHIFT = 0.01
"""Seconds from one feature frame to the next."""
FRAMES_PER_SECOND = 100
"""Feature frames of a second of audio."""
SUBSAMPLING_FACTOR = 4
"""Feature frames from one encoder frame to the next."""
ENCODER_FRAME_SHIFT = 0.04
"""Seconds from one encoder frame to the next."""
MIN_NUM_FRAMES = 7
"""Feature frames that one encoder frame sees; shorter recordings have none."""

Length = TypeVar("Length", int, Any)  # Any: a tensor, for which this module need not import torch


def subsampled_length(num_frames: Length) -> Length:
    """Encoder frames of `num_frames` feature frames, an int or a tensor; 0 where there are fewer than 7."""
    length = ((num_frames - 1) // 2 - 1) // 2
    return max(length, 0) if isinstance(length, int) else length.clamp(min=0)


def frame_centre(frame: float) -> float:
    """Time of an encoder frame's centre in the recording, in seconds: 0.035 for frame 0, then 0.04 more each.

    This is the centre of the middle one (4 t + 3) of the seven feature frames that encoder frame t sees.
    """
    return round((SUBSAMPLING_FACTOR * frame + MIN_NUM_FRAMES // 2 + 0.5) * FRAME_SHIFT, 3)


@dataclass(frozen=True)
class FeatureConfig:
    """Options of the features (N, T, F) that are computed from audio."""

    sampling_rate: int = 16000
    """Rate that every recording is resampled to, in Hz."""
    num_mel_bins: int = 80
    """Mel filters per frame; a frame is 25 ms long, every 10 ms."""
    feature_extractor: FeatureExtractor = "lhotse"
    """Library that computes the Kaldi-compatible filter banks; both agree to 1e-3 (kaldifeat: `make kaldifeat`)."""

    def __post_init__(self) -> None:
        require(8000 <= self.sampling_rate <= 192_000, f"sampling_rate is {self.sampling_rate} Hz: give 8000 to 192000")
        require_least(self, 16, "num_mel_bins")
        require_choices(self)
