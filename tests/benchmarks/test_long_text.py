from __future__ import annotations

from benchmarks.long_text import compared


def test_errors_are_those_from_the_transcript_and_differences_those_from_the_first_way() -> None:
    ways = {"apart": lambda: ["A B", "C"], "joined": lambda: ["A X C D"]}
    rows = compared(ways, ["A", "B", "C", "D"], 0.1).rows
    assert [row[:3] for row in rows] == [["apart", 25.0, 0.0], ["joined", 25.0, 100 * 2 / 3]]
