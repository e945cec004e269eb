"""The game's spoken dialogues: recordings, subtitles and how long each subtitle is shown, read from its archives."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CONTENT = Path("usr/share/games/uqm/content")
VOICE, TEXT = "addons/uqm-*-voice.uqm", "packages/uqm-*-content.uqm"
INDEX = "3dovoice/3dovoice.rmp"
CONVERSATION = re.compile(r"^comm\.\S+ *= *CONVERSATION:([^:\s]+):([^:\s]+):([^:\s]+)", re.MULTILINE)
KEY = re.compile(r"^#\(([^)]*)\)[ \t]*(.*)$")


class Dialogue(NamedTuple):
    """A recording in which one character speaks to the player."""

    id: str
    """The name of its file, such as arilou-000."""
    character: str
    member: str
    """The recording in the voice archive, Ogg Vorbis."""
    subtitles: list[str]
    lengths: list[float]
    """Seconds for which each subtitle is shown; the last one stays until the end."""


class Archives(NamedTuple):
    """The two archives that the packages hold."""

    voice: zipfile.ZipFile
    text: zipfile.ZipFile

    def read(self, name: str) -> str:
        """A text file, which the voice archive's index names as seen from the game's content folder."""
        if name.startswith("addons/"):
            return _decode(self.voice.read(name.removeprefix("addons/")))
        return _decode(self.text.read(name))


def open_archives(corpus_dir: Path) -> Archives:
    """The archives below a folder usr/.

    Raises:
      FileNotFoundError: there are none.
      ValueError: they cannot be read.
    """
    paths = []
    for pattern in (VOICE, TEXT):
        found = sorted((corpus_dir / CONTENT).glob(pattern))
        if not found:
            raise FileNotFoundError(
                f"no {corpus_dir / CONTENT / pattern}: --corpus-dir must hold the usr/ folder of the packages "
                "uqm-voice and uqm-content"
            )
        paths.append(found[-1])
    try:
        return Archives(*map(zipfile.ZipFile, paths))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{paths[0]} or {paths[1].name} is damaged ({error}): unpack the packages again") from error


def read_dialogues(archives: Archives) -> tuple[list[Dialogue], list[str]]:
    """Every recording with its subtitles, and the names of those with times that do not fit their subtitles.

    What the player says has no recording; a recording that several keys name is read once.
    """
    present = set(archives.voice.namelist())
    dialogues: dict[str, Dialogue] = {}
    unfit = []
    for text, folder, times in CONVERSATION.findall(_decode(archives.voice.read(INDEX))):
        lengths = read_lengths(archives.read(times))
        folder = folder.removeprefix("addons/")
        for key, file, subtitles in read_subtitles(archives.read(text)):
            name, member = Path(file).stem, folder + file
            if not file or member not in present or name in dialogues:
                continue
            if key in lengths and len(lengths[key]) == len(subtitles) - 1:
                dialogues[name] = Dialogue(name, Path(folder).name, member, subtitles, lengths[key])
            else:
                unfit.append(name)
    return list(dialogues.values()), unfit


def read_subtitles(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Key, file (empty: not spoken) and subtitles: `#(KEY)<tab>file.ogg`, then one subtitle a line."""
    key, file, subtitles = "", "", list[str]()
    for line in text.splitlines():
        match = KEY.match(line)
        if match:
            yield key, file, subtitles
            key, file, subtitles = match[1], match[2].strip(), []
        elif line.strip():
            subtitles.append(line.strip())
    yield key, file, subtitles


def read_lengths(text: str) -> dict[str, list[float]]:
    """Seconds of all subtitles but the last, by key: `#(KEY) ms,ms,...`."""
    matches = filter(None, map(KEY.match, text.splitlines()))
    return {match[1]: [int(number) / 1000 for number in re.findall(r"\d+", match[2])] for match in matches}


def _decode(data: bytes) -> str:
    return data.decode("utf-8-sig")
