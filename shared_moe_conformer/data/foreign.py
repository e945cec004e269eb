"""Files that people take for tables of texts: spreadsheets, archives, audio, and what annotation programs write."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SHEET = "save the sheet as CSV in UTF-8"
_BINARY = {
    b"PK\x03\x04": f"a spreadsheet, or another zip file: {_SHEET}",
    b"\xd0\xcf\x11\xe0": f"a spreadsheet: {_SHEET}",
    b"\x1f\x8b": "compressed: unpack it, as by gunzip",
    b"PAR1": "a Parquet file: write its columns as JSON lines, and its audio as files",
    **dict.fromkeys((b"RIFF", b"fLaC", b"OggS", b"ID3"), "audio, not text: give the file of the texts"),
}
_ANNOTATION = {
    r'File type = "ooTextFile': "a TextGrid of Praat",
    r"<": "XML, as ELAN writes it",
    r"WEBVTT|\d+\n\d\d:\d\d:\d\d[,.]\d+ -->": "subtitles",
    r"\d+\.\d+\t\d+\.\d+\t": "labels of Audacity",
}
HEAD = 64
"""Bytes among which a file that is no text has a zero."""
MAX_LINES = 2
"""Lines that tell what a file is."""


def binary_kind(content: bytes) -> str:
    """What a file is whose content is no text, and what to do; empty if its first bytes do not tell."""
    kinds = (said for mark, said in _BINARY.items() if content.startswith(mark))
    return next(kinds, "") if b"\0" in content[:HEAD] or not content[:1].isalpha() else ""


def annotation_kind(lines: Sequence[str]) -> str:
    """The kind of file of an annotation program that has these first lines; empty for others."""
    head = "\n".join(line.strip("\ufeff ") for line in lines[:MAX_LINES])
    return next((kind for pattern, kind in _ANNOTATION.items() if re.match(pattern, head)), "")
