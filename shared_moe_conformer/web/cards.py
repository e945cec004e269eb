"""A released model's card as HTML that cannot do anything: whoever wrote it is not trusted."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

HEADER = re.compile(r"\A---\n.*?\n---\n", flags=re.DOTALL)
LOWEST_HEADING = 6
DEEPER = 2
"""Levels by which a card's headings are lower than they say: the page has a title, and so has the model."""


def card_html(markdown: str) -> str:
    """The card without its header; raw HTML in it is shown as text, pictures as links, other links than to web pages
    not at all.

    Source: CommonMark, with the tables of GitHub Flavored Markdown.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    parser.validateLink = _is_web_page  # type: ignore[method-assign]
    tokens = parser.parse(HEADER.sub("", markdown))
    for token in tokens:
        _make_modest(token)
    return parser.renderer.render(tokens, parser.options, {})


def _is_web_page(url: str) -> bool:
    return url.startswith(("https://", "http://"))


def _make_modest(token: Token) -> None:
    """Lower a heading, have links tell nothing about who follows them, and drop attributes that a policy refuses."""
    if token.type in ("heading_open", "heading_close"):
        token.tag = f"h{min(LOWEST_HEADING, int(token.tag[1]) + DEEPER)}"
    if token.type == "link_open":
        token.attrSet("rel", "noopener noreferrer nofollow")
    token.attrs.pop("style", None)  # of columns that are aligned
    for child in token.children or ():
        _make_modest(child)
