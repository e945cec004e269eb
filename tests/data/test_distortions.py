"""Distortions of samples: ratios, spectra, lengths and seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.data.distortions import (
    HIGHEST_HUM,
    KINDS,
    TRAINED_OPUS,
    Codec,
    Setting,
    add_noise,
    codec_of,
    hum,
    parse_distortion,
    pink_noise,
    room_response,
    white_noise,
)

RATE = 16000
EXAMPLES = (
    "gain=-20",
    "white=10",
    "pink=5",
    "hum=0",
    "babble=5",
    "music=5",
    "reverb=0.6",
    "band=2000",
    "opus=12k",
    "mulaw=64k",
)


def setting(seed: int = 0, sampling_rate: int = RATE) -> Setting:
    rng = np.random.default_rng(seed)
    return Setting(sampling_rate, rng, lambda: rng.standard_normal(4000).astype(np.float32))


def speech(num_samples: int = 3 * RATE) -> np.ndarray:
    """Something that is louder below 1 kHz, and in the middle."""
    rng = np.random.default_rng(5)
    smooth = np.convolve(rng.standard_normal(num_samples), np.ones(8) / 8, "same")
    return (0.3 * smooth * np.hanning(num_samples)).astype(np.float32)


def decibel(ratio: float) -> float:
    return 10 * math.log10(ratio)


def power(samples: np.ndarray) -> float:
    return float(np.square(samples, dtype=np.float64).mean())


@pytest.mark.parametrize("kind", ["white", "pink", "hum", "babble", "music"])
@pytest.mark.parametrize("snr", [-10, 0, 12.5, 40])
def test_the_ratio_of_speech_to_noise_is_exact(kind: str, snr: float) -> None:
    clean = speech()
    noisy = parse_distortion(f"{kind}={snr}")(clean, setting())
    assert decibel(power(clean) / power(noisy.astype(np.float64) - clean)) == pytest.approx(snr, abs=0.01)


@settings(deadline=None, max_examples=30)
@given(st.integers(400, 40000), st.sampled_from(EXAMPLES), st.sampled_from([8000, 11025, 16000, 44100]))
def test_the_length_stays(num_samples: int, text: str, sampling_rate: int) -> None:
    found = parse_distortion(text)(speech(num_samples), setting(sampling_rate=sampling_rate))
    assert found.shape == (num_samples,) and found.dtype == np.float32 and np.isfinite(found).all()


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_seed_decides_and_the_input_stays_as_it_is(text: str) -> None:
    clean = speech(RATE)
    before = clean.copy()
    distortion = parse_distortion(text)
    first, same, other = (distortion(clean, setting(seed)) for seed in (1, 1, 2))
    assert np.array_equal(clean, before) and not np.array_equal(first, clean)
    assert np.array_equal(first, same)
    is_random = not text.startswith(("gain", "band", "opus", "mulaw"))
    assert np.array_equal(first, other) != is_random


def density(samples: np.ndarray, low: float, high: float) -> float:
    """Mean power per hertz between two frequencies."""
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(spectrum[(frequencies >= low) & (frequencies < high)].mean())


def test_noises_have_the_spectra_of_their_names() -> None:
    white, pink, mains = (make(20 * RATE, setting()) for make in (white_noise, pink_noise, hum))
    assert abs(decibel(density(white, 100, 200) / density(white, 6400, 7900))) < 0.5
    for low in (50, 200, 800, 3200):
        assert decibel(density(pink, low, 1.4 * low) / density(pink, 2 * low, 2.8 * low)) == pytest.approx(3, abs=0.7)
    spectrum = np.abs(np.fft.rfft(mains)) ** 2
    loudest = np.flatnonzero(spectrum > 1e-6 * spectrum.max()) / 20
    assert loudest[0] in (50, 60) and set(loudest % loudest[0]) == {0} and loudest[-1] <= HIGHEST_HUM


def test_a_rooms_sound_decays_by_60_db_in_its_time() -> None:
    response = room_response(0.5, setting(sampling_rate=48000))
    assert power(response) * len(response) == pytest.approx(1)
    assert response[0] ** 2 == pytest.approx(0.5)
    early, late = (response[start : start + 2400] for start in (2400, 2400 + 12000))
    assert decibel(power(early) / power(late)) == pytest.approx(30, abs=1.5)


def test_a_click_in_a_room_is_heard_at_its_time() -> None:
    click = np.zeros(RATE, dtype=np.float32)
    click[3000] = 0.5
    found = parse_distortion("reverb=0.3")(click, setting())
    assert np.abs(found).argmax() == 3000 and np.abs(found[:3000]).max() < 1e-6 and np.abs(found[3001:]).max() > 1e-3


@pytest.mark.parametrize("text", ["band=2000", "mulaw=32k"])
def test_nothing_is_left_above_a_band(text: str) -> None:
    noise = 0.1 * white_noise(2 * RATE, setting()).astype(np.float32)
    found = parse_distortion(text)(noise, setting())
    assert abs(decibel(density(found, 100, 1700) / density(noise, 100, 1700))) < 1
    assert decibel(density(noise, 2400, 8000) / density(found, 2400, 8000)) > 40
    assert np.corrcoef(noise, found)[0, 1] > 0.4


def test_a_band_that_the_recording_has_changes_nothing() -> None:
    assert np.array_equal(parse_distortion("band=8000")(speech(), setting()), speech())


def test_codecs_lose_more_at_fewer_bits_and_shift_nothing() -> None:
    tone = (0.3 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 3000, 2 * RATE)) / RATE)).astype(np.float32)
    noisy = tone + speech(2 * RATE)
    losses = [power(parse_distortion(f"opus={bits}")(noisy, setting()) - noisy) for bits in ("8k", "24k", "128k")]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.01 * power(noisy)
    assert power(parse_distortion("mulaw=128k")(noisy, setting()) - noisy) < 1e-3 * power(noisy)


def test_a_share_of_all_names_is_coded_by_opus_or_for_a_telephone_always_alike() -> None:
    names = [f"cut-{number}" for number in range(2000)]
    drawn = [codec_of(name, share=0.1) for name in names]
    assert drawn == [codec_of(name, share=0.1) for name in names]
    bits = [codec.bits for codec in drawn if codec and codec.kind == "opus"]
    assert sum(codec is not None for codec in drawn) / len(names) == pytest.approx(0.1, abs=0.02)
    assert len(bits) / sum(codec is not None for codec in drawn) == pytest.approx(0.75, abs=0.08)
    low, high = TRAINED_OPUS
    assert low <= min(bits) and max(bits) <= high and np.median(bits) == pytest.approx(np.sqrt(low * high), rel=0.15)
    assert not any(codec_of(name, share=0) for name in names) and all(codec_of(name, share=1) for name in names)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 44_100])
def test_a_codec_keeps_the_length_at_any_rate_and_the_speech_in_its_place(rate: int) -> None:
    tone = (0.3 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 3000, rate)) / rate)).astype(np.float32)
    for codec in (Codec("opus", 16_000), Codec("mulaw", 64_000)):
        coded = codec(tone[None], rate)
        assert coded.shape == (1, rate) and coded.dtype == np.float32
        assert np.corrcoef(coded[0], tone)[0, 1] > 0.8


def test_levels_change_by_decibels_and_stop_at_full_scale() -> None:
    np.testing.assert_allclose(parse_distortion("gain=-20")(speech(), setting()), 0.1 * speech(), rtol=1e-6)
    assert np.abs(parse_distortion("gain=40")(speech(), setting())).max() == 1


def test_silence_stays_silence_and_short_recordings_are_distorted() -> None:
    silence = np.zeros(RATE, dtype=np.float32)
    assert all(np.array_equal(add_noise(silence, white_noise(RATE, setting()), snr=10), silence) for _ in range(2))
    for text in EXAMPLES:
        assert parse_distortion(text)(speech(400), setting()).shape == (400,)


def test_steps_follow_each_other() -> None:
    both = parse_distortion("reverb=0.3+gain=-6")
    assert [kind for kind, _ in both.steps] == ["reverb", "gain"] and both.name == "reverb=0.3+gain=-6"
    room = parse_distortion("reverb=0.3")(speech(), setting())
    np.testing.assert_allclose(both(speech(), setting()), room * 10 ** (-6 / 20), atol=1e-6)
    assert parse_distortion("gain=+6").steps[0] == ("gain", 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loud=3", "no distortion is called 'loud': give one of gain, white, "),
        ("", "no distortion is called ''"),
        ("white", "white is '': give -30 to 100 dB"),
        ("white=ten", "white is 'ten': give -30 to 100 dB"),
        ("opus=1k", "opus is '1k': give 6000 to 256000 bit/s"),
        ("reverb=nan", "reverb is 'nan'"),
        ("reverb=0.3+white=", "reverb=0.3.white=: white is ''"),
        ("gain=1e3", "gain is '1e3'"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_distortion(text)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"--distort {text}: ")


def test_every_kind_is_tried_here() -> None:
    assert {text.split("=")[0] for text in EXAMPLES} == KINDS.keys()
