from __future__ import annotations

import pytest

from benchmarks.tables import Floor, Ratio, Report, Table, floors_table, from_json, markdown, plain, shown, to_json

TABLE = Table("Times", ["", "ms"], [["ours", 1.234], ["theirs", None]])
RATIO = Ratio(1.5, 1.25, 2.0)


def test_report_survives_json() -> None:
    ratios = Table("Ratios", ["", "ratio"], [["ours", RATIO]])
    report = Report([TABLE, ratios], [Floor("time", 0.5, 0.4), Floor("ratio", 1.6, RATIO)])
    assert from_json(to_json(report)) == report


def test_markdown_has_a_row_for_each() -> None:
    rows = ["|  | ms |", "| --- | ---: |", "| ours | 1.23 |", "| theirs | - |"]
    assert markdown(TABLE).splitlines() == ["**Times**", "", *rows]


def test_text_is_aligned() -> None:
    assert plain(TABLE).splitlines() == ["Times", "          ms", "ours    1.23", "theirs     -"]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "-"),
        ("a", "a"),
        (20000, "20,000"),
        (1234.5, "1,234"),
        (0.856, "0.86"),
        (0.00123, "0.00123"),
        (RATIO, "1.50 [1.25, 2.00]"),
    ],
)
def test_numbers_are_rounded(cell: object, text: str) -> None:
    assert shown(cell) == text


def test_a_floor_that_was_missed_stands_out() -> None:
    rows = floors_table([Floor("a", 1.0, 0.9), Floor("b", 1.0, 1.1), Floor("c", 1.6, RATIO)]).rows
    assert [row[-1] for row in rows] == ["yes", "**no**", "yes"]
