from __future__ import annotations

from html.parser import HTMLParser

from shared_moe_conformer.reporting.page import (
    Markup,
    cards,
    folded,
    listed,
    page,
    section,
    table,
    tag,
    tiles,
    warning,
    wide_card,
)


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
