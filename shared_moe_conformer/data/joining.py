"""Silence around training utterances, and utterances joined by it, as there are in recordings cut at silences.

Corpora are cut close to the speech. A model that has seen nothing else errs where a recording begins with silence, and
after a pause.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from lhotse.utils import LOG_EPSILON
from torch import Generator, Tensor

from shared_moe_conformer.config import DataConfig

LONGEST_JOINED = 1500
"""Frames of joined utterances at most, without the silence."""
MOST_JOINED = 3
GAP = 10, 80
"""Fewest and most frames of silence between two utterances that are joined."""
MARGIN = 0, 50
"""Fewest and most frames of silence before and after an utterance, where it gets some."""
QUIET_SHARE = 0.05
"""Of an utterance's frames, the quietest, of which silence is made."""


class Example(NamedTuple):
    """An utterance to train on."""

    features: Tensor
    """(T, F)"""
    tokens: list[int]
    cut_id: str
    text: str


def with_silence(examples: Sequence[Example], config: DataConfig, *, generator: Generator) -> list[Example]:
    """A batch whose utterances may be joined, all in twos or all in threes, and may begin and end with silence."""
    joined = list(examples)
    if config.join_probability > 0:
        together = _num_joined(examples, config, generator)
        starts = range(0, len(examples), together)
        joined = [_joined(examples[start : start + together], generator) for start in starts]
    if config.silence_probability > 0:
        joined = [_between_silence(example, config, generator) for example in joined]
    return joined


def _num_joined(examples: Sequence[Example], config: DataConfig, generator: Generator) -> int:
    """How many utterances become one: the same number in all of a batch, so that little is padding."""
    fits = LONGEST_JOINED // max(len(example.features) for example in examples)
    if fits < 2 or _random(generator) >= config.join_probability:
        return 1
    return _random_int(2, min(fits, MOST_JOINED), generator)


def _joined(examples: Sequence[Example], generator: Generator) -> Example:
    """One utterance of several, with silence between two of them."""
    features = [examples[0].features]
    for example in examples[1:]:
        features += _silence(example.features, GAP, generator), example.features
    return Example(
        torch.cat(features),
        [token for example in examples for token in example.tokens],
        "+".join(example.cut_id for example in examples),
        " ".join(example.text for example in examples),
    )


def _between_silence(example: Example, config: DataConfig, generator: Generator) -> Example:
    if _random(generator) >= config.silence_probability:
        return example
    before, after = (_silence(example.features, MARGIN, generator) for _ in range(2))
    return example._replace(features=torch.cat([before, example.features, after]))


def _silence(features: Tensor, num_frames: tuple[int, int], generator: Generator) -> Tensor:
    """Random frames of the utterance's quietest, or digital silence; as often the one as the other."""
    frames = features.new_full((_random_int(*num_frames, generator), features.size(1)), LOG_EPSILON)
    if _random(generator) < 0.5:
        return frames
    num_quiet = max(1, int(QUIET_SHARE * len(features)))
    quiet = features[features.mean(dim=1).argsort(stable=True)[:num_quiet]]
    return quiet[torch.randint(num_quiet, (len(frames),), generator=generator)]


def _random(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def _random_int(smallest: int, largest: int, generator: Generator) -> int:
    return int(torch.randint(smallest, largest + 1, (1,), generator=generator))
