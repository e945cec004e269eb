from __future__ import annotations

import numpy as np
import pytest
import torch

from shared_moe_conformer.bundle import Bundle


def test_features_are_the_packages_at_any_rate_and_padded(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    from shared_moe_conformer.hugging_face import SharedMoeConformerFeatureExtractor

    extractor = SharedMoeConformerFeatureExtractor()
    batch = extractor([tones, tones[:8000]], return_tensors="pt")
    for x, mask, samples in zip(batch["input_features"], batch["attention_mask"], (tones, tones[:8000])):
        own = tiny_bundle.features(samples, 16000)
        assert torch.equal(x[: len(own)], own) and not x[len(own) :].any()
        assert mask.tolist() == [1] * len(own) + [0] * (len(x) - len(own))
    (slow,) = extractor(tones[::2], sampling_rate=8000, return_tensors="pt")["input_features"]
    assert torch.equal(slow, tiny_bundle.features(tones[::2], 8000))
    for one in (tones.tolist(), torch.from_numpy(tones), tones.astype(np.float64)):
        assert torch.equal(extractor(one, return_tensors="pt")["input_features"], batch["input_features"][:1])


def test_too_little_audio_has_no_frames_and_two_channels_are_refused() -> None:
    from shared_moe_conformer.hugging_face import SharedMoeConformerFeatureExtractor

    extractor = SharedMoeConformerFeatureExtractor()
    assert extractor(np.zeros(10), return_tensors="pt")["input_features"].shape == (1, 0, 80)
    with pytest.raises(ValueError, match=r"samples have the shape \(2, 100\): give one channel"):
        extractor([np.zeros((2, 100))])
