"""Splits by voice and by dialogue, so that tests of known and of new voices are held out, and no text is in two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dialogues import Dialogue

from shared_moe_conformer.data.utterances import held_out

NEW_VOICES = {
    "arilou": "dev-new-voices",
    "shofixti": "dev-new-voices",
    "ilwrath": "test-new-voices",
    "mycon": "test-new-voices",
    "slylandro": "test-new-voices",
    "umgah": "test-new-voices",
}
"""Characters whom training does not hear: the first in the order of a hash of their names, but for melnorme, who speaks
more than all of dev should. Characters who may have one voice, such as yehat and yehatrebels, are all known."""
TEST_SHARE, DEV_SHARE = 0.08, 0.05
"""Shares of the time of the other characters."""
SPLITS = ("train", "dev", "dev-new-voices", "test", "test-new-voices")
BY_IMPORTANCE = ("test", "test-new-voices", "dev", "dev-new-voices", "train")
"""A text that is in two splits stays in the first of these."""


class Segment(NamedTuple):
    """Speech under one subtitle."""

    id: str
    dialogue: Dialogue
    start: float
    duration: float
    text: str
    """Normalised."""


def split_dialogues(dialogues: Sequence[Dialogue], seconds: Mapping[str, float]) -> dict[str, str]:
    """The split of each dialogue's id."""
    known = {d.id: seconds[d.id] for d in dialogues if d.character not in NEW_VOICES}
    test = held_out(known, TEST_SHARE)
    rest = {name: duration for name, duration in known.items() if name not in test}
    dev = held_out(rest, DEV_SHARE * sum(known.values()) / sum(rest.values())) if rest else set()
    new = {d.id: NEW_VOICES[d.character] for d in dialogues if d.character in NEW_VOICES}
    return dict.fromkeys(known, "train") | dict.fromkeys(test, "test") | dict.fromkeys(dev, "dev") | new


def split_segments(segments: Sequence[Segment], split_of: Mapping[str, str]) -> dict[str, list[Segment]]:
    """The segments of each split, without texts of a more important split."""
    splits = {split: [s for s in segments if split_of[s.dialogue.id] == split] for split in SPLITS}
    taken: set[str] = set()
    for split in BY_IMPORTANCE:
        splits[split] = [segment for segment in splits[split] if segment.text not in taken]
        taken |= {segment.text for segment in splits[split]}
    return splits
