"""Floors of growth: what is more than it should be is not reached."""

from __future__ import annotations

import pytest

from benchmarks import growth, long_recordings


def test_a_large_corpus_is_compared_with_the_cheapest_smaller_one() -> None:
    steps = [[10, 0.01, 4.0, 30.0, 8.0], [100, 0.1, 2.0, 10.0, 4.0], [1000, 1.0, 3.0, 20.0, 4.0]]
    manifests = [[3_000, 2.0, 0.1, 0.05, 3.0, 1.0], [30_000, 20.0, 1.4, 0.07, 2000.0, 60.0]]
    found = {floor.name: (floor.median, floor.reached) for floor in growth.floors(steps, manifests)}
    assert list(found.values()) == [
        (1.5, False),
        (2.0, False),
        (1.0, True),
        (pytest.approx(1.4), False),
        (2000.0, False),
    ]
    assert "s an hour of audio, decoding, 1,000 cuts over any fewer" in found


@pytest.mark.parametrize(("mib", "reached"), [(200.0, True), (400.0, False)])
def test_memory_of_the_longest_recording_is_compared_minute_by_minute(mib: float, reached: bool) -> None:
    floor = long_recordings.floor([[5.0, 90.0, 1.0], [10.0, 100.0, 3.0], [20.0, mib, 12.0]])
    assert floor.name == "memory a minute, 20 minutes over 10"
    assert floor.median == mib / 200 and floor.reached is reached
