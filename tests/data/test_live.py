from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.features import compute_features, resample
from shared_moe_conformer.data.live import LiveFeatures, LiveResampler

NOISE = np.random.default_rng(0).standard_normal(30_000).astype(np.float32) / 10
PARTS = st.lists(st.integers(0, 4000), min_size=1, max_size=8)
RATES = st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000])


def parts_of(samples: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(samples, np.minimum(np.cumsum(sizes), len(samples)))


@settings(max_examples=12, deadline=None)
@given(sizes=PARTS, source=RATES, target=st.sampled_from([8000, 16000]))
def test_parts_are_resampled_as_the_whole(sizes: list[int], source: int, target: int) -> None:
    live = LiveResampler(source, target)
    found = np.concatenate([*map(live.accept, parts_of(NOISE, sizes)), live.finish()])
    np.testing.assert_allclose(found, resample(NOISE, source, target), atol=1e-6)


@settings(max_examples=12, deadline=None)
@given(sizes=PARTS, source=RATES, length=st.integers(1300, 30_000))
def test_features_of_parts_are_those_of_the_whole(sizes: list[int], source: int, length: int) -> None:
    config, samples = FeatureConfig(), NOISE[:length]
    live = LiveFeatures(config, source)
    found = torch.cat([*map(live.accept, parts_of(samples, sizes)), live.finish()])
    torch.testing.assert_close(found, compute_features(samples, source, config), rtol=1e-3, atol=1e-3)


def test_features_come_as_soon_as_they_are_certain_and_memory_stays_small() -> None:
    live = LiveFeatures(FeatureConfig(), 16000)
    came = [len(live.accept(NOISE[:1600])) for _ in range(50)]
    assert came[0] == 9 and set(came[1:]) == {10}  # a window ends 17.5 ms after its frame begins
    assert len(live._samples) < 1600


def test_too_short_a_recording_has_no_frame_and_bad_samples_are_refused() -> None:
    live = LiveFeatures(FeatureConfig(), 16000)
    assert len(live.accept(NOISE[:100])) == len(live.finish()) == 0
    with pytest.raises(ValueError, match="infinite"):
        live.accept(np.array([np.inf], dtype=np.float32))
    with pytest.raises(ValueError, match="one channel"):
        live.accept(np.zeros((2, 5), dtype=np.float32))
