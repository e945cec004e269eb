"""Pieces of SVG that every chart is made of."""

from __future__ import annotations

from shared_moe_conformer.reporting.markup import Markup, join, tag
from shared_moe_conformer.reporting.style import COLOURS, DRAWING

CHARACTER_WIDTH = 6.7
"""Pixels that a character of 12 px text takes on average, with a margin."""


def drawing(width: float, height: float, *parts: Markup, title: str) -> Markup:
    """A picture that is as wide as its place in the page, with a title for those who do not see it."""
    return tag(
        "svg",
        tag("title", title),
        *parts,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=width,
        height=height,
        role="img",
        aria_label=title,
        xmlns="http://www.w3.org/2000/svg",
    )


def standalone(picture: Markup) -> Markup:
    """A picture as a file of its own, which carries its colours and a ground."""
    style = tag("style", Markup(COLOURS + DRAWING))
    ground = tag("rect", width="100%", height="100%", fill="var(--card)", rx=6)
    head, rest = picture.split(">", 1)
    return join(Markup(head + ">"), style, ground, Markup(rest + "\n"))


def label(x: float, y: float, text: str, *, anchor: str = "start", class_: str | None = None) -> Markup:
    """Text whose baseline begins (start), has its middle, or ends (end) at a point."""
    return tag("text", text, x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_)


def text_width(texts: list[str]) -> float:
    """Pixels that the longest of the texts takes."""
    return CHARACTER_WIDTH * max((len(text) for text in texts), default=0)
