"""Conditions made on features, against the same conditions made on samples."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from shared_moe_conformer.config import DataConfig, FeatureConfig, from_dict, replace_fields, to_dict
from shared_moe_conformer.data.augment import DIGITAL_SILENCE, Example, mix
from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.data.conditions import (
    Conditions,
    babble_features,
    band_limited,
    log_power_weights,
    mel_centres,
    noise_features,
    reverberated,
)
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.distortions import Setting, parse_distortion
from shared_moe_conformer.data.features import compute_features
from tests.data.conftest import Corpus

RATE, FEATURES = 16000, FeatureConfig()
NONE = {"num_time_masks": 0, "num_freq_masks": 0}


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def voice(seconds: float = 6.0) -> np.ndarray:
    """Syllables of a voice with harmonics and breath, as loud as speech, with pauses between."""
    rng = np.random.default_rng(3)
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * time)) / RATE
    harmonics = sum(np.sin(k * pitch) / k**1.5 for k in range(1, 40))
    syllables = np.clip(np.sin(2 * np.pi * 2.2 * time), 0, None) ** 2
    breath = 0.02 * rng.standard_normal(len(time)) * np.roll(syllables, 2000)
    return (0.1 * syllables * harmonics + breath + 1e-4 * rng.standard_normal(len(time))).astype(np.float32)


def features_of(samples: np.ndarray) -> Tensor:
    return compute_features(samples.astype(np.float32), RATE, FEATURES)


def distorted(text: str, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return parse_distortion(text)(voice(), Setting(RATE, rng, lambda: voice()[int(rng.integers(RATE)) :]))


@pytest.mark.parametrize("kind", ["white", "pink", "hum"])
@pytest.mark.parametrize("snr", [0.0, 10.0, 20.0])
def test_noise_on_features_is_nearly_noise_on_samples(kind: str, snr: float) -> None:
    true, clean = features_of(distorted(f"{kind}={snr}")), features_of(voice())
    noise = noise_features(kind, FEATURES)[1000 : 1000 + len(clean)]
    made = mix(clean, noise, snr=snr, log_weights=log_power_weights(FEATURES))
    difference, change = made - true, (true - clean).abs().mean()
    assert abs(float(difference.mean())) < 0.25, "one decibel"
    assert difference.mean(dim=0).abs().max() < (1.5 if kind == "hum" else 0.6), "in each bin; hum is of 50 or of 60 Hz"
    assert difference.abs().mean() < 0.5 * change


def test_power_is_that_of_the_samples() -> None:
    weights = log_power_weights(FEATURES)
    powers, energies = [], []
    for text in ("gain=0", "gain=-12", "white=0", "pink=0", "hum=0", "band=1000"):
        samples = distorted(text)
        powers.append(math.log(np.square(samples, dtype=np.float64).mean()))
        energies.append(float(torch.logsumexp((features_of(samples) + weights).flatten(), dim=0)))
    differences = np.array(energies) - powers
    assert np.ptp(differences) < 0.25, "one decibel"


@pytest.mark.parametrize("time", [0.2, 0.6])
def test_a_room_on_features_is_nearly_a_room_on_samples(time: float) -> None:
    true, clean = features_of(distorted(f"reverb={time}")), features_of(voice())
    difference = reverberated(clean, time) - true
    assert abs(float(difference.mean())) < 0.5
    assert difference.abs().mean() < 0.6 * (clean - true).abs().mean()


def test_a_room_keeps_the_energy_and_hears_nothing_before_the_sound() -> None:
    click = torch.full((200, 80), -30.0)
    click[50] = 3.0
    heard = reverberated(click, 0.5)
    assert heard.exp().sum().item() == pytest.approx(click.exp().sum().item(), rel=1e-4)
    assert (heard[:50] < click[:50] + 1e-4).all() and heard[50:90].diff(dim=0).max() < 0
    assert (heard[52] - heard[77]).mean().item() == pytest.approx(math.log(1e3), abs=0.05), "30 dB in half of the time"


def test_a_band_on_features_is_that_of_samples() -> None:
    true, made = features_of(distorted("band=4000")), band_limited(features_of(voice()), 4000, FEATURES)
    below, above = mel_centres(FEATURES) < 3400, mel_centres(FEATURES) > 4300
    assert (true - made)[:, below].abs().mean() < 0.05
    assert (made[:, above] == DIGITAL_SILENCE).all() and true[:, above].mean() < DIGITAL_SILENCE + 1.5


def test_filters_are_centred_where_tones_are_loudest() -> None:
    for index in (20, 50, 79):
        frequency = float(mel_centres(FEATURES)[index])
        tone = np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE)
        assert features_of(tone)[50].argmax() == index


def test_babble_is_as_loud_in_every_part_and_repeatable(corpus: Corpus) -> None:
    first, again = (babble_features(corpus.cuts("train"), FEATURES) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (6000, 80)
    levels = torch.logsumexp(first.reshape(10, -1), dim=1)
    assert levels.max() - levels.min() < 1.0


def conditions(corpus: Corpus, **options: Any) -> Conditions | None:
    return Conditions.of(dataclasses.replace(corpus.config.data, **options), FEATURES, corpus.cuts("train"))


def test_nothing_asked_for_changes_nothing(corpus: Corpus) -> None:
    assert conditions(corpus) is None
    example = Example(features_of(voice()), [3], "a", "ONE")
    unlikely = conditions(corpus, gain_probability=1e-9)
    assert unlikely is not None and unlikely(example, generator()).features is example.features


@pytest.mark.parametrize(
    "options",
    [
        {"gain_probability": 1.0},
        {"made_noise_probability": 1.0, "made_noises": ("babble",)},
        {"made_noise_probability": 1.0, "made_noises": ("white", "pink", "hum")},
        {"reverb_probability": 1.0},
        {"band_limit_probability": 1.0},
        {"noise_alone_probability": 1.0},
    ],
)
def test_conditions_change_features_by_the_seed_and_never_the_length(corpus: Corpus, options: dict[str, Any]) -> None:
    made = conditions(corpus, **options)
    assert made is not None
    example = Example(features_of(voice()), [3], "a", "ONE")
    before = example.features.clone()
    found, same, other = (made(example, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(example.features, before) and found.features.shape == before.shape
    assert torch.equal(found.features, same.features) and not torch.equal(found.features, other.features)
    assert found.features.min() >= DIGITAL_SILENCE - 1e-5 and torch.isfinite(found.features).all()
    is_speech = "noise_alone_probability" not in options
    assert (found.tokens, found.text) == (([3], "ONE") if is_speech else ([], ""))


def test_a_gain_is_that_of_the_samples(corpus: Corpus) -> None:
    made = conditions(corpus, gain_probability=1.0, gain_range=(-20.0, -20.0))
    assert made is not None
    found = made(Example(features_of(voice()), [], "", ""), generator()).features
    torch.testing.assert_close(found, features_of(distorted("gain=-20")), atol=0.1, rtol=0)


def batches(corpus: Corpus, **options: object) -> list[AsrBatch]:
    config = replace_fields(corpus.config, {**NONE, **options})
    return list(AsrDataModule(config, corpus.recipe_dir, corpus.tokenizer).train_loader())


def test_training_batches_follow_from_the_seed_and_hold_noise_without_text(corpus: Corpus) -> None:
    plain = batches(corpus)
    options = {"noise_alone_probability": 0.4, "gain_probability": 0.5}
    first, same = (batches(corpus, **options) for _ in range(2))
    num_empty = 0
    for one, other, clean in zip(first, same, plain, strict=True):
        assert torch.equal(one.x, other.x) and one.x.shape == clean.x.shape and one.cut_ids == clean.cut_ids
        for text, before, length in zip(one.texts, clean.texts, one.y_lens.tolist()):
            assert (text, length) == ("", 0) or text == before and length > 0
        num_empty += one.texts.count("")
        assert any(one.texts)
    assert 3 <= num_empty <= 15
    module = AsrDataModule(replace_fields(corpus.config, options), corpus.recipe_dir, corpus.tokenizer)
    assert all(text for batch in module.dev_loader() for text in batch.texts), "validation is clean"


def test_older_configs_ask_for_none_of_this() -> None:
    old = to_dict(DataConfig())
    for name in [f.name for f in dataclasses.fields(DataConfig) if f.metadata.get("may_be_missing")]:
        del old[name]
    assert from_dict(DataConfig, old) == DataConfig()
    assert not any(
        v for name, v in to_dict(DataConfig()).items() if "_probability" in name and name != "noise_probability"
    )
