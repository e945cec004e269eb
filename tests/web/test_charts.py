from __future__ import annotations

from xml.etree import ElementTree

import pytest

from shared_moe_conformer.web.charts import LONGEST_LABEL, MAX_ROWS, told_apart, wer_chart

ELLIPSIS = "\u2026"
HOSTILE = "<script>alert(1)</script>\"'&"


def parse(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{chart}</div>")


def widths(chart: str) -> list[str]:
    return [rect.attrib["width"] for rect in parse(chart).iter("rect")]


def test_bars_are_as_long_as_the_rates_and_the_search_that_is_compared_stands_out() -> None:
    chart = wer_chart(
        {
            "test": {"greedy": 20.0, "beam": 10.0},
            "dev": {"ctc_greedy_search": 4.0, "greedy_search-max-sym-per-frame-1": 5.0},
        }
    )
    assert widths(chart) == ["100.0%", "50.0%", "25.0%", "20.0%"]
    tables = list(parse(chart))
    assert [table[0].text for table in tables] == ["test", "dev"]
    rows = [[row.get("class"), "".join(row[0].itertext()), row[2].text] for table in tables for row in table.iter("tr")]
    assert rows == [
        [None, "greedy", "20.00 %"],
        [None, "beam", "10.00 %"],
        ["compared", "greedy_searchmax-sym-per-frame-1", "5.00 %"],
        [None, "ctc_greedy_search", "4.00 %"],
    ]


LATTICE = "-hlg-scale-1.0-lattice-engine-{}-ctc-topology-standard-search-beam-20.0-output-beam-8.0-max-active-7000"
RESCORING = "nbest_rescoring" + LATTICE + "-num-paths-200-rescoring-ngram-G_4_gram-backoff-exact-lm-scale-{}"


def test_several_searches_by_one_method_say_what_they_share_and_what_tells_them_apart() -> None:
    """Nothing of the longest names is cut."""
    rates = {RESCORING.format(engine, scale): 45.0 for engine in ("embedded", "k2") for scale in (0.5, 1.0)}
    (table,) = parse(wer_chart({"test": {"ctc_greedy_search": 59.0, **rates}}))
    assert ["".join(row[0].itertext()) for row in table.iter("tr")] == [
        "ctc_greedy_search",
        RESCORING.format(ELLIPSIS, ELLIPSIS).replace("nbest_rescoring-", "nbest_rescoring"),
        "engine embedded, scale 0.5",
        "engine embedded, scale 1.0",
        "engine k2, scale 0.5",
        "engine k2, scale 1.0",
    ]


def test_options_that_are_not_alike_are_whole() -> None:
    assert told_apart(["beam-4", "beam-4-hotwords-A"]) == ("", ["beam-4", "beam-4-hotwords-A"])
    assert told_apart(["beam-4", "beam-8"]) == (f"beam-{ELLIPSIS}", ["beam 4", "beam 8"])
    assert told_apart(["", "4"]) == (ELLIPSIS, ["", "4"])


def test_nothing_measured_is_no_picture() -> None:
    assert wer_chart({}) == wer_chart({"test": {}}) == ""


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0, 1e300])
def test_what_is_no_rate_has_no_bar(rate: float) -> None:
    assert widths(wer_chart({"test": {"a": rate, "b": 10.0}})) == ["0.0%", "100.0%"]
    assert widths(wer_chart({"test": {"a": rate}})) == ["0.0%"]
    assert widths(wer_chart({"test": {"a": 0.0}})) == ["0.0%"]
    assert "no number" in wer_chart({"test": {"a": rate}})


def test_names_of_any_kind_stay_names_and_are_shortened() -> None:
    chart = wer_chart({HOSTILE: {HOSTILE: 1.0, "x" * 10**6: 2.0}})
    assert list(parse(chart).iter("script")) == []
    assert "&lt;script&gt;" in chart
    assert f"{'x' * (LONGEST_LABEL - 1)}{ELLIPSIS}" in chart
    assert len(chart) < 1200
    assert len(wer_chart({"test": {str(i): 1.0 for i in range(10**4)}})) < 400 * MAX_ROWS
