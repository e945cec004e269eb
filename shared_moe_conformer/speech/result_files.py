"""What was recognised in a test set, one file for all of it: text, CTM with times, or JSON lines with all there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.speech.subtitles import ctm_lines
from shared_moe_conformer.speech.transcript import Transcript, as_record


class Result(NamedTuple):
    """An utterance of a test set, and what was recognised."""

    cut_id: str
    ref: str
    transcript: Transcript


def text_line(result: Result) -> str:
    """The utterance and its text, as Kaldi's text files have them."""
    return f"{result.cut_id} {result.transcript.text}".rstrip()


def ctm(result: Result) -> str:
    """Times from the beginning of the utterance; see `ctm_lines`."""
    return ctm_lines(result.cut_id, result.transcript)


def json_line(result: Result) -> str:
    """One object: id and ref of the utterance, and its transcript."""
    return json.dumps({"id": result.cut_id, "ref": result.ref, **as_record(result.transcript)}, ensure_ascii=False)


FORMATS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "text": ("txt", text_line),
    "ctm": ("ctm", ctm),
    "jsonl": ("jsonl", json_line),
}
"""The suffix of each format's files, and how it shows an utterance."""


def write_results(results: Iterable[Result], folder: Path, *, name: str, output_format: str) -> Path:
    """Write hyps-<name>.<suffix>, utterances in order of their ids, and return its path."""
    suffix, show = FORMATS[output_format]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"hyps-{name}.{suffix}"
    with atomic_file(path) as file:
        file.write("".join(f"{show(result)}\n" for result in sorted(results)).encode())
    return path
