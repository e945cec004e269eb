"""The clips of the game and what is said in them, read from its Lua scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

GAME_DIR = Path("usr/share/games/fillets-ng")

STRING = r'"((?:[^"\\]|\\.)*)"'
DIALOGUE = re.compile(rf"dialogId\(\s*{STRING}\s*,\s*{STRING}\s*,\s*{STRING}\s*\)\s*dialogStr\(\s*{STRING}\s*\)")
ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}

ACTORS = ("font_small", "font_big")
"""Colours of the two fish, each one voice in all levels; other colours are other voices in each level."""


class Line(NamedTuple):
    """A line that somebody says in a level."""

    id: str
    colour: str
    """Colour in which the game shows it; each speaker has one."""
    text: str


class Clip(NamedTuple):
    """A recorded line."""

    id: str
    level: str
    speaker: str
    path: Path
    text: str
    """As the game shows it."""


def find_clips(corpus_dir: Path, language: str) -> list[Clip]:
    """Every recording of a language that has a text, by level and name.

    Raises:
      FileNotFoundError: the packages' files are not there.
    """
    game = corpus_dir / GAME_DIR
    recordings = sorted((game / "sound").glob(f"**/{language}/*.ogg"))
    scripts = sorted((game / "script").glob(f"**/*dialogs_{language}.lua"))
    if not recordings or not scripts:
        raise FileNotFoundError(
            f"no recordings or no dialogues of {language!r} in {game}: --corpus-dir must hold the usr/ folder of the "
            f"packages fillets-ng-data and fillets-ng-data-{language}"
        )
    lines = {(script.parent.name, line.id): line for script in scripts for line in read_lines(script)}
    clips = []
    for path in recordings:
        folder = path.parent.parent.relative_to(game / "sound")
        line = lines.get((folder.parts[0], path.stem))  # the texts of sound/share/*/ are all in script/share/
        if line is not None:
            level = "-".join(folder.parts)
            clips.append(Clip(f"{language}-{level}-{path.stem}", level, speaker_of(line, level), path, line.text))
    return clips


def read_lines(script: Path) -> Iterator[Line]:
    """The lines of a Lua script: `dialogId("id", "colour", "English text")`, then `dialogStr("text")`."""
    for match in DIALOGUE.finditer(script.read_text(encoding="utf-8")):
        name, colour, _, text = (unescape(group) for group in match.groups())
        yield Line(name, colour, text)


def unescape(literal: str) -> str:
    """The text that a Lua string literal stands for."""
    return re.sub(r"\\(.)", lambda match: ESCAPES.get(match[1], match[1]), literal, flags=re.DOTALL)


def speaker_of(line: Line, level: str) -> str:
    """One name for each voice, as far as the scripts tell."""
    return line.colour if line.colour in ACTORS else f"{line.colour or 'nobody'}@{level}"
