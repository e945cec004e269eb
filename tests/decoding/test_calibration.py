from __future__ import annotations

from shared_moe_conformer.decoding.calibration import calibration_text, judged_words


def test_words_are_judged_by_the_alignment_with_what_was_said() -> None:
    found = judged_words(["A", "B", "C"], [("A", 0.9), ("X", 0.2), ("C", None), ("D", 0.4)])
    assert found == [(0.9, True), (0.2, False), (0.4, False)]
    assert judged_words(["A"], []) == judged_words([], []) == []
    assert judged_words([], [("A", 0.5)]) == [(0.5, False)]


def test_a_confidence_belongs_to_one_bin() -> None:
    judged = [(0.0, False), (0.49, True), (0.5, True), (0.79, True), (0.95, True), (1.0, True), (1.0, False)]
    title, header, row = calibration_text({"1best": judged, "says nothing": []}, title="test, epoch-1").splitlines()
    assert title == "test, epoch-1: words that are right, by their confidence"
    assert header.split("  ")[0] == "method" and header.endswith("0.95 or more")
    assert [cell.strip() for cell in row.split("  ") if cell.strip()] == [
        "1best", "50 % of 2", "100 % of 2", "-", "67 % of 3",
    ]  # fmt: skip
