#!/usr/bin/env python3
"""Recordings, supervisions and cuts of the spoken names of Tux Paint's stamps, in the languages that have them.

Source: the Debian package tuxpaint-stamps-default (GPL-2; one volunteer in most languages).
"""

from __future__ import annotations

import re
from pathlib import Path

from clips import Clip, parser, write_splits

from shared_moe_conformer.cli import run_main

STAMPS = Path("usr/share/tuxpaint/stamps")
LANGUAGES = ("be", "bg", "ca", "da", "el", "en", "es", "fr", "nl", "ro", "ru")
"""Codes; Malayalam has six recordings, and those in Lithuanian have no texts."""
SPOKEN = re.compile(rf"(.+)_desc(?:_({'|'.join(LANGUAGES)}))?")
TRANSLATION = re.compile(r"^(\w+)\.utf8=(.*)$")


def main() -> None:
    args = parser(__doc__).parse_args()
    write_splits(find_clips(args.corpus_dir), args)


def find_clips(corpus_dir: Path) -> list[Clip]:
    """Every spoken name of a stamp that has a text in its language; a file without a language's code is English.

    Raises:
      FileNotFoundError: the package's files are not there.
    """
    stamps = corpus_dir / STAMPS
    paths = sorted(stamps.rglob("*_desc*.ogg"))
    if not paths:
        raise FileNotFoundError(
            f"no *_desc*.ogg in {stamps}: --corpus-dir must hold the usr/ folder of the package tuxpaint-stamps-default"
        )
    clips = []
    for path in paths:
        match = SPOKEN.fullmatch(path.stem)
        if match is None or not (texts := path.with_name(f"{match[1]}.txt")).is_file():
            continue
        language = match[2] or "en"
        if text := read_texts(texts).get(language, ""):
            name = "-".join(path.relative_to(stamps).with_suffix("").parts)
            clips.append(Clip(name, path, text, language, language))
    return clips


def read_texts(path: Path) -> dict[str, str]:
    """The name of a stamp by language: the first line is English, others are `de.utf8=Apfel`."""
    first, *rest = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    matches = filter(None, map(TRANSLATION.match, rest))
    return {"en": first.strip()} | {match[1]: match[2].strip() for match in matches}


if __name__ == "__main__":
    run_main(main)
