"""Pages for browsers: each one file that needs nothing else; and what a browser may do with it."""

from __future__ import annotations

import base64
import hashlib
import re
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
