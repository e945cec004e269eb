from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from shared_moe_conformer.web.charts import BARS, MAX_ROWS, wer_chart

HOSTILE = "<script>alert(1)</script>\"'&"


def widths(chart: str) -> list[float]:
    return [float(rect.attrib["width"]) for rect in ElementTree.fromstring(chart).iter("rect")]


def test_bars_are_as_long_as_the_rates() -> None:
    chart = wer_chart({"test": {"greedy": 20.0, "beam": 10.0}, "dev": {"greedy": 5.0}})
    assert widths(chart) == [BARS, BARS / 2, BARS / 4]
    assert re.findall(r'class="rate"[^>]*>([^<]+)<', chart) == ["20.00 %", "10.00 %", "5.00 %"]
    assert "the best 5.00 %" in chart


def test_nothing_measured_is_no_picture() -> None:
    assert wer_chart({}) == wer_chart({"test": {}}) == ""


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0, 1e300])
def test_what_is_no_rate_has_no_bar(rate: float) -> None:
    assert widths(wer_chart({"test": {"a": rate, "b": 10.0}})) == [0.0, BARS]
    assert widths(wer_chart({"test": {"a": rate}})) == [0.0]
    assert widths(wer_chart({"test": {"a": 0.0}})) == [0.0]


def test_names_of_any_kind_stay_names_and_are_shortened() -> None:
    chart = wer_chart({HOSTILE: {HOSTILE: 1.0, "x" * 10**6: 2.0}})
    assert [rect.tag for rect in ElementTree.fromstring(chart).iter("script")] == []
    assert "&lt;script&gt;" in chart
    assert len(chart) < 5000
    assert len(wer_chart({"test": {str(i): 1.0 for i in range(10**4)}})) < 400 * MAX_ROWS
