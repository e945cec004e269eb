"""Which utterances are held out: chosen by hashes, so that everybody chooses the same; equal texts stay together."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from shared_moe_conformer.config import require
from shared_moe_conformer.data.utterances import Utterance

PERCENT = {"test": range(10), "dev": range(10, 20)}
"""Hundredths of the texts that are held out."""


def split_of(name: str) -> str:
    """The split of a text, or of a speaker: 10 % test, 10 % dev."""
    return next((split for split, percent in PERCENT.items() if _percentile(name) in percent), "train")


def _percentile(name: str) -> int:
    """A number from 0 to 99 that follows from a name alone."""
    return int(_hash(name.lower()), 16) % 100


def _hash(name: str) -> str:
    return hashlib.sha1(f"split1|{name}".encode()).hexdigest()


def held_out(sizes: Mapping[str, float], share: float) -> set[str]:
    """Groups (speakers, characters or dialogues) that together have at least a share of the whole.

    Args:
      sizes: of the groups, in any unit, by name.
      share: of the sum of all sizes, from 0 to 1.
    """
    chosen: set[str] = set()
    for name in sorted(sizes, key=_hash):
        if sum(sizes[other] for other in chosen) >= share * sum(sizes.values()):
            break
        chosen.add(name)
    return chosen


def assign_splits(utterances: Sequence[Utterance], *, by: str = "text") -> list[Utterance]:
    """The utterances, each in a split.

    Given splits stay as they are; a missing dev or test is taken out of train.

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
    counts = Counter(text for text, _ in {(utterance.text, utterance.split) for utterance in utterances})
    return {text for text, count in counts.items() if count > 1}


def _choose(groups: dict[str, list[Utterance]], missing: Sequence[str]) -> dict[str, str]:
    """The split of each utterance's id."""
    order = sorted(groups, key=lambda name: (_percentile(name), name))
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
    """Utterances that must stay together, by the alphabetically first of their texts or speakers."""
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
