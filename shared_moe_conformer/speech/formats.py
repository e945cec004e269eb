"""Transcripts and test results as files: plain text, JSON, subtitles (SRT, WebVTT) and CTM for scoring tools."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.speech.transcript import Transcript, Word
from shared_moe_conformer.text import join_words

LINE_WIDTH = 100
INDENT = "    "
LONGEST_CUE = 6.0
"""Longest time in seconds from a cue's first word to the end of its last."""
CUE_WIDTH = 74
"""Most characters of a cue, unless a single word is longer: two lines of 37.

Source: EBU-TT-D's and teletext's usual width of a line.
"""
PAUSE = 1.0
"""Seconds of silence that end a cue."""
SHORTEST_CUE = 1.0
"""Shortest time in seconds that a cue is shown, unless the next one begins earlier."""


def as_text(name: str, transcript: Transcript) -> str:
    """The text alone on one line."""
    return transcript.text


def as_times(name: str, transcript: Transcript) -> str:
    """`name: text`, and under it each token over its time in seconds."""
    rows = [f"{name}: {transcript.text or '(nothing recognised)'}"]
    columns = [(token, f"{time:.2f}") for token, time in zip(transcript.tokens, transcript.times)]
    for line in _wrapped(columns, width=LINE_WIDTH - len(INDENT)):
        tokens = (token + " " * (_column_width((token, time)) - display_width(token)) for token, time in line)
        times = (time.ljust(_column_width((token, time))) for token, time in line)
        rows += [(INDENT + "".join(tokens)).rstrip(), (INDENT + "".join(times)).rstrip()]
    return "\n".join(rows)


def as_json(name: str, transcript: Transcript) -> str:
    """One JSON object on one line."""
    return json.dumps({"file": name, **as_record(transcript)}, ensure_ascii=False)


def as_record(transcript: Transcript) -> dict[str, Any]:
    """The transcript as a JSON object; confidences are left out where the search gives none."""
    return _known({**transcript._asdict(), "words": [_known(word._asdict()) for word in transcript.words]})


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def display_width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _column_width(column: tuple[str, str]) -> int:
    return max(display_width(cell) for cell in column) + 2


def _wrapped(columns: list[tuple[str, str]], *, width: int) -> Iterator[list[tuple[str, str]]]:
    """The columns in lines of at most this width; each line has at least one column."""
    line: list[tuple[str, str]] = []
    for column in columns:
        if line and sum(map(_column_width, [*line, column])) > width:
            yield line
            line = []
        line.append(column)
    if line:
        yield line


def as_srt(name: str, transcript: Transcript) -> str:
    """SubRip: numbered cues."""
    cues = enumerate(_cues(transcript), start=1)
    return "\n".join(f"{n}\n{_clock(a, ',')} --> {_clock(b, ',')}\n{text}\n" for n, (a, b, text) in cues).rstrip("\n")


def as_vtt(name: str, transcript: Transcript) -> str:
    """WebVTT.

    Source: W3C, WebVTT: The Web Video Text Tracks Format, section 4 (`&`, `<` and `>` are escaped in a cue's text).
    """
    cues = [f"\n{_clock(a, '.')} --> {_clock(b, '.')}\n{escape(text, quote=False)}" for a, b, text in _cues(transcript)]
    return "\n".join(["WEBVTT", *cues])


def as_ctm(name: str, transcript: Transcript) -> str:
    """`ctm_lines` of a file, under its name without folder and suffix."""
    return ctm_lines(Path(name).stem, transcript)


def ctm_lines(recording: str, transcript: Transcript) -> str:
    """One line a word: recording, channel, start and duration in seconds, word, confidence if known.

    The line is a comment if nothing was said.

    Source: NIST's sclite, CTM format (`;;` begins a comment; fields are separated by spaces).
    """
    recording = re.sub(r"\s+", "_", recording)
    rows = [
        f"{recording} 1 {w.start:.2f} {w.end - w.start:.2f} {w.text}"
        + ("" if w.confidence is None else f" {w.confidence:.2f}")
        for w in transcript.words
    ]
    return "\n".join(rows or [f";; {recording}: nothing recognised"])


def _cues(transcript: Transcript) -> list[tuple[float, float, str]]:
    """Start and end in seconds, and text, of what is shown together."""
    groups: list[list[Word]] = []
    for word in transcript.words:
        if not groups or _is_full(groups[-1], word):
            groups.append([])
        groups[-1].append(word)
    starts = [group[0].start for group in groups[1:]] + [float("inf")]
    return [
        (group[0].start, min(max(group[-1].end, group[0].start + SHORTEST_CUE), next_start), _text(group))
        for group, next_start in zip(groups, starts)
    ]


def _is_full(group: list[Word], word: Word) -> bool:
    too_long = word.end - group[0].start > LONGEST_CUE or len(_text([*group, word])) > CUE_WIDTH
    return too_long or word.start - group[-1].end > PAUSE


def _text(group: list[Word]) -> str:
    return join_words(word.text for word in group)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


class Result(NamedTuple):
    """An utterance of a test set and its transcript."""

    cut_id: str
    ref: str
    transcript: Transcript


def text_line(result: Result) -> str:
    """The utterance's id and its text, as in Kaldi's text files."""
    return f"{result.cut_id} {result.transcript.text}".rstrip()


def ctm(result: Result) -> str:
    """CTM lines with times from the beginning of the utterance; see `ctm_lines`."""
    return ctm_lines(result.cut_id, result.transcript)


def json_line(result: Result) -> str:
    """One JSON object: the utterance's id and reference, and its transcript."""
    return json.dumps({"id": result.cut_id, "ref": result.ref, **as_record(result.transcript)}, ensure_ascii=False)


FORMATS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "text": ("txt", text_line),
    "ctm": ("ctm", ctm),
    "jsonl": ("jsonl", json_line),
}
"""The suffix of each format's files, and the function that formats an utterance."""


def write_results(results: Iterable[Result], folder: Path, *, name: str, output_format: str) -> Path:
    """Write hyps-<name>.<suffix>, with utterances in order of their ids, and return its path."""
    suffix, show = FORMATS[output_format]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"hyps-{name}.{suffix}"
    write_whole(path, "".join(f"{show(result)}\n" for result in sorted(results)))
    return path
