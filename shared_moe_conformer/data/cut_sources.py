"""Sources of training cuts beside a recipe's own: manifests and Shar, their weights, and what is wrong with a cut."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lhotse.cut import Cut
from lhotse.utils import compute_num_frames

from shared_moe_conformer.config import FRAME_SHIFT, FeatureConfig, require
from shared_moe_conformer.data.checks import Problem, check_cut, check_units, unfit_features
from shared_moe_conformer.data.manifests import iterate_cut_file
from shared_moe_conformer.data.shar import Shards, find_shards, listed_shards
from shared_moe_conformer.data.tokenizer import Tokenizer


@dataclass
class Manifest:
    """The cuts of a Lhotse manifest, read lazily where its format allows that; relative paths begin at the recipe."""

    name: str
    path: Path
    recipe_dir: Path
    index: int = 0
    count: int = 1
    """The part: every `count`-th cut, from `index` on."""

    def part(self, index: int, count: int) -> Manifest:
        """Every `count`-th cut, from `index` on."""
        return Manifest(self.name, self.path, self.recipe_dir, index, count)

    def __iter__(self) -> Iterator[Cut]:
        return itertools.islice(self.manifests(), self.index, None, self.count)

    def manifests(self) -> Iterator[Cut]:
        """All cuts; they hold no audio and no features anyway."""
        return iterate_cut_file(self.path, recipe_dir=self.recipe_dir)


class Source(NamedTuple):
    """One of the `train_cuts`."""

    cuts: Manifest | Shards
    weight: float | None
    """None where the option names none."""

    @property
    def name(self) -> str:
        """As messages have it."""
        return self.cuts.name


def open_sources(names: Sequence[str], recipe_dir: Path) -> list[Source]:
    """The sources that `train_cuts` names; of manifests and shards nothing is read yet.

    Raises:
      FileNotFoundError: no such file or folder.
      ValueError: neither a manifest nor Shar, or a weight that is not positive.
    """
    return [_open(name, recipe_dir) for name in names]


def _open(name: str, recipe_dir: Path) -> Source:
    weighted = re.fullmatch(r"(.+)@(\d+\.?\d*)", name)
    location, weight = (weighted[1], float(weighted[2])) if weighted else (name, None)
    require(weight is None or weight > 0, f"train_cuts {name}: give a weight above 0")
    path = recipe_dir / location
    if path.is_dir():
        return Source(find_shards(path), weight)
    if not path.is_file():
        raise FileNotFoundError(
            f"train_cuts {name}: no file or folder {path}: give manifests of cuts, folders of Shar, or JSON files that "
            "list the shards' URLs"
        )
    if path.suffix == ".json":
        return Source(listed_shards(path), weight)
    require(
        path.name.endswith((".jsonl", ".jsonl.gz")),
        f"train_cuts {name} is no manifest of cuts (.jsonl or .jsonl.gz), no folder of Shar and no JSON list of shards",
    )
    return Source(Manifest(location, path, recipe_dir), weight)


def utterances(cuts: Iterable[Cut]) -> Iterator[Cut]:
    """The cuts; one with several supervisions becomes a cut for each, without what overlaps."""
    for cut in cuts:
        if len(cut.supervisions) > 1:
            yield from cut.trim_to_supervisions(keep_overlapping=False)
        else:
            yield cut


@dataclass(frozen=True)
class UtteranceCheck:
    """Finds what keeps an utterance out of the training, from its manifest alone."""

    tokenizer: Tokenizer
    features: FeatureConfig

    def __call__(self, cut: Cut) -> list[Problem]:
        """The problems of a cut with features, stored or to be computed."""
        problems = check_cut(cut, min_duration=0.0, max_duration=float("inf"))
        if problems:
            return problems
        if cut.has_features:
            problem, num_frames = unfit_features(cut, self.features), cut.num_frames
        else:
            problem, num_frames = self._recorded(cut)
        found = [Problem(cut.id, "features", problem)] if problem else []
        return found + check_units(cut, self.tokenizer, num_frames=num_frames)

    def _recorded(self, cut: Cut) -> tuple[str, int | None]:
        """What is wrong with a recording, and the number of frames that it will have."""
        if not cut.has_recording:
            return "neither features nor a recording", None
        channels = cut.num_channels
        problem = "" if channels == 1 else f"{channels} channels: make cuts of one channel (CutSet.to_mono)"
        return problem, compute_num_frames(cut.duration, FRAME_SHIFT, cut.sampling_rate)
