from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.release.card import model_card
from shared_moe_conformer.web.cards import card_html
from tests.conftest import TINY, tiny_manifest

TAGS = {"a", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "strong"}
TAGS |= {"table", "tbody", "td", "th", "thead", "tr", "ul"}


def test_a_models_own_card_is_shown_without_its_header() -> None:
    html = card_html(model_card(tiny_manifest(), TINY))
    assert html.startswith("<h3>tiny</h3>")
    assert "license:" not in html
    assert "<td>98.70 %</td>" in html
    assert '<a href="https://arxiv.org/abs/2209.08326" rel="noopener noreferrer nofollow">' in html


@pytest.mark.parametrize(
    "card",
    [
        "<script>alert(1)</script>",
        "text <img src=x onerror=alert(1)>",
        "<iframe src='https://example.org'></iframe>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt&colon;alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "[x](file:///etc/passwd)",
        "![x](https://example.org/track.png)",
        "[x]: javascript:alert(1)\n\n[x]",
        '<svg/onload=alert(1)>"><script>',
        "```</code></pre><script>\n```",
        '[x](https://e.org/"onmouseover="alert(1))',
        "| a |\n|:-:|\n| <b onclick=x> |",
        "---\nno end of the header <script>",
    ],
)
def test_hostile_cards_do_nothing(card: str) -> None:
    check_harmless(card_html(card))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.sampled_from(list("<>\"'&=/:;[]()!`*_#|-\n \tabjsx:hrefonld")), max_size=80))
def test_no_text_whatsoever_becomes_more_than_text(card: str) -> None:
    check_harmless(card_html(card))


def check_harmless(html: str) -> None:
    for tag, attributes in re.findall(r"</?([^\s>/]+)([^>]*)>", html):
        assert tag in TAGS, html
        names = re.findall(r'\s([a-z-]+)="', attributes)
        assert set(names) <= {"href", "rel", "class", "title", "start"}, html
    assert all(url.startswith(("https://", "http://")) for url in re.findall(r'href="([^"]*)"', html)), html
