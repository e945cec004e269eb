from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.features import (
    LiveFeatures,
    compute_features,
    feature_extractor,
    resample,
)
from tests.data.conftest import Corpus

LILCOM_ERROR = 0.016


def noise(num_samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(num_samples)).astype(np.float32)


def test_a_file_has_the_features_that_preparation_stored(corpus: Corpus) -> None:
    for cut in corpus.cuts("test"):
        path = cut.recording.sources[0].source
        samples, sampling_rate = soundfile.read(path, dtype="float32")
        assert sampling_rate == 8000
        features = compute_features(samples, sampling_rate, FeatureConfig())
        stored = torch.from_numpy(cut.load_features())
        assert features.shape == stored.shape
        assert (features - stored).abs().max() < LILCOM_ERROR
        same = feature_extractor(FeatureConfig()).extract(cut.load_audio(), 16000)
        assert torch.equal(features, torch.as_tensor(same))


@pytest.mark.parametrize("sampling_rate", [8000, 16000, 22050, 44100, 48000])
def test_resampling_keeps_a_tone(sampling_rate: int) -> None:
    def tone(rate: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)

    resampled = resample(tone(sampling_rate), sampling_rate, 16000)
    assert resampled.shape == (16000,)
    inner = slice(200, -200)
    assert np.abs(resampled[inner] - tone(16000)[inner]).max() < 0.01


def test_a_frame_every_ten_milliseconds_and_the_bins_asked_for() -> None:
    config = FeatureConfig(num_mel_bins=40)
    features = compute_features(noise(16000), 16000, config)
    assert features.shape == (100, 40)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [(np.zeros((2, 1000)), "one channel"), (np.zeros(0), "shorter than a frame"), (np.zeros(399), "shorter than")],
)
def test_what_is_no_recording_is_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_features(samples, 16000, FeatureConfig())


def test_one_frame_is_enough() -> None:
    assert len(compute_features(noise(400), 16000, FeatureConfig())) >= 1
    assert len(compute_features(noise(200), 8000, FeatureConfig())) >= 1


def test_both_extractors_agree() -> None:
    pytest.importorskip("kaldifeat", reason="no kaldifeat, which is for ENGINE=torch: make kaldifeat")
    samples = noise(16000)
    lhotse = compute_features(samples, 16000, FeatureConfig(feature_extractor="lhotse"))
    kaldifeat = compute_features(samples, 16000, FeatureConfig(feature_extractor="kaldifeat"))
    assert lhotse.shape == kaldifeat.shape
    assert (lhotse - kaldifeat).abs().max() < 2e-3


def test_missing_kaldifeat_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    feature_extractor.cache_clear()
    with pytest.raises(ValueError, match="make kaldifeat"):
        feature_extractor(FeatureConfig(feature_extractor="kaldifeat"))


NOISE = np.random.default_rng(0).standard_normal(30_000).astype(np.float32) / 10
PARTS = st.lists(st.integers(0, 4000), min_size=1, max_size=8)
RATES = st.sampled_from([8000, 11025, 16000, 16001, 22050, 44100, 48000])


def parts_of(samples: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(samples, np.minimum(np.cumsum(sizes), len(samples)))


@settings(max_examples=20, deadline=None)
@given(sizes=PARTS, source=RATES, target=st.sampled_from([8000, 16000]), length=st.integers(1300, 30_000))
def test_features_of_parts_are_those_of_the_whole(sizes: list[int], source: int, target: int, length: int) -> None:
    config, samples = FeatureConfig(sampling_rate=target), NOISE[:length]
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
