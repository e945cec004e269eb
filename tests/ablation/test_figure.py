"""The picture."""

from __future__ import annotations

from pathlib import Path

from shared_moe_conformer.ablation.figure import Point, draw, frontier
from shared_moe_conformer.ablation.statistics import Estimate


def test_the_frontier_is_what_no_other_beats() -> None:
    points = [(3.0, 50.0), (1.0, 60.0), (2.0, 70.0), (2.5, 60.0), (4.0, 49.0)]
    assert frontier(points) == [(1.0, 60.0), (3.0, 50.0), (4.0, 49.0)]


def test_the_picture_names_every_variant_and_is_always_the_same(tmp_path: Path) -> None:
    points = [Point(name, size, Estimate(60, 55, 66), Estimate(40, 38, 41)) for name, size in (("a-1", 9), ("b-2", 5))]
    for name in ("one", "two"):
        draw(tmp_path / f"{name}.svg", points)
    text = (tmp_path / "one.svg").read_text()
    assert text.count(">a-1<") == text.count(">b-2<") == 2
    assert text == (tmp_path / "two.svg").read_text() and len(text) < 60_000
