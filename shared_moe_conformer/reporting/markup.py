"""HTML and SVG from nested calls; whatever is not markup already is escaped."""

from __future__ import annotations

from html import escape

VOID = {"meta", "br", "hr", "img"}
"""HTML elements without an end."""


class Markup(str):
    """Text that is HTML or SVG, and goes into a page as it is."""


def tag(name: str, *children: str | None, **attributes: str | float | None) -> Markup:
    """An element; a child that is `Markup` stays as it is, any other is escaped, None is left out.

    Args:
      name: `svg`, `p`, ...
      attributes: `_` becomes `-`, and an underscore at the end is dropped (`class_`); None is left out.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*parts: str | None) -> Markup:
    """The parts one after the other, escaped unless they are markup."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts if part is not None))


def _number(value: str | float) -> str:
    """Coordinates to a hundredth, so that pages stay small."""
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
