"""Splits by whole levels of the game, so that no conversation and no text is in two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from dialogues import Clip

SPLITS = ("train", "dev", "test")

TEST_SHARE, DEV_SHARE = 0.10, 0.08
"""Shares of the time; the level with which a split reaches its share is its last."""


def splits_of(clips: Sequence[Clip], seconds: Mapping[str, float], texts: Mapping[str, str]) -> dict[str, list[Clip]]:
    """The clips of each split: train has no text of dev or test, dev has no text of test."""
    levels = split_levels(clips, seconds)
    splits = {split: [clip for clip in clips if levels[clip.level] == split] for split in SPLITS}
    held_out: set[str] = set()
    for split in reversed(SPLITS):
        splits[split] = [clip for clip in splits[split] if texts[clip.id] not in held_out]
        held_out |= {texts[clip.id] for clip in splits[split]}
    return splits


def split_levels(clips: Sequence[Clip], seconds: Mapping[str, float]) -> dict[str, str]:
    """The split of each level: in an order that depends only on their names, first test, then dev, then train."""
    total = sum(seconds[clip.id] for clip in clips)
    splits, passed, split = {}, 0.0, "test"
    limits = {"test": TEST_SHARE * total, "dev": (TEST_SHARE + DEV_SHARE) * total, "train": float("inf")}
    for level in in_order({clip.level for clip in clips}):
        if passed >= limits[split]:
            split = "dev" if split == "test" else "train"
        splits[level] = split
        passed += sum(seconds[clip.id] for clip in clips if clip.level == level)
    return splits


def in_order(levels: Iterable[str]) -> list[str]:
    """Levels in the order of a hash of their names, the same wherever the corpus is prepared."""
    return sorted(levels, key=lambda level: hashlib.sha1(f"split1|{level}".encode()).hexdigest())
