"""Transcripts, made from the results of a search, and their formats: plain text, JSON, subtitles and CTM."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.config import ENCODER_FRAME_SHIFT, frame_centre
from shared_moe_conformer.text import is_boundary, join_words

if TYPE_CHECKING:
    from shared_moe_conformer.decoding.hypothesis import Hypothesis

WORD_START = "\u2581"
"""Mark that SentencePiece puts before the first piece of a word."""


class Word(NamedTuple):
    """A word and its times in seconds."""

    text: str
    start: float
    """Start of the encoder frame at which its first token was found, in seconds."""
    end: float
    """End of the encoder frame at which its last token was found, a little before the word ends."""
    confidence: float | None = None
    """Confidence of the search, 0 to 1; None if the search gives none."""


class Transcript(NamedTuple):
    """The transcript of one recording; all parts are empty if nothing was said."""

    text: str
    tokens: list[str]
    """Units of tokens.txt; the first unit of a word begins with U+2581."""
    times: list[float]
    """Centre of the encoder frame at which each token was found, in seconds from the start."""
    words: list[Word]
    confidences: list[float] | None = None
    """Confidence of each token, 0 to 1; None where the search gives none."""


EMPTY = Transcript("", [], [], [])
DIGITS = 2
"""Decimal digits of confidences; versions of torch differ by less."""


def transcript_of(
    found: Sequence[tuple[float, Hypothesis]], *, pieces: Sequence[str], decode: Callable[[list[int]], str]
) -> Transcript:
    """The transcript of a recording; a word without a confidence of its own gets the lowest of its tokens.

    Args:
      found: the start in seconds and the hypothesis of each segment, in order.
      pieces: each token's text, by id.
      decode: function from token ids to text.

    Source of the minimum: Laptev and Ginsburg 2022, Fast entropy-based methods of word-level confidence estimation for
    end-to-end automatic speech recognition (arXiv 2212.08703), one of the aggregations compared there.
    """
    token_ids = [token for _, hyp in found for token in hyp.tokens]
    frames = [start / ENCODER_FRAME_SHIFT + frame for start, hyp in found for frame in hyp.frames]
    given = [round(confidence, DIGITS) for _, hyp in found for confidence in hyp.confidences or ()]
    sure = given if len(given) == len(token_ids) and found else None
    tokens, times = [pieces[i] for i in token_ids], [frame_centre(frame) for frame in frames]
    words = []
    for group in word_groups(tokens):
        if text := decode([token_ids[i] for i in group]).strip():
            least = None if sure is None else min(sure[i] for i in group)
            words.append(_word(text, frames[group[0]], frames[group[-1]], least))
    if not any(hyp.words for _, hyp in found):
        text = " ".join(decode(token_ids).split())  # a word without characters leaves a space
        return Transcript(text, tokens, times, words, sure)
    of_graph = [word for start, hyp in found for word in _words_of_graph(hyp, start / ENCODER_FRAME_SHIFT)]
    if len(of_graph) == len(words):  # they differ where a graph reads a run of a token as two
        of_graph = [_at(word, by_tokens) for word, by_tokens in zip(of_graph, words)]
    return Transcript(join_words(word.text for word in of_graph), tokens, times, of_graph, sure)


def _words_of_graph(hyp: Hypothesis, offset: float) -> list[Word]:
    """The words of a graph with a lexicon, each at the frame of the arc that gave it."""
    words, frames = hyp.words or [], hyp.word_frames or []
    sure: Sequence[float | None] = hyp.word_confidences or [None] * len(words)
    return [
        _word(text, offset + frame, offset + frame, None if c is None else round(c, DIGITS))
        for text, frame, c in zip(words, frames, sure)
    ]


def _at(word: Word, by_tokens: Word) -> Word:
    """A word of a graph with the times of its tokens and, if it has no confidence of its own, their confidence."""
    confidence = by_tokens.confidence if word.confidence is None else word.confidence
    return by_tokens._replace(text=word.text, confidence=confidence)


def _word(text: str, first: float, last: float, confidence: float | None) -> Word:
    """A word from the start of its first encoder frame to the end of its last."""
    half = ENCODER_FRAME_SHIFT / 2
    return Word(text, round(frame_centre(first) - half, 3), round(frame_centre(last) + half, 3), confidence)


def word_groups(tokens: Sequence[str]) -> list[list[int]]:
    """Positions of each word's tokens; in scripts without spaces each character is a word."""
    before = ("", *tokens)
    starts = itertools.accumulate(_starts_word(token, last) for token, last in zip(tokens, before))
    numbered = itertools.groupby(enumerate(starts), key=lambda item: item[1])
    return [[position for position, _ in group] for _, group in numbered]


def _starts_word(token: str, before: str) -> bool:
    return token.startswith(WORD_START) or is_boundary(before, token)


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
    """The text on one line."""
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
    """One JSON object: the utterance's id, reference and transcript."""
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
