"""The picture."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shared_moe_conformer.ablation.figure import Point, draw, frontier, spread, within
from shared_moe_conformer.ablation.statistics import Estimate


def test_the_frontier_is_what_no_other_beats() -> None:
    points = [(3.0, 50.0), (1.0, 60.0), (2.0, 70.0), (2.5, 60.0), (4.0, 49.0)]
    assert frontier(points) == [(1.0, 60.0), (3.0, 50.0), (4.0, 49.0)]


def test_names_that_are_too_near_move_apart_around_their_middle() -> None:
    assert spread([5.0, 1.0, 9.0], gap=2.0) == [5.0, 1.0, 9.0]
    assert spread([5.0, 5.0, 20.0], gap=2.0) == [4.0, 6.0, 20.0]
    assert spread([0.0, 3.0, 3.0], gap=3.0) == [-1.0, 2.0, 5.0], "the second pair pushes the first"


@given(st.lists(st.floats(-50, 50), max_size=8))
def test_spread_heights_keep_their_order_and_a_gap(heights: list[float]) -> None:
    places = spread(heights, gap=2.0)
    order = sorted(range(len(heights)), key=heights.__getitem__)
    assert all(places[b] - places[a] > 2.0 - 1e-6 for a, b in zip(order, order[1:]))


@given(st.lists(st.floats(-50, 50), max_size=8))
def test_spread_heights_stay_inside(heights: list[float]) -> None:
    places = spread(within(heights, 2.0, 0.0, 16.0), gap=2.0)
    assert all(-1e-6 <= place <= 16.0 + 1e-6 for place in places)
    order = sorted(range(len(heights)), key=heights.__getitem__)
    assert all(places[b] - places[a] > 2.0 - 1e-6 for a, b in zip(order, order[1:]))


def test_the_picture_names_every_variant_and_is_always_the_same(tmp_path: Path) -> None:
    points = [Point(name, size, Estimate(60, 55, 66), Estimate(40, 38, 41)) for name, size in (("a-1", 9), ("b-2", 5))]
    for name in ("one", "two"):
        draw(tmp_path / f"{name}.svg", points)
    text = (tmp_path / "one.svg").read_text()
    assert text.count(">a-1<") == text.count(">b-2<") == 2
    assert text == (tmp_path / "two.svg").read_text() and len(text) < 60_000
