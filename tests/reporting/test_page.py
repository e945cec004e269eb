from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from shared_moe_conformer.reporting.page import (
    COLOURS,
    MAX_POINTS,
    Curve,
    Rate,
    interval_chart,
    line_chart,
    page,
    standalone,
    thin,
)
from shared_moe_conformer.web import (
    STYLE,
    Markup,
    cards,
    folded,
    listed,
    section,
    table,
    tag,
    tiles,
    warning,
    wide_card,
)

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"


def hints(chart: str) -> dict[str, ElementTree.Element]:
    """What is drawn at each point, by the point's hint."""
    found = {}
    for group in ElementTree.fromstring(chart).iter(f"{SVG}g"):
        title = group.find(f"{SVG}title")
        if title is not None:
            found[str(title.text)] = group
    return found


def places(chart: str) -> list[tuple[float, float]]:
    """The points of a chart with several, in pixels."""
    spots = [group.find(f".//{SVG}use") for group in hints(chart).values()]
    return [(float(spot.get("x", "")), float(spot.get("y", ""))) for spot in spots if spot is not None]


def test_a_chart_says_what_it_is_and_escapes_its_names() -> None:
    chart = line_chart([Curve("<a>", [1, 2], [1.0, 2.0]), Curve("$b^$", [1], [2.0])], title="x & y", x_name="epoch")
    root = ElementTree.fromstring(chart)
    assert root.get("role") == "img" and root.get("aria-label") == root[0].text == "x & y"
    assert root.get("viewBox") == "0 0 500 250"
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"<a>", "$b^$", "epoch", "x & y"} <= set(texts) and "<a>, 1: 1" in hints(chart)


def test_all_colours_follow_the_page_and_nothing_is_loaded() -> None:
    chart = line_chart([Curve(n, [1, 2], [1.0, 2.0]) for n in "abcdef"], title="t", x_name="epoch")
    used = set(re.findall(r"var\(--(\w+)\)", chart))
    assert used >= {"ink", "soft", "grid", "e0", "e7"} and used <= COLOURS.keys()
    assert not re.findall("#[0-9a-f]{6}", chart)
    assert all(element.get(f"{XLINK}href", "#").startswith("#") for element in ElementTree.fromstring(chart).iter())
    light, dark = STYLE.split("@media", 1)
    assert all(f"--{name}: #" in light and f"--{name}: #" in dark for name in used)


def test_higher_values_are_higher() -> None:
    first, second, third, *dev = places(
        line_chart([Curve("loss", [1, 2, 3], [5.0, 1.0, 3.0]), Curve("dev", [1, 3], [4.0, 2.0])], title="Loss",
                   x_name="updates")
    )  # fmt: skip
    assert first[1] < third[1] < second[1] and first[0] < second[0] < third[0]
    assert dev[0][0] == first[0] and first[1] < dev[0][1] < third[1]
    assert all(0 < x < 500 and 0 < y < 250 for x, y in (first, second, third, *dev))


def test_values_that_range_far_get_a_logarithmic_axis() -> None:
    chart = line_chart([Curve("a", [1, 2, 3], [500.0, 50.0, 5.0])], title="Loss", x_name="epoch")
    (_, high), (_, middle), (_, low) = places(chart)
    assert "Loss (logarithmic)" in chart and low - middle == pytest.approx(middle - high, abs=0.2)
    assert "logarithmic" not in line_chart([Curve("a", [1, 2], [500.0, 0.0])], title="Loss", x_name="epoch")


def test_a_single_point_is_a_visible_spot() -> None:
    chart = line_chart([Curve("a", [7], [3.0])], title="t", x_name="epoch")
    assert [*hints(chart)] == ["a, 7: 3"] and "fill-opacity: 0.001" not in chart


def test_values_that_are_not_finite_are_left_out() -> None:
    assert thin(Curve("a", [1, 2, 3, 4], [1.0, math.nan, 3.0, math.inf])) == Curve("a", [1, 3], [1.0, 3.0])
    ElementTree.fromstring(line_chart([Curve("a", [1], [math.nan])], title="t", x_name="epoch"))


def test_many_points_are_averaged() -> None:
    thinned = thin(Curve("a", range(100_000), [float(n % 2) for n in range(100_000)]))
    assert len(thinned.x) <= MAX_POINTS and thinned.x[-1] == 99_999
    assert thinned.y == pytest.approx([0.5] * len(thinned.y), abs=0.01)


def test_better_rates_are_further_left() -> None:
    rates = [Rate("best & first", 10.0, 8.0, 13.0), Rate("other", 20.0, 15.0, 21.0), Rate("third", 30.0, 29.0, 31.0)]
    chart = interval_chart(rates, title="WER")
    (x1, y1), (x2, y2), (x3, y3) = places(chart)
    assert x1 < x2 < x3 and y1 < y2 < y3
    assert next(iter(hints(chart))) == "best & first: 10.00 [8.00, 13.00]"


def test_a_picture_of_its_own_carries_its_colours() -> None:
    root = ElementTree.fromstring(standalone(interval_chart([Rate("a", 1.0, 0.5, 2.0)], title="WER")))
    assert [element.tag.split("}")[1] for element in root][:3] == ["style", "rect", "title"]
    assert "--e0" in str(root[0].text)


class Balanced(HTMLParser):
    """Checks that every element ends."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_whole_loads_nothing_and_escapes_its_texts() -> None:
    evil = "</p><script>"
    parts = [
        tiles([("5 %", evil)]),
        warning(tag("b", evil), listed([evil])),
        wide_card(folded(evil, table([evil, "n"], [[evil, "1"]], numbers=1))),
        section(evil, cards(tag("svg"), None)),
    ]
    text = page(evil, *parts, evil)  # type: ignore[arg-type]
    seen = Balanced(text).seen
    assert "script" not in seen and {"table", "details", "svg"} <= set(seen)
    assert "default-src 'none'" in text.replace("&#x27;", "'") and "http://" not in text and "src=" not in text


def test_numbers_stand_first_in_a_tile() -> None:
    assert tiles([("5 %", "WER")]) == '<div class="tiles"><div class="tile"><b>5 %</b><span>WER</span></div></div>'


def test_what_is_empty_is_left_out() -> None:
    assert section("a", None) is None and cards(None) is None
    assert "thead" not in table(["", ""], [["a", "b"]])


def test_text_and_attributes_are_escaped_and_markup_is_not() -> None:
    element = tag("p", "<b> & ", tag("i", '"x"'), title='"><script>')
    assert element == '<p title="&quot;&gt;&lt;script&gt;">&lt;b&gt; &amp; <i>&quot;x&quot;</i></p>'
    assert isinstance(element, Markup)


def test_what_is_none_is_left_out() -> None:
    assert tag("p", None, "a", None, class_=None) == "<p>a</p>"
    assert tag("p", aria_label="a") == '<p aria-label="a"></p>'
