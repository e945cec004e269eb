from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared_moe_conformer.speech.recognition import (
    REST,
    SHRINKING,
    WHOLE,
    End,
    Samples,
    Segment,
    batches,
    cut_at_silences,
    pools,
    read_segments,
    usual_length,
)

LENGTHS = st.lists(st.integers(7, 3000), max_size=40)


def segment(number: int, length: int) -> Segment:
    return Segment(number, 0.0, torch.zeros(length, 1))


def frames(samples: np.ndarray, sampling_rate: int) -> Tensor:
    return torch.zeros(len(samples) * 100 // sampling_rate, 1)


@given(LENGTHS, st.integers(1, 60))
def test_batches_hold_every_segment_once_and_stay_small(lengths: list[int], max_duration: float) -> None:
    found = list(batches([segment(i, length) for i, length in enumerate(lengths)], max_duration=max_duration))
    assert sorted(part.recording for batch in found for part in batch) == list(range(len(lengths)))
    for batch in found:
        padded = len(batch) * max(len(part.features) for part in batch)
        assert len(batch) == 1 or padded <= 100 * max_duration
    assert [len(part.features) for batch in found for part in batch] == sorted(lengths, reverse=True)


@given(LENGTHS)
def test_pools_are_the_parts_in_order(lengths: list[int]) -> None:
    parts = [part for i, length in enumerate(lengths) for part in (segment(i, length), End(i, None))]
    found = list(pools(parts, seconds=20.0))
    assert [part.recording for pool in found for part in pool] == [part.recording for part in parts]
    for pool in found:
        assert sum(len(part.features) for part in pool[:-1] if isinstance(part, Segment)) < 2000


@pytest.mark.parametrize("sampling_rate", [0, -1, 768_001, 2**31 - 1])
def test_sampling_rates_that_cannot_be_are_refused(sampling_rate: int) -> None:
    (end,) = read_segments([Samples(np.zeros(1000, dtype=np.float32), sampling_rate)], frames, longest=30.0)
    assert isinstance(end, End)
    assert f"a sampling rate of {sampling_rate} Hz: give" in str(end.error)


def test_every_recording_ends_once_whatever_is_in_it() -> None:
    silence = np.zeros(70_000, dtype=np.float32)
    recordings = [Samples(silence[:n], 1000) for n in (0, 10, 1000, 70_000)]
    parts = list(read_segments([*recordings, Samples(silence[None], 1000), "nowhere.wav"], frames, longest=30.0))
    ends = [part for part in parts if isinstance(part, End)]
    assert [end.recording for end in ends] == list(range(6))
    assert [type(end.error) for end in ends] == [type(None)] * 4 + [ValueError, FileNotFoundError]
    lengths = [sum(len(p.features) for p in parts if isinstance(p, Segment) and p.recording == i) for i in range(4)]
    assert lengths[:3] == [0, 0, 100]
    assert 6990 <= lengths[3] <= 7000
    starts = [part.start for part in parts if isinstance(part, Segment) and part.recording == 3]
    assert starts == sorted(set(starts))
    assert starts[0] == 0.0


RATE = 1000


def noise(seconds: float, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=int(seconds * RATE)).astype(np.float32)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 130_000), st.integers(500, 20_000), st.sampled_from([1000, 1103]), st.floats(5, WHOLE))
def test_segments_are_the_recording_in_order_and_none_is_too_long(
    milliseconds: int, block: int, rate: int, longest: float
) -> None:
    samples = noise(milliseconds * rate / 1e6)
    blocks = (samples[first : first + block] for first in range(0, len(samples), block))
    segments = list(cut_at_silences(blocks, rate, longest=longest))
    assert np.array_equal(np.concatenate([samples[:0], *(part for _, part in segments)]), samples)
    ends = [first + len(part) for first, part in segments]
    assert [first for first, _ in segments] == [0, *ends][: len(segments)]
    if len(samples) <= WHOLE * rate:
        assert len(segments) <= 1
    else:
        assert all(len(part) <= longest * rate for _, part in segments[:-1])
        assert min(len(part) for _, part in segments) >= REST * rate / 2
        cuts = len(segments) - 1
        assert len(segments[-1][1]) <= max(longest, WHOLE - (cuts - 1) * longest * SHRINKING) * rate


@settings(deadline=None, max_examples=30)
@given(st.floats(5, WHOLE), st.integers(0, 9), st.booleans())
def test_the_number_of_segments_grows_by_one_at_a_time(longest: float, seed: int, pauses: bool) -> None:
    """30.0 s are one segment and 30.1 s two, whatever a model was trained on; minutes are cut as an hour is."""
    samples = noise(150, seed=seed)
    if pauses:
        samples *= np.repeat(np.random.default_rng(seed).choice([0.01, 1.0], p=[0.2, 0.8], size=300), RATE // 2)
    counts = [
        len(list(cut_at_silences([samples[: int(seconds * RATE)]], RATE, longest=longest)))
        for seconds in np.arange(29.0, 150.0, 0.5)
    ]
    assert counts[:3] == [1, 1, 1] and counts[3] == 2
    assert set(np.diff(counts)) <= {0, 1}
    assert counts[-1] >= 150 / longest
    parts = [len(part) for _, part in cut_at_silences([noise(600, seed=seed)], RATE, longest=longest)]
    assert max(parts) <= longest * RATE, "after ten minutes the rest that stays whole is a segment, too"


@pytest.mark.parametrize("longest", [5.0, WHOLE])
def test_what_is_short_enough_is_not_cut(longest: float) -> None:
    samples = noise(WHOLE)
    ((first, part),) = cut_at_silences(np.split(samples, 3), RATE, longest=longest)
    assert first == 0
    assert np.array_equal(part, samples)


@pytest.mark.parametrize("pause", [11.0, 18.3, 29.0])
def test_cuts_lie_in_the_pause(pause: float) -> None:
    samples = noise(70)
    for begin in (pause, pause + 25):
        samples[int(begin * RATE) : int((begin + 0.5) * RATE)] *= 0.01
    starts = [first / RATE for first, _ in cut_at_silences([samples], RATE)]
    assert any(abs(start - (pause + 0.25)) < 0.15 for start in starts)


@pytest.mark.parametrize("longest", [5.0, 11.7, WHOLE])
def test_cuts_do_not_depend_on_how_the_samples_come(longest: float) -> None:
    for seconds in (31, 95):
        samples = noise(seconds)
        whole = [first for first, _ in cut_at_silences([samples], RATE, longest=longest)]
        assert [first for first, _ in cut_at_silences(np.split(samples, seconds), RATE, longest=longest)] == whole


def test_every_cut_lies_in_a_pause_where_there_is_one() -> None:
    """Half a second of pause after each two seconds of speech."""
    samples = noise(120) * np.tile(np.repeat([1, 1, 1, 1, 0.01], RATE // 2), 48)
    starts = [first / RATE for first, _ in cut_at_silences([samples], RATE, longest=6.0)]
    assert len(starts) > 15
    assert all(start % 2.5 >= 2.0 for start in starts[1:])


def test_segments_are_as_long_as_most_of_what_a_model_was_trained_on() -> None:
    assert usual_length([*[10.0] * 95, *[29.0] * 4]) == 10.0
    assert usual_length(np.linspace(5, 25, 101).tolist()) == 24.0
    assert usual_length([2.0]) == 5.0
    assert usual_length([40.0] * 3) == WHOLE
