from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import silero_vad
import torch
from torch import Tensor

from shared_moe_conformer.data.features import resample
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.speech.audio import read_audio
from shared_moe_conformer.speech.silero import WINDOWS, network, speech_timestamps
from shared_moe_conformer.speech.voice_activity import LiveSpeech, hear

ZOO = Path(__file__).resolve().parents[2] / "zoo"
RATE = 16000
RATES = pytest.mark.parametrize("rate", list(WINDOWS))


def recording(name: str, rate: int) -> np.ndarray:
    samples, own = read_audio(ZOO / name / TEST_WAV)
    samples = 0.2 * samples / np.abs(samples).max()
    return samples if rate == own else resample(samples, own, rate)


def whole_windows(samples: np.ndarray, rate: int) -> Tensor:
    return torch.from_numpy(samples[: len(samples) // WINDOWS[rate] * WINDOWS[rate]])


@RATES
def test_windows_heard_at_once_have_the_probabilities_of_the_package(rate: int) -> None:
    samples = whole_windows(recording("an4-base", rate), rate)
    model = silero_vad.load_silero_vad()
    one_by_one = torch.cat([model(window, rate)[0] for window in samples.split(WINDOWS[rate])])
    silero = network(rate)
    at_once, _ = silero(samples[None], [silero.start])
    assert len(one_by_one) > 50 and one_by_one.min() < 0.1 and one_by_one.max() > 0.9
    torch.testing.assert_close(at_once[0], one_by_one, rtol=0, atol=1e-5)


@RATES
def test_recordings_have_the_stretches_of_the_package(rate: int) -> None:
    samples = np.concatenate([recording(name, rate) for name in ("an4-base", "speechocean762-merged")])
    model = silero_vad.load_silero_vad()
    expected = silero_vad.get_speech_timestamps(torch.from_numpy(samples), model, sampling_rate=rate)
    assert speech_timestamps(samples, rate) == [(each["start"], each["end"]) for each in expected] != []


@RATES
def test_streams_remember_what_they_heard(rate: int) -> None:
    silero, size = network(rate), WINDOWS[rate]
    both = torch.stack([whole_windows(recording("an4-base", rate), rate)[: 40 * size], torch.randn(40 * size) / 100])
    at_once, _ = silero(both, [silero.start] * 2)
    memories, parts = [silero.start] * 2, []
    for part in both.split([size, 9 * size, 30 * size], dim=1):
        probabilities, memories = silero(part, memories)
        parts.append(probabilities)
    torch.testing.assert_close(torch.cat(parts, dim=1), at_once, rtol=0, atol=1e-5)


def test_streams_heard_together_hear_what_each_hears_alone() -> None:
    rates, names = (8000, RATE, 11025, RATE), ("an4-base", "an4-base", "an4-streaming", "speechocean762-merged")
    audio = [recording(name, rate) for name, rate in zip(names, rates)]
    alone, together = ([LiveSpeech(rate) for rate in rates] for _ in range(2))
    for start in range(8):
        for i, samples in enumerate(audio):
            part = samples[start * len(samples) // 8 : (start + 1) * len(samples) // 8]
            alone[i].accept(part)
            together[i].accept(part)
            hear([alone[i]])
        hear(together)
        assert not any(stream.num_windows for stream in together)
    assert [stream.spans for stream in together] == [stream.spans for stream in alone]
    assert all(stream.spans for stream in together)
