from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.decoding.comparison import comparison_text, draw, table_text
from shared_moe_conformer.decoding.scoring import Scores

from .test_scoring import scores

SCORES = [
    scores()._replace(peak_memory=12.34),
    scores("nbest_oracle")._replace(is_oracle=True),
    scores("modified_beam_search"),
]


def test_columns_are_aligned_and_oracles_marked() -> None:
    header, *rows = table_text(SCORES).splitlines()
    assert [row.split("  ")[0] for row in rows] == ["greedy_search", "nbest_oracle (oracle)", "modified_beam_search"]
    assert len({row.index("]") for row in rows}) == 1, "columns are aligned"
    assert rows[0].endswith("12.3") and rows[1].endswith("-") and header.endswith("MiB")


def test_notes_say_what_there_is_to_know() -> None:
    text = comparison_text(SCORES, title="test, epoch-1", left_out={"1best": "no engine"})
    title, *_, last = text.splitlines()
    assert title == "test, epoch-1" and last == "left out: 1best: no engine"
    assert "a bound and no result" in text and "MiB: memory" in text and "" not in text.splitlines()
    assert "the engines agree\n" in comparison_text(SCORES, title="test", left_out={}, agreement="the engines agree")
    plain = comparison_text([scores()], title="test", left_out={})
    assert "oracle" not in plain and "MiB: memory" not in plain


@pytest.mark.parametrize("shown", [SCORES, SCORES[2:]])
def test_the_picture_is_a_png(tmp_path: Path, shown: list[Scores]) -> None:
    draw(shown, tmp_path / "comparison.png", title="test, epoch-1")
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
