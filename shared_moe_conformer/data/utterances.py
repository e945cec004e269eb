"""Utterances in recordings: ids, problems named line by line, the table of a recipe, splits and groups.

What is held out is chosen by hashes, so that everybody chooses the same; equal texts stay together.
"""

from __future__ import annotations

import codecs
import hashlib
import math
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from lhotse import SupervisionSegment

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.config import require
from shared_moe_conformer.data.foreign import binary_kind
from shared_moe_conformer.text import counted

SPLITS = ("train", "dev", "test")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""First bytes of text in UTF-16, which spreadsheets call Unicode."""
MAX_SHOWN = 3
PERCENT = {"test": range(10), "dev": range(10, 20)}
"""Hundredths of the texts that are held out."""
LARGE = 0.2
"""Share of all utterances above which a group is for training: as many are held out in all."""
Grouping = Literal["speaker", "gender", "age", "language", "corpus"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
AGE_GROUPS = (0, 13, 20)
"""Youngest age of each group."""
_CUSTOM = ("age", "corpus")
"""Groupings for which Lhotse's supervisions have no field, so that recipes write custom ones."""


class Utterance(NamedTuple):
    """The text of a recording or of a part of it."""

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
    channel: int | None = None
    """From 0; None: the mean of all."""


COLUMNS = Utterance._fields[:7]
"""Columns of a recipe's table; `channel` is one more, where an utterance has one."""
_CLOCK = re.compile(r"(?:(\d+):(?=[0-5]\d:))?(\d+):([0-5]\d(?:[.,]\d+)?)", re.ASCII)
"""Hours, if there are any, minutes and seconds; subtitles have a comma before the milliseconds."""


def span(start: str, end: str) -> tuple[float, float]:
    """Start and duration in seconds of a segment; the end -1 is that of the recording, and its duration then 0.

    Source of -1: Kaldi, extract-segments.

    Raises:
      ValueError: no times of a segment.
    """
    first, last = seconds(start, "start"), seconds(end, "end")
    require(first >= 0, f"it starts at {first:g} s, before its recording: write 0 or more")
    if last == -1:
        return first, 0.0
    require(last > first, f"it ends ({last:g} s) before it starts ({first:g} s): write a later end, or -1")
    return first, last - first


def seconds(value: str, name: str) -> float:
    """A time in seconds, which may be written as a clock shows it: 62.5, 1:02.5, 00:01:02,500.

    Raises:
      ValueError: no time.
    """
    if match := _CLOCK.fullmatch(value):
        hours, minutes, rest = match.groups()
        return 3600 * int(hours or 0) + 60 * int(minutes) + float(rest.replace(",", "."))
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    require(math.isfinite(number), f"the {name} is {value!r}: write seconds, as 62.5 or 1:02.5")
    return number


def channel_of(value: str) -> int | None:
    """The channel that a table names; None for an empty value.

    Raises:
      ValueError: no number.
    """
    require(not value or (value.isascii() and value.isdecimal()), f"the channel is {value!r}: write 0, 1, ..")
    return int(value) if value else None


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each line that is not blank.

    Raises:
      FileNotFoundError, IsADirectoryError: no such file.
      ValueError: the file is not UTF-8, nor UTF-16 that says so.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name the file in it")
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    content = path.read_bytes()
    kind = binary_kind(content)
    require(not kind, f"{path.name} is {kind}")
    try:
        text = content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        position = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path.name} line {position} is not UTF-8: save the file in that encoding") from error
    for number, line in enumerate(re.split("\r\n|\r|\n", text), start=1):
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
    chosen = sorted(utterances, key=lambda utterance: utterance[:7])
    rows: list[tuple[object, ...]] = [COLUMNS, *(utterance[:7] for utterance in chosen)]
    if any(utterance.channel is not None for utterance in chosen):
        channels = ["" if utterance.channel is None else utterance.channel for utterance in chosen]
        rows = [(*row, channel) for row, channel in zip(rows, ["channel", *channels])]
    write_whole(path, "".join("\t".join(map(str, row)) + "\n" for row in rows))


def read_table(path: Path) -> list[Utterance]:
    """The utterances of a recipe's table.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a line that `write_table` would not write.
    """
    lines = [(origin, line.split("\t")) for origin, line in lines_of(path)]
    columns = (*COLUMNS, "channel") if lines and lines[0][1][-1] == "channel" else COLUMNS
    utterances, problems = [], []
    for origin, fields in lines[1:]:
        try:
            name, audio, text, speaker, split, start, duration, *rest = fields
            require(len(fields) == len(columns), f"{len(fields)} columns")
            require(split in SPLITS, f"the split is {split!r}")
            times, channel = (float(start), float(duration)), channel_of("".join(rest))
            utterances.append(Utterance(name, audio, text, speaker, split, *times, origin, channel))
        except ValueError as error:
            problems.append(f"{origin}: {error}: the columns are {', '.join(columns)}")
    require(not lines or (*lines[0][1],) == columns, f"{path.name} line 1: write the columns {', '.join(columns)}")
    refuse(problems)
    return utterances


def split_of(name: str) -> str:
    """The split of a text, or of a speaker: 10 % test, 10 % dev."""
    return next((split for split, percent in PERCENT.items() if _percentile(name) in percent), "train")


def _percentile(name: str) -> int:
    """A number from 0 to 99 that follows from a name alone."""
    return int(_hash(name.lower()), 16) % 100


def _hash(name: str) -> str:
    return hashlib.sha1(f"split1|{name}".encode()).hexdigest()


def held_out(sizes: Mapping[str, float], share: float) -> set[str]:
    """Groups (speakers, characters or dialogues), by name, that have at least a share of the sum of all sizes."""
    chosen: set[str] = set()
    for name in sorted(sizes, key=_hash):
        if sum(sizes[other] for other in chosen) >= share * sum(sizes.values()):
            break
        chosen.add(name)
    return chosen


def assign_splits(utterances: Sequence[Utterance], *, by: str = "text") -> list[Utterance]:
    """The utterances, each in a split.

    Given splits stay as they are; a missing dev or test is taken out of train. A large group stays in it: calls that
    have a YES in common may be most of a corpus.

    Args:
      utterances: with splits, or all without.
      by: `text`: equal texts, and all of a recording, stay in one split. `speaker`: all of a speaker does.

    Raises:
      ValueError: only some have a split, or too few groups to hold out two.
    """
    without = [utterance for utterance in utterances if not utterance.split]
    given = {utterance.split for utterance in utterances} - {""}
    require(
        not without or not given,
        f"{(without or utterances)[0].origin}: no split, where other lines have one: give all of them one, or none",
    )
    missing = [split for split in PERCENT if split not in given]
    if not missing:
        require("train" in given, "no utterance is in train: write that split in some lines")
        return list(utterances)
    free = [utterance for utterance in utterances if utterance.split in ("", "train")]
    chosen = _choose(_groups(free, by), missing, by)
    return [utterance._replace(split=chosen.get(utterance.id, utterance.split)) for utterance in utterances]


def shared_texts(utterances: Iterable[Utterance]) -> set[str]:
    """Texts that are in two splits or more."""
    counts = Counter(text for text, _ in {(utterance.text, utterance.split) for utterance in utterances})
    return {text for text, count in counts.items() if count > 1}


def _choose(groups: dict[str, list[Utterance]], missing: Sequence[str], by: str) -> dict[str, str]:
    """The split of each utterance's id."""
    order = sorted(groups, key=lambda name: (_percentile(name), name))
    other = next(way for way in ("speaker", "text") if way != by)
    require(
        len(order) > len(missing),
        f"{counted(len(order), 'group')} of utterances with a {by} or a recording in common: too few to hold out "
        f"{' and '.join(missing)}; give a split to every line, or --split-by {other}",
    )
    sizes = {name: len(group) for name, group in groups.items()}
    large = {name for name in order if sizes[name] > LARGE * sum(sizes.values())}
    split_by_group = {
        name: split if (split := split_of(name)) in missing and name not in large else "train" for name in order
    }
    if set(split_by_group.values()) != {*missing, "train"}:  # so few that chance left one empty
        smaller = [name for name in order if name != max(order, key=lambda name: sizes[name])]
        split_by_group |= dict.fromkeys(order, "train") | dict(zip(smaller, missing))
    return {utterance.id: split_by_group[name] for name, group in groups.items() for utterance in group}


def _groups(utterances: Sequence[Utterance], by: str) -> dict[str, list[Utterance]]:
    """Utterances that must stay together, by the alphabetically first of their texts or speakers."""
    without = [utterance.origin for utterance in utterances if by == "speaker" and not utterance.speaker]
    require(not without, f"{without[:1]}: no speaker, which --split-by speaker needs: write one in every line")
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    for utterance in utterances:
        parents[root(f"path {utterance.path}")] = root(f"name {getattr(utterance, by).lower()}")
    groups: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        groups[root(f"path {utterance.path}")].append(utterance)
    return {min(getattr(utterance, by).lower() for utterance in group): group for group in groups.values()}


def group_of(supervision: SupervisionSegment, by: Grouping, age_groups: Sequence[int] = AGE_GROUPS) -> str:
    """The group of an utterance.

    Raises:
      ValueError: the manifest does not say it.
    """
    value = (supervision.custom or {}).get(by) if by in _CUSTOM else getattr(supervision, by)
    if value is None:
        raise ValueError(f"{supervision.id} has no {by}: the corpus does not say it")
    return _age_group(int(value), age_groups, supervision.id) if by == "age" else str(value)


def _age_group(age: int, age_groups: Sequence[int], name: str) -> str:
    index = bisect_right(age_groups, age)
    require(index > 0, f"{name}: age {age} is below the first of --age-groups")
    youngest = age_groups[index - 1]
    return f"{youngest} to {age_groups[index] - 1}" if index < len(age_groups) else f"{youngest} on"
