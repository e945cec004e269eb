"""Which utterances are held out: chosen by hashes, so that everybody chooses the same; equal texts stay together."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from shared_moe_conformer.config import require
from shared_moe_conformer.data.utterances import Utterance

PERCENT = {"test": range(10), "dev": range(10, 20)}
"""Hundredths of the texts that are held out."""


def percentile_of(name: str) -> int:
    """A number from 0 to 99 that follows from a name alone."""
    return int(hashlib.sha1(f"split1|{name.lower()}".encode()).hexdigest(), 16) % 100


def split_of(name: str) -> str:
    """The split of a text, or of a speaker: 10 % test, 10 % dev."""
    return next((split for split, percent in PERCENT.items() if percentile_of(name) in percent), "train")


def held_out(sizes: Mapping[str, float], share: float) -> set[str]:
    """Groups that together have at least a share of the whole: speakers, characters or dialogues.

    The groups are taken in the order of a hash of their names, so that everybody takes the same.

    Args:
      sizes: of the groups, in any unit, by name.
      share: of the sum of all sizes, from 0 to 1.
    """
    chosen: set[str] = set()
    for name in sorted(sizes, key=lambda name: hashlib.sha1(f"split1|{name}".encode()).hexdigest()):
        if sum(sizes[other] for other in chosen) >= share * sum(sizes.values()):
            break
        chosen.add(name)
    return chosen


def assign_splits(utterances: Sequence[Utterance], *, by: str = "text") -> list[Utterance]:
    """The utterances, each in a split.

    Splits that are given stay as they are; where dev or test is not among them it is taken out of train.

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
        require("train" in given, "no utterance is in train")
        return list(utterances)
    free = [utterance for utterance in utterances if utterance.split in ("", "train")]
    chosen = _choose(_groups(free, by), missing)
    return [utterance._replace(split=chosen.get(utterance.id, utterance.split)) for utterance in utterances]


def shared_texts(utterances: Iterable[Utterance]) -> set[str]:
    """Texts that are in two splits or more."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for utterance in utterances:
        splits[utterance.text].add(utterance.split)
    return {text for text, its in splits.items() if len(its) > 1}


def _choose(groups: dict[str, list[Utterance]], missing: Sequence[str]) -> dict[str, str]:
    """The split of each utterance's id."""
    order = sorted(groups, key=lambda name: (percentile_of(name), name))
    require(
        len(order) > len(missing),
        f"{len(order)} groups of equal texts, recordings or speakers: too few to hold out {' and '.join(missing)}; "
        "give a split to every line, or --split-by the other",
    )
    split_by_group = {name: split if (split := split_of(name)) in missing else "train" for name in order}
    if set(split_by_group.values()) != {*missing, "train"}:  # so few that chance left one empty
        split_by_group |= dict.fromkeys(order, "train") | dict(zip(order, missing))
    return {utterance.id: split_by_group[name] for name, group in groups.items() for utterance in group}


def _groups(utterances: Sequence[Utterance], by: str) -> dict[str, list[Utterance]]:
    """Utterances that must stay together, by the first of their texts or speakers in alphabetical order."""
    require(
        by == "text" or all(utterance.speaker for utterance in utterances),
        "--split-by speaker: not every utterance has a speaker",
    )
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
