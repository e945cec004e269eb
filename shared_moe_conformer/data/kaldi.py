"""The utterances of Kaldi data folders."""

from __future__ import annotations

from pathlib import Path

from shared_moe_conformer.config import require
from shared_moe_conformer.data.utterances import Utterance, channel_of, lines_of, refuse, span

Map = dict[str, tuple[str, str]]
"""Origin and rest of each line of a file, by the line's first word."""


def read_kaldi(folder: Path, *, split: str = "") -> list[Utterance]:
    """The utterances of a Kaldi data folder: wav.scp and text, and segments and utt2spk if they exist.

    Source of the formats: Kaldi's documentation, Data preparation; of the channel in segments: extract-segments.

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
    problems += [
        f"{origin}: {name} has no line in text: write one, or take this line out"
        for name, (origin, _) in (segments or recordings).items()
        if name not in texts
    ]
    utterances = []
    for name in texts:
        try:
            utterance = _utterance(name, texts, segments, recordings)
        except ValueError as error:
            problems.append(str(error))
            continue
        utterances.append(utterance._replace(speaker=speakers.get(name, ("", ""))[1], split=split))
    refuse(problems)
    require(len(utterances) > 0, f"{folder / 'text'} has no lines")
    return utterances


def _utterance(name: str, texts: Map, segments: Map, recordings: Map) -> Utterance:
    """The utterance of a name, without its speaker.

    Raises:
      ValueError: the line and what is wrong with it.
    """
    origin, text = texts[name]
    require(bool(text), f"{origin}: no text: write what is said, or take the line out")
    if not segments:
        require(name in recordings, f"{origin}: {name} has no line in wav.scp")
        return Utterance(name, recordings[name][1], text, "", "", 0.0, 0.0, origin)
    require(name in segments, f"{origin}: {name} has no line in segments")
    line, fields = segments[name][0], segments[name][1].split()
    require(
        len(fields) in (3, 4), f"{line}: {len(fields) + 1} columns: write id, recording, start, end and maybe channel"
    )
    recording, start, end, *channel = fields
    require(recording in recordings, f"{line}: {recording} has no line in wav.scp")
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
            problems.append(f"{origin}: {name} has a line already, {result[name][0]}")
        result[name] = (origin, rest[0].strip() if rest else "")
    refuse(problems)
    return result
