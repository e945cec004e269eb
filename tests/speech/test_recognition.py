from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shared_moe_conformer.speech.recognition import End, Samples, Segment, batches, pools, read_segments

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
