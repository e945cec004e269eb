from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_moe_conformer.reporting.axis import axis_of, short

NUMBERS = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)


@given(values=st.lists(NUMBERS, min_size=1, max_size=5), from_zero=st.booleans(), logarithmic=st.booleans())
def test_every_value_has_its_place_in_order(values: list[float], from_zero: bool, logarithmic: bool) -> None:
    axis = axis_of(values, from_zero=from_zero, may_be_logarithmic=logarithmic)
    places = [axis.place(value) for value in sorted(values)]
    assert all(-1e-6 <= place <= 1 + 1e-6 for place in places) and places == sorted(places)
    assert 2 <= len(axis.ticks) <= 16 and axis.ticks == sorted(axis.ticks)


def test_ticks_are_round() -> None:
    assert axis_of([0.3, 9.1]).ticks == [0, 2.5, 5, 7.5, 10]
    assert axis_of([61.0, 99.0], from_zero=True).ticks == [0, 25, 50, 75, 100]
    assert axis_of([0.3, 9.0], may_be_logarithmic=True).ticks == [0.2, 0.5, 1, 2, 5, 10]
    assert axis_of([0.3, 900.0], may_be_logarithmic=True).ticks == [0.1, 1, 10, 100, 1000]


def test_a_factor_takes_the_same_room_everywhere_on_a_logarithmic_axis() -> None:
    axis = axis_of([0.01, 100.0], may_be_logarithmic=True)
    assert axis.logarithmic
    assert axis.place(1) - axis.place(0.1) == pytest.approx(axis.place(100) - axis.place(10))


def test_what_is_not_finite_or_missing_does_not_matter() -> None:
    assert axis_of([1.0, math.nan, 2.0, math.inf]) == axis_of([1.0, 2.0])
    assert axis_of([]).place(0.5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.00025, "2.5e-4"), (1500, "1500"), (25_000, "25k"), (3e6, "3M"), (0.25, "0.25")]
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert short(value) == shown
