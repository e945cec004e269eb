"""A user's corpus as a table: which stretch of which file holds which text, from TSV files and Kaldi folders.

What is wrong with a file is told line by line, before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.config import require

SPLITS = ("train", "dev", "test")
COLUMNS = ("path", "text", "speaker", "split")
"""Columns of a user's TSV file; the last two may be left out, and a first line of these names sets another order."""
MAX_SHOWN = 3


class Utterance(NamedTuple):
    """What is said in a recording or a part of it."""

    id: str
    path: str
    """Audio file, relative to the folder of the audio or absolute."""
    text: str
    speaker: str
    split: str
    """One of SPLITS; empty: to be chosen."""
    start: float
    """Seconds."""
    duration: float
    """Seconds; 0: to the end of the file."""
    origin: str
    """File and line that say so."""


def read_tsv(path: Path) -> list[Utterance]:
    """The utterances of lines path<TAB>text[<TAB>speaker][<TAB>split], or with a first line that names the columns.

    Raises:
      FileNotFoundError: no such file.
      ValueError: lines that cannot be used, named.
    """
    lines = [(origin, line.split("\t")) for origin, line in _lines(path)]
    columns: Sequence[str] = COLUMNS
    if lines and {"path", "text"} <= set(lines[0][1]) <= set(COLUMNS):
        columns = lines.pop(0)[1]
    utterances, problems, seen = [], [], dict[str, str]()
    for origin, fields in lines:
        values = dict.fromkeys(COLUMNS, "") | dict(zip(columns, map(str.strip, fields)))
        problem = _problem_of(fields, values, columns, seen.get(values["path"]))
        if problem:
            problems.append(f"{origin}: {problem}")
            continue
        seen[values["path"]] = origin
        utterances.append(Utterance("", **values, start=0.0, duration=0.0, origin=origin))
    refuse(problems)
    require(len(utterances) > 0, f"{path} has no lines: write path<TAB>text, one recording a line")
    return utterances


def _problem_of(fields: list[str], values: dict[str, str], columns: Sequence[str], earlier: str | None) -> str | None:
    checks = {
        "no tab between path and text: write path<TAB>text": len(fields) < 2,
        f"{len(fields)} columns: {len(columns)} are known, {', '.join(columns)}": len(fields) > len(columns),
        "no path": not values["path"],
        "no text: write what is said, or take the line out": not values["text"],
        f"the split is {values['split']!r}: write {', '.join(SPLITS)}": values["split"] not in ("", *SPLITS),
        f"the same recording as {earlier}: take one out": earlier is not None,
    }
    return next((problem for problem, wrong in checks.items() if wrong), None)


def read_kaldi(folder: Path, *, split: str = "") -> list[Utterance]:
    """The utterances of a Kaldi data folder: wav.scp and text, and segments and utt2spk if they exist.

    Source of the formats: Kaldi's documentation, Data preparation.

    Raises:
      FileNotFoundError: no wav.scp or no text.
      ValueError: lines that cannot be used, named.
    """
    recordings, texts = _read_map(folder / "wav.scp"), _read_map(folder / "text")
    segments, speakers = (_read_map(p) if (p := folder / name).is_file() else {} for name in ("segments", "utt2spk"))
    problems = [
        f"{origin}: a command, not a file: run it, and write the name of the audio file it makes"
        for origin, value in recordings.values()
        if value.endswith("|")
    ]
    utterances = []
    for name, (origin, text) in texts.items():
        try:
            recording, start, duration = _span(name, segments)
            _, audio = recordings[recording]
        except (KeyError, ValueError):
            problems.append(f"{origin}: no usable line in {'segments and ' if segments else ''}wav.scp for {name}")
            continue
        if not text:
            problems.append(f"{origin}: no text: write what is said, or take the line out")
        _, speaker = speakers.get(name, ("", ""))
        utterances.append(Utterance(name, audio, text, speaker, split, start, duration, origin))
    refuse(problems)
    require(len(utterances) > 0, f"{folder / 'text'} has no lines")
    return utterances


def _span(name: str, segments: dict[str, tuple[str, str]]) -> tuple[str, float, float]:
    """Recording, start and duration of an utterance."""
    if not segments:
        return name, 0.0, 0.0
    recording, start, end = segments[name][1].split()
    if not 0 <= float(start) < float(end):
        raise ValueError(f"{start} to {end}")
    return recording, float(start), float(end) - float(start)


def _read_map(path: Path) -> dict[str, tuple[str, str]]:
    """Origin and rest of each line, by its first word."""
    result: dict[str, tuple[str, str]] = {}
    problems = []
    for origin, line in _lines(path):
        name, *rest = line.split(maxsplit=1)
        if name in result:
            problems.append(f"{origin}: {name} has a line already, {result[name][0]}")
        result[name] = (origin, rest[0].strip() if rest else "")
    refuse(problems)
    return result


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each line that is not blank."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        position = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path.name} line {position} is not UTF-8: save the file in that encoding") from error
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            yield f"{path.name} line {number}", line


def refuse(problems: Sequence[str]) -> None:
    """Raise one line that names the first problems, if there are any."""
    more = f"; and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
    require(not problems, "; ".join(problems[:MAX_SHOWN]) + more)


def with_ids(utterances: Iterable[Utterance]) -> list[Utterance]:
    """The utterances with ids of their own: those they have, or their paths without folder marks, numbered if equal."""
    used: set[str] = set()
    result = []
    for utterance in utterances:
        path = Path(utterance.path)
        wanted = utterance.id or "-".join((path.name if path.is_absolute() else str(path.with_suffix(""))).split("/"))
        name = wanted = "_".join(wanted.split())
        number = 2
        while name in used:
            name, number = f"{wanted}-{number}", number + 1
        used.add(name)
        result.append(utterance._replace(id=name))
    return result


def write_table(utterances: Iterable[Utterance], path: Path) -> None:
    """Write the utterances into a file that `read_table` reads, sorted by their ids."""
    with atomic_file(path) as file:
        rows = [Utterance._fields[:-1], *(utterance[:-1] for utterance in sorted(utterances))]
        file.write("".join("\t".join(map(str, row)) + "\n" for row in rows).encode())


def read_table(path: Path) -> list[Utterance]:
    """The utterances of a recipe's table.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a line that `write_table` would not write.
    """
    columns = Utterance._fields[:-1]
    lines = [(origin, line.split("\t")) for origin, line in _lines(path)]
    utterances, problems = [], []
    for origin, fields in lines[1:]:
        try:
            name, audio, text, speaker, split, start, duration = fields
            require(split in SPLITS, f"the split is {split!r}")
            utterances.append(Utterance(name, audio, text, speaker, split, float(start), float(duration), origin))
        except ValueError as error:
            problems.append(f"{origin}: {error}: the columns are {', '.join(columns)}")
    require(not lines or (*lines[0][1],) == columns, f"{path.name} line 1: write the columns {', '.join(columns)}")
    refuse(problems)
    return utterances
