"""Samples to features as transformers wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor

from shared_moe_conformer.config import FRAME_LENGTH, FeatureConfig, require
from shared_moe_conformer.data.features import compute_features
from shared_moe_conformer.hugging_face.saving import SavesCode
from shared_moe_conformer.release.hugging_face import FEATURE_CLASSES

Recording = Any
"""One channel of samples, (num_samples,), as an array, a tensor or a list."""


class SharedMoeConformerFeatureExtractor(SavesCode, SequenceFeatureExtractor):
    """Log mel filter banks, the package's own; they are normalised inside the model."""

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self, feature_size: int = 80, sampling_rate: int = 16000, padding_value: float = 0.0, **others: Any
    ) -> None:
        others["auto_map"] = FEATURE_CLASSES
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **others)

    def __call__(
        self,
        raw_speech: Recording | Sequence[Recording],
        sampling_rate: int | None = None,
        *,
        padding: bool | str = True,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        **others: Any,
    ) -> BatchFeature:
        """Return input_features (N, T, F) and attention_mask (N, T), 0 at padding.

        Args:
          raw_speech: one recording, (num_samples,) from -1 to 1, or several.
          sampling_rate: of the recordings, in Hz; they are resampled to the model's. None: they have the model's.
          others: `max_length`, `truncation` and `pad_to_multiple_of` of `pad`, in frames.

        Raises:
          ValueError: more than one channel.
        """
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        features = [self._features(samples, rate) for samples in _recordings(raw_speech)]
        return self.pad(
            BatchFeature({"input_features": features}),
            padding=padding,
            return_tensors=return_tensors,
            return_attention_mask=return_attention_mask,
            **{name: others[name] for name in ("max_length", "truncation", "pad_to_multiple_of") if name in others},
        )

    def _features(self, samples: np.ndarray, sampling_rate: int) -> np.ndarray:
        """(T, F); T is 0 where there are not enough samples for one frame."""
        require(samples.ndim == 1, f"samples have the shape {samples.shape}: give one channel, (num_samples,)")
        if len(samples) < FRAME_LENGTH * sampling_rate:
            return np.zeros((0, self.feature_size), dtype=np.float32)
        config = FeatureConfig(sampling_rate=self.sampling_rate, num_mel_bins=self.feature_size)
        return compute_features(samples, sampling_rate, config).numpy()


def _recordings(raw_speech: Any) -> list[np.ndarray]:
    """One recording or several as arrays."""
    if hasattr(raw_speech, "ndim"):
        several = raw_speech.ndim > 1
    else:
        several = len(raw_speech) > 0 and not isinstance(raw_speech[0], (int, float))
    return [np.asarray(samples, dtype=np.float32) for samples in (raw_speech if several else [raw_speech])]
