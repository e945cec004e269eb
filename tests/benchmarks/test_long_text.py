from __future__ import annotations

from benchmarks.long_text import Way, compared, summary


def test_errors_are_those_from_the_transcript_and_differences_those_from_the_first_way() -> None:
    ways = {"apart": lambda: ["A B", "C"], "joined": lambda: ["A X C D"]}
    found = [way[:4] for way in compared(ways, ["A", "B", "C", "D"])]
    assert found == [("apart", 25.0, 0.0, 0.0), ("joined", 25.0, 0.0, 100 * 2 / 3)]


def test_recordings_are_averaged_and_the_increase_has_its_range() -> None:
    recordings = [
        [Way("apart", 50.0, 0.0, 0.0, 100.0, 1.0), Way("joined", 50.0 + more, more, 10 * more, 100.0 * more, more)]
        for more in (1.0, 4.0)
    ]
    assert summary(recordings, 10).rows == [
        ["apart", 50.0, "0.0 [0.0, 0.0]", 0.0, 100.0, 1.0],
        ["joined", 52.5, "2.5 [1.0, 4.0]", 25.0, 400.0, 2.5],
    ]
