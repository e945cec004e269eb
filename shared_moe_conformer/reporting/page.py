"""A page of HTML in one file: headings, cards, tiles and tables; readable on a phone, by day and by night."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

COLOURS = {
    "paper": ("#fcfcfb", "#14171b"),
    "card": ("#ffffff", "#1b1f25"),
    "ink": ("#1d2126", "#e4e7eb"),
    "faint": ("#6b7480", "#949ea9"),
    "line": ("#e3e6ea", "#323841"),
    "warn": ("#b4440f", "#f19a66"),
    "c0": ("#2563a8", "#7ab3ee"),
    "c1": ("#c2571a", "#f0a06b"),
    "c2": ("#2b8a57", "#74cf9d"),
    "c3": ("#8a4fa3", "#cf9fe6"),
    "c4": ("#a8812a", "#e0c070"),
    "c5": ("#4b5563", "#a8b2bd"),
}
"""Each colour on a light and on a dark screen."""
LIGHT, DARK = (" ".join(f"--{name}: {pair[i]};" for name, pair in COLOURS.items()) for i in (0, 1))
STYLE = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
.hint:hover use {{ fill-opacity: 1 !important; }}
"""
"""What a page and a picture have in common."""
LAYOUT = """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 24px 16px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; margin: 0 0 2px; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 36px 0 12px; }
p { margin: 4px 0 12px; } .faint { color: var(--faint); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 10px; margin: 18px 0 8px; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.tile { padding: 10px 14px; } .tile b { display: block; font-size: 21px; font-weight: 600; line-height: 1.3; }
.tile span { color: var(--faint); font-size: 13px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); gap: 12px; }
.card { padding: 6px; overflow-x: auto; } .card svg { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.card.wide { margin: 12px 0; padding: 12px; } .card.wide svg { margin: 0 auto 8px; }
.warning { border-left: 4px solid var(--warn); padding: 10px 14px; margin: 14px 0; overflow-wrap: anywhere; }
.warning ul { margin: 4px 0; padding-left: 20px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 500; white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; }
tr:last-child td { border-bottom: 0; } td { overflow-wrap: anywhere; }
details { margin: 8px 0; } summary { cursor: pointer; padding: 4px 0; }
h3 { font-size: 14px; margin: 4px 6px 8px; }
@media print { body { max-width: none; } .card, .tile { break-inside: avoid; } }
"""


class Markup(str):
    """HTML or SVG, which goes into a page as it is."""


def tag(name: str, *children: str | None, **attributes: str | None) -> Markup:
    """An element; a child that is no `Markup` is escaped, None is left out, and `_` in an attribute stands for `-`."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items() if value
    )
    inside = "".join(child if isinstance(child, Markup) else escape(child) for child in children if child)
    return Markup(f"<{name}{shown}>" if name == "meta" else f"<{name}{shown}>{inside}</{name}>")


def page(title: str, *parts: Markup | None) -> str:
    """The whole file; it loads nothing, and a browser is told that it may not."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        ),
        tag("title", title),
        tag("style", Markup(STYLE + LAYOUT)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", *parts), lang="en") + "\n"


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
    return tag("div", *parts, class_="card wide")


def listed(lines: Sequence[str]) -> Markup:
    """A list."""
    return tag("ul", *(tag("li", line) for line in lines))


def warning(*parts: Markup) -> Markup:
    """Something to look into."""
    return tag("div", *parts, class_="card warning")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> Markup:
    """A table, its last `numbers` columns of numbers; without a head if the columns have no names."""
    classes = [None] * (len(columns) - numbers) + ["n"] * numbers

    def row(kind: str, values: Sequence[str]) -> Markup:
        return tag("tr", *(tag(kind, value, class_=class_) for value, class_ in zip(values, classes)))

    head = tag("thead", row("th", columns)) if any(columns) else None
    return tag("table", head, tag("tbody", *(row("td", values) for values in rows)))


def folded(summary: str, *parts: Markup) -> Markup:
    """Parts that are shown when asked for."""
    return tag("details", tag("summary", summary), *parts)
