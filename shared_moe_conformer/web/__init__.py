"""Pages for browsers, each one file that needs nothing else: their elements, and what a browser may do with them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
STYLE = (FOLDER / "style.css").read_text(encoding="utf-8")
"""Style of all pages: colours by day and by night, letters, cards and tables."""


def read_page(name: str) -> str:
    """A page of this folder, the shared style in it."""
    return (FOLDER / name).read_text(encoding="utf-8").replace("/* style.css */", STYLE)


def security_policy(page: str, **sources: str) -> str:
    """The policy that lets a browser load and run a page's own inline style and scripts, and nothing else.

    Args:
      page: the HTML, with inline `<style>` and `<script>` elements only.
      sources: further sources by directive, `_` for `-`: `connect_src="'self'"`.

    Source: W3C, Content Security Policy Level 3, section 6.7 (hashes of inline elements).
    """
    directives = {
        "default-src": "'none'",
        "style-src": " ".join(_hashes(page, "style")),
        "script-src": " ".join(_hashes(page, "script")),
        "base-uri": "'none'",
        "form-action": "'none'",
        **{name.replace("_", "-"): value for name, value in sources.items()},
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items() if value)


def _hashes(page: str, element: str) -> list[str]:
    contents = re.findall(f"<{element}>(.*?)</{element}>", page, flags=re.DOTALL)
    digests = [hashlib.sha256(content.encode()).digest() for content in contents]
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]


class Markup(str):
    """HTML or SVG, which goes into a page as it is."""


def tag(name: str, *children: str | None, **attributes: str | None) -> Markup:
    """An element; a child that is no `Markup` is escaped, None is left out, and `_` in an attribute stands for `-`."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items() if value
    )
    inside = "".join(child if isinstance(child, Markup) else escape(child) for child in children if child)
    return Markup(f"<{name}{shown}>{inside}</{name}>")


def section(heading: str, *parts: Markup | None) -> Markup | None:
    """A heading and its parts; None if there are none."""
    return tag("section", tag("h2", heading), *parts) if any(parts) else None


def tiles(values: Sequence[tuple[str, str]]) -> Markup:
    """The most important numbers, each with its name."""
    boxes = [tag("div", tag("b", value), tag("span", name), class_="tile") for value, name in values]
    return tag("div", *boxes, class_="tiles")


def cards(*charts: Markup | None) -> Markup | None:
    """Charts side by side; None if there is none."""
    present = [tag("div", chart, class_="card") for chart in charts if chart]
    return tag("div", *present, class_="cards") if present else None


def wide_card(*parts: Markup | None) -> Markup:
    """A card of the page's whole width."""
    return tag("div", *parts, class_="card")


def listed(lines: Sequence[str]) -> Markup:
    """A list."""
    return tag("ul", *(tag("li", line) for line in lines))


def warning(*parts: Markup) -> Markup:
    """A card for a problem that needs a look."""
    return tag("div", *parts, class_="card warning")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> Markup:
    """A table whose last `numbers` columns hold numbers; without a head if the columns have no names."""
    classes = [None] * (len(columns) - numbers) + ["number"] * numbers

    def row(kind: str, values: Sequence[str]) -> Markup:
        return tag("tr", *(tag(kind, value, class_=class_) for value, class_ in zip(values, classes)))

    head = tag("thead", row("th", columns)) if any(columns) else None
    return tag("table", head, tag("tbody", *(row("td", values) for values in rows)))


def folded(summary: str, *parts: Markup) -> Markup:
    """Parts that open with a click on the summary."""
    return tag("details", tag("summary", summary), *parts)
