"""The utterances of tables as people have them, with the columns of known corpora, and of Kaldi folders."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_moe_conformer.config import require
from shared_moe_conformer.data.cells import DELIMITERS, TAB, Lines, rows_of
from shared_moe_conformer.data.foreign import annotation_kind
from shared_moe_conformer.data.utterances import SPLITS, Utterance, channel_of, lines_of, refuse, seconds, span
from shared_moe_conformer.text import first_line

COLUMNS = ("path", "text", "speaker", "split")
"""Columns of a TSV file whose first line names none; the last two may be left out."""
NAMES = {
    "path": ("path", "audio_filepath", "audio_path", "audio_file", "audio", "wav", "wav_path", "file_name", "filename")
    + ("file", "speech"),
    "text": ("text", "sentence", "transcript", "transcription", "txt", "words", "wrd"),
    "speaker": ("speaker", "client_id", "speaker_id", "spk", "spk_id"),
    "split": ("split",),
    "id": ("id", "utt_id", "utt", "key"),
    "start": ("start", "offset", "begin"),
    "end": ("end",),
    "duration": ("duration",),
    "channel": ("channel", "channel_selector"),
}
"""Names of each column, the preferred one first.

Source: Common Voice's TSV files; the manifests of NeMo, ESPnet, WeNet and SpeechBrain; Hugging Face's AudioFolder.
"""
Rows = Sequence[tuple[str, Any]]
"""Origin of each line or entry, and what is there."""
Reader = Callable[[Any], Mapping[str, str]]
"""Reads the values of a line or entry by the names of their columns; `ValueError`: what is wrong with it."""
Map = dict[str, tuple[str, str]]
"""Origin and rest of each line of a file, by the line's first word."""


def read_tsv(path: Path) -> list[Utterance]:
    """The utterances of a table.

    Its lines are path<TAB>text[<TAB>speaker][<TAB>split], or the first line names the columns, which tabs, commas or
    semicolons then part; or they are objects of JSON, or the file is one list or object of such objects.

    Raises:
      FileNotFoundError: no such file.
      ValueError: lines that cannot be used, named.
    """
    lines = list(lines_of(path))
    if lines and lines[0][1].startswith("sep="):  # tells spreadsheets the delimiter
        del lines[0]
    require(len(lines) > 0, f"{path} has no lines: write path<TAB>text, one recording a line")
    kind = annotation_kind([line for _, line in lines])
    columns = "path, text, start and end (in seconds)"
    require(not kind, f"{path.name} is no table but {kind}: write a line for each segment, with the columns {columns}")
    rows, read = _json_rows(path, lines) if lines[0][1].lstrip()[0] in "{[" else _cell_rows(lines)
    utterances, problems, seen = [], [], dict[tuple[str, float, int | None], str]()
    for origin, row in rows:
        try:
            utterance = _utterance_of_row(origin, _known(read(row)))
            key = (utterance.path, utterance.start, utterance.channel)
            require(key not in seen, f"the same recording as {seen.get(key)}: take one out")
        except ValueError as error:
            problems.append(f"{origin}: {error}")
            continue
        seen[key] = origin
        utterances.append(utterance)
    refuse(problems)
    require(len(utterances) > 0, f"{path} has no lines below its names: write one recording a line")
    return utterances


def _utterance_of_row(origin: str, values: Mapping[str, str]) -> Utterance:
    """The utterance of a row; `ValueError`: what is wrong with it."""
    require(bool(values["path"]), f"no path: name the audio file, as {' or '.join(NAMES['path'][:2])}")
    require(
        values["path"].isprintable() or not set(values["path"]) & set("\t\n\r\0"),
        "a path with a tab or a line's end: rename the file",
    )
    require(bool(values["text"]), "no text: write what is said, or take the line out")
    split = values["split"]
    require(split in ("", *SPLITS), f"the split is {split!r}: write {', '.join(SPLITS)}")
    start, duration = _times(values)
    channel = channel_of(values["channel"])
    return Utterance(
        values["id"],
        str(Path(values["path"])),
        values["text"],
        values["speaker"],
        split,
        start,
        duration,
        origin,
        channel,
    )


def _times(values: Mapping[str, str]) -> tuple[float, float]:
    """Start and duration of a row; a duration of 0: to the end of the file."""
    start, rest = span(values["start"] or "0", values["end"] or "-1")
    if not values["duration"]:
        return start, rest
    duration = seconds(values["duration"], "duration")
    require(duration > 0 or duration == -1, f"it lasts {duration:g} s: write its seconds, or -1 for the whole rest")
    return start, max(duration, 0.0)


def _cell_rows(lines: Lines) -> tuple[Rows, Reader]:
    """Rows of cells, and what reads one."""
    origin, first = lines[0]
    delimiter, named = next(((d, names) for d in DELIMITERS if (names := _columns(lines, d))), (TAB, []))
    if not named and "." not in first and any(set(_names(lines, d)) & set(NAMES["path"]) for d in DELIMITERS):
        raise ValueError(f"{origin}: no column of texts: call one {' or '.join(NAMES['text'][:3])}")
    columns = named or COLUMNS
    twice = [name for name, count in Counter(columns).items() if count > 1 and any(name in n for n in NAMES.values())]
    require(not twice, f"{origin}: two columns are called {', '.join(twice)}: name one of them otherwise")

    def read(cells: list[str] | ValueError) -> Mapping[str, str]:
        if isinstance(cells, ValueError):
            raise cells
        more = "" if named else ", or name the columns above, as path,text"
        mark = "tab" if delimiter == TAB else delimiter
        require(len(cells) > 1, f"no {mark} between path and text: write path<TAB>text{more}")
        require(len(cells) <= len(columns), f"{len(cells)} columns: {len(columns)} are known, {', '.join(columns)}")
        return dict(zip(columns, cells))

    return list(rows_of(lines, delimiter, num_columns=len(named)))[bool(named) :], read


def _columns(lines: Lines, delimiter: str) -> list[str]:
    """The names of columns in a first row; none, if it does not name the two that are needed."""
    names = _names(lines, delimiter)
    return names if all(set(names) & set(NAMES[key]) for key in ("path", "text")) else []


def _names(lines: Lines, delimiter: str) -> list[str]:
    _, cells = next(rows_of(lines, delimiter))
    return [] if isinstance(cells, ValueError) else [" ".join(cell.lower().split()) for cell in cells]


def _known(record: Mapping[str, str]) -> dict[str, str]:
    """The values of a record by the keys of `NAMES`; those that it lacks are empty."""
    values = {key: next((record[name] for name in names if record.get(name)), "") for key, names in NAMES.items()}
    return {key: value if key == "path" else " ".join(value.split()) for key, value in values.items()}


def _json_rows(path: Path, lines: Sequence[tuple[str, str]]) -> tuple[Rows, Reader]:
    """Objects in lines, or in one list or object, and what reads one; in place of what is no JSON the error."""
    whole = _parsed("\n".join(line for _, line in lines))
    if isinstance(whole, list):
        return [(f"{path.name} entry {number}", entry) for number, entry in enumerate(whole, start=1)], _strings
    if isinstance(whole, dict) and set(whole) & set(NAMES["path"]):
        return [(lines[0][0], whole)], _strings
    if isinstance(whole, dict):
        with_names = ((k, {"id": k, **entry} if isinstance(entry, dict) else entry) for k, entry in whole.items())
        return [(f"{path.name} entry {name}", entry) for name, entry in with_names], _strings
    return [(origin, _parsed(line)) for origin, line in lines], _strings


def _parsed(text: str) -> Any:
    """The value of a text in JSON, or the error."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return error


def _strings(entry: Any) -> dict[str, str]:
    """The values of an object of JSON that stand for text or numbers."""
    said = f" ({first_line(entry)})" if isinstance(entry, Exception) else ""
    require(isinstance(entry, dict), f'no object of JSON{said}: write {{"audio_filepath": .., "text": ..}}')
    nested = {n: v["path"] for n, v in entry.items() if n in NAMES["path"] and isinstance(v, dict) and v.get("path")}
    entry = {**entry, **nested}  # as Hugging Face's datasets write audio
    for name in (*NAMES["path"], *NAMES["text"]):
        value = entry.get(name) or ""
        require(isinstance(value, str), f"{name} is {str(value)[:40]}: write it in quotes")
        require(value.isascii() or not any(map(_is_half, value)), f"{name} has half a character: write it in UTF-8")
    values = ((n, v) for n, v in entry.items() if isinstance(v, (str, int, float)) and not isinstance(v, bool))
    return {name: str(value).encode(errors="replace").decode().strip() for name, value in values}


def _is_half(character: str) -> bool:
    """Whether this is half of a character in UTF-16, which JSON can hold and no file can."""
    return "\ud800" <= character <= "\udfff"


def read_kaldi(folder: Path, *, split: str = "") -> list[Utterance]:
    """The utterances of a Kaldi data folder: wav.scp and text, and segments and utt2spk if they exist.

    Source of the formats: Kaldi's documentation, Data preparation; of the channel in segments: extract-segments.

    Raises:
      FileNotFoundError: no wav.scp or no text.
      ValueError: lines that cannot be used, named.
    """
    missing = [name for name in ("wav.scp", "text") if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"no {' and no '.join(missing)} in {folder}: give a Kaldi data folder, which has both")
    recordings, texts = _read_map(folder / "wav.scp"), _read_map(folder / "text")
    segments, speakers = (_read_map(p) if (p := folder / name).is_file() else {} for name in ("segments", "utt2spk"))
    problems = [
        f"{origin}: a command, not a file: run it, and write the name of the audio file it makes"
        for origin, value in recordings.values()
        if value.endswith("|")
    ]
    problems += [
        f"{origin}: {name} has no line in text: write one, or take this line out"
        for name, (origin, _) in (segments or recordings).items()
        if name not in texts
    ]
    utterances = []
    archived = r"(.+\.ark(\.gz)?:\d+)(\[.*\])?|.+\[\d+:\d+\]"
    problems += [
        f"{origin}: a part of a file ({value}), not a file: write it as an audio file of its own, and its name here"
        for origin, value in recordings.values()
        if re.fullmatch(archived, value)
    ]
    for name in texts:
        try:
            utterance = _utterance(name, texts, segments, recordings)
        except ValueError as error:
            problems.append(str(error))
            continue
        utterances.append(utterance._replace(speaker=speakers.get(name, ("", ""))[1], split=split))
    refuse(problems)
    require(len(utterances) > 0, f"{folder / 'text'} has no lines: write an id and its text, one utterance a line")
    return utterances


def _utterance(name: str, texts: Map, segments: Map, recordings: Map) -> Utterance:
    """The utterance of a name, without its speaker; `ValueError`: the line and what is wrong with it."""
    origin, text = texts[name]
    require(bool(text), f"{origin}: no text: write what is said, or take the line out")
    if not segments:
        require(name in recordings, f"{origin}: {name} has no line in wav.scp: write one, or take this line out")
        line, path = recordings[name]
        return Utterance(name, path, text, "", "", 0.0, 0.0, f"{origin} ({line})")
    require(name in segments, f"{origin}: {name} has no line in segments: write one, or take this line out")
    line, fields = segments[name][0], segments[name][1].split()
    require(
        len(fields) in (3, 4), f"{line}: {len(fields) + 1} columns: write id, recording, start, end and maybe channel"
    )
    recording, start, end, *channel = fields
    require(recording in recordings, f"{line}: {recording} has no line in wav.scp: write one, or take this line out")
    try:
        times, number = span(start, end), channel_of("".join(channel))
    except ValueError as error:
        raise ValueError(f"{line}: {error}") from error
    return Utterance(name, recordings[recording][1], text, "", "", *times, f"{origin} ({line})", number)


def _read_map(path: Path) -> Map:
    result: Map = {}
    problems = []
    for place, line in lines_of(path):
        origin = f"{path.parent.name}/{place}"  # folders of several splits have files of equal names
        name, *rest = line.split(maxsplit=1)
        if name in result:
            problems.append(f"{origin}: {name} has a line already, {result[name][0]}: take one out")
        result[name] = (origin, rest[0].strip() if rest else "")
    refuse(problems)
    return result
