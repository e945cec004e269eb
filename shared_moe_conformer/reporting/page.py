"""The page of a report and what stands on it: headings, cards, tiles and tables; whatever is not markup is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from shared_moe_conformer.web.pages import read_page


class Markup(str):
    """HTML or SVG, which goes into a page as it is."""


def tag(name: str, *children: str | None, **attributes: str | None) -> Markup:
    """An element; a child that is no `Markup` is escaped, None is left out, and `_` in an attribute stands for `-`."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items() if value
    )
    inside = "".join(child if isinstance(child, Markup) else escape(child) for child in children if child)
    return Markup(f"<{name}{shown}>{inside}</{name}>")


def page(title: str, *parts: Markup | None) -> str:
    """The whole file; it loads nothing, and a browser is told that it may not."""
    text = read_page("report.html").replace("<!-- title -->", escape(title))
    return text.replace("<!-- body -->", tag("main", *parts))


def section(heading: str, *parts: Markup | None) -> Markup | None:
    """A heading and what belongs to it; None if nothing does."""
    return tag("section", tag("h2", heading), *parts) if any(parts) else None


def tiles(values: Sequence[tuple[str, str]]) -> Markup:
    """Numbers worth knowing first, each with its name."""
    boxes = [tag("div", tag("b", value), tag("span", name), class_="tile") for value, name in values]
    return tag("div", *boxes, class_="tiles")


def cards(*charts: Markup | None) -> Markup | None:
    """Charts side by side; None if there is none."""
    present = [tag("div", chart, class_="card") for chart in charts if chart]
    return tag("div", *present, class_="cards") if present else None


def wide_card(*parts: Markup | None) -> Markup:
    """Something that takes the whole width."""
    return tag("div", *parts, class_="card")


def listed(lines: Sequence[str]) -> Markup:
    """A list."""
    return tag("ul", *(tag("li", line) for line in lines))


def warning(*parts: Markup) -> Markup:
    """Something to look into."""
    return tag("div", *parts, class_="card warning")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> Markup:
    """A table, its last `numbers` columns of numbers; without a head if the columns have no names."""
    classes = [None] * (len(columns) - numbers) + ["number"] * numbers

    def row(kind: str, values: Sequence[str]) -> Markup:
        return tag("tr", *(tag(kind, value, class_=class_) for value, class_ in zip(values, classes)))

    head = tag("thead", row("th", columns)) if any(columns) else None
    return tag("table", head, tag("tbody", *(row("td", values) for values in rows)))


def folded(summary: str, *parts: Markup) -> Markup:
    """Parts that are shown when asked for."""
    return tag("details", tag("summary", summary), *parts)
