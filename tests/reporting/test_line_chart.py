from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from shared_moe_conformer.reporting.line_chart import HEIGHT, MAX_POINTS, WIDTH, Curve, line_chart, thin


def test_points_are_inside_and_higher_values_are_higher() -> None:
    chart = line_chart([Curve("loss", [1, 2, 3], [5.0, 1.0, 3.0]), Curve("dev", [1, 3], [4.0, 2.0])], title="Loss",
                       x_name="updates")  # fmt: skip
    lines = [
        [tuple(map(float, point.split(","))) for point in str(e.get("points")).split()]
        for e in ElementTree.fromstring(chart).iter("{http://www.w3.org/2000/svg}polyline")
    ]
    assert [len(line) for line in lines] == [3, 2]
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for line in lines for x, y in line)
    (first, second, third), dev = lines
    assert first[1] < third[1] < second[1] and first[0] < second[0] < third[0]
    assert dev[0][0] == first[0] and first[1] < dev[0][1] < third[1]


def test_values_that_range_far_get_a_logarithmic_axis_and_names_are_escaped() -> None:
    chart = line_chart([Curve("<a>", [1, 2], [500.0, 1.0]), Curve("b", [1], [2.0])], title="x & y", x_name="epoch")
    assert "x &amp; y (logarithmic)" in chart and "&lt;a&gt;, 1: 500" in chart and "<a>" not in chart


def test_a_single_point_is_a_visible_spot() -> None:
    chart = line_chart([Curve("a", [7], [3.0])], title="t", x_name="epoch")
    assert len(re.findall("<circle", chart)) == 1 and 'class="spot"' not in chart
    ElementTree.fromstring(chart)


def test_values_that_are_not_finite_are_left_out() -> None:
    assert thin(Curve("a", [1, 2, 3, 4], [1.0, math.nan, 3.0, math.inf])) == Curve("a", [1, 3], [1.0, 3.0])
    ElementTree.fromstring(line_chart([Curve("a", [1], [math.nan])], title="t", x_name="epoch"))


def test_many_points_are_averaged() -> None:
    thinned = thin(Curve("a", range(100_000), [float(n % 2) for n in range(100_000)]))
    assert len(thinned.x) <= MAX_POINTS and thinned.x[-1] == 99_999
    assert thinned.y == pytest.approx([0.5] * len(thinned.y), abs=0.01)
