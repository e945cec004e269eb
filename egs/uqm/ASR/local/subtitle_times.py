#!/usr/bin/env python3
"""Differences between the times of recognised words and those at which the game shows its subtitles.

    ./decode.py --test-splits test-dialogues --output-format ctm
    local/subtitle_times.py exp/base/greedy_search/hyps-test-dialogues-*.ctm

A subtitle is compared with the start of its first word, if that was recognised. A dialogue's first is left out.
The game's own times are rough: a subtitle often appears in the pause before its first word.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import kaldialign
import numpy as np
from lhotse import SupervisionSegment

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import read_cuts

GAP = " "
"""No word."""
FAR = 0.5
"""Seconds."""


class TimedWord(NamedTuple):
    text: str
    start: float
    """Seconds from the beginning of the dialogue."""


def main() -> None:
    args = parser().parse_args()
    supervisions = [cut.supervisions[0] for cut in read_cuts(args.manifest_dir, args.split, recipe_dir=Path())]
    num_starts = sum(len(subtitles_of(supervision)) - 1 for supervision in supervisions)
    for path in args.ctm:
        words = read_ctm(path)
        errors = np.array([error for s in supervisions for error in start_errors(s, words.get(s.id, []))])
        require(len(errors) > 0, f"{path}: no subtitle's first word was recognised in {args.split}")
        far = 100 * float((abs(errors) > FAR).mean())
        print(
            f"{path}: {len(errors)} of {num_starts} starts compared; error median {np.median(errors):+.2f} s, "
            f"absolute median {np.median(abs(errors)):.2f} s, above {FAR:g} s {far:.1f} %"
        )


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("ctm", type=Path, nargs="+", help="Files hyps-test-dialogues-*.ctm.")
    result.add_argument("--manifest-dir", type=Path, default=Path("data/fbank"), help="Folder of the cuts.")
    result.add_argument("--split", default="test-dialogues", help="Split that was decoded.")
    return result


def read_ctm(path: Path) -> dict[str, list[TimedWord]]:
    """The words of each recording."""
    words: defaultdict[str, list[TimedWord]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(";;"):
            recording, _, start, _, text, *_ = line.split()
            words[recording].append(TimedWord(text, float(start)))
    return words


def subtitles_of(supervision: SupervisionSegment) -> list:
    """The alignment items of its subtitles.

    Raises:
      ValueError: it has none.
    """
    items = (supervision.alignment or {}).get("subtitle")
    if not items:
        raise ValueError(f"{supervision.id} has no times of subtitles: give --split test-dialogues")
    return items


def start_errors(supervision: SupervisionSegment, words: Sequence[TimedWord]) -> Iterable[float]:
    """Seconds by which the first words of subtitles begin after the game shows these, of those that were recognised."""
    subtitles = subtitles_of(supervision)
    texts = [item.symbol.split() for item in subtitles]
    firsts = dict(zip(accumulate(map(len, texts)), subtitles[1:]))
    position, heard = 0, iter(words)
    for ref, hyp in kaldialign.align(sum(texts, []), [word.text for word in words], GAP):
        word = next(heard) if hyp != GAP else None
        if word is not None and ref == hyp and position in firsts:
            yield word.start - firsts[position].start
        position += ref != GAP


if __name__ == "__main__":
    run_main(main)
