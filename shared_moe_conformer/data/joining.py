"""Silence around training utterances, and utterances joined by it, as there are in recordings cut at silences.

Corpora are cut close to the speech. A model that has seen nothing else errs where a recording begins with silence, and
after a pause.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from shared_moe_conformer.config import DataConfig
from shared_moe_conformer.data.batch import Example

LONGEST_JOINED = 1500
"""Frames of joined utterances at most, without the silence."""
MOST_JOINED = 3
QUIET_SHARE = 0.05
"""Of an utterance's frames, the quietest, of which silence is made."""
DIGITAL_SILENCE = math.log(torch.finfo(torch.float32).eps)
"""The feature of samples that are 0. Source: Kaldi, feature-fbank.cc: energies are floored at float32's epsilon."""


class Length(NamedTuple):
    """How many frames a silence has."""

    fewest: int
    most: int


GAP = Length(10, 80)
"""Between two utterances that are joined."""
MARGIN = Length(0, 50)
"""Before and after an utterance that gets silence."""
Silence = Callable[[Tensor, Length], Tensor]
"""Makes silence (.., F) for an utterance's features (T, F)."""


def with_silence(examples: Sequence[Example], config: DataConfig, *, generator: Generator) -> list[Example]:
    """A batch whose utterances may be joined, all in twos or all in threes, and may begin and end with silence."""
    silence = functools.partial(_random_silence, generator=generator)
    together = _num_joined(examples, config, generator)
    found = _joined(examples, together, silence)
    if config.silence_probability > 0:
        drawn = [_random(generator) < config.silence_probability for _ in found]
        found = [_between(example, silence) if is_drawn else example for example, is_drawn in zip(found, drawn)]
    return found


def with_most_silence(examples: Sequence[Example], config: DataConfig) -> list[list[Example]]:
    """The largest that `with_silence` makes of a batch: with most frames and, where joined, with longest utterances."""
    numbers = {1, _most_joined(examples) if config.join_probability > 0 else 1}
    batches = [_joined(examples, number, _most_silence) for number in sorted(numbers)]
    if config.silence_probability > 0:
        batches = [[_between(example, _most_silence) for example in batch] for batch in batches]
    return batches


def _num_joined(examples: Sequence[Example], config: DataConfig, generator: Generator) -> int:
    """How many utterances become one: the same number in all of a batch, so that little is padding."""
    if config.join_probability == 0 or _random(generator) >= config.join_probability:
        return 1
    most = _most_joined(examples)
    return _random_int(2, most, generator) if most > 1 else 1


def _most_joined(examples: Sequence[Example]) -> int:
    """Up to 3, and no more than what makes 15 seconds; 1: none."""
    fitting = LONGEST_JOINED // max(len(example.features) for example in examples)
    return max(1, min(fitting, MOST_JOINED, len(examples)))


def _joined(examples: Sequence[Example], together: int, silence: Silence) -> list[Example]:
    """The examples in groups of so many, each one utterance, with silence between two of it."""
    groups = (examples[start : start + together] for start in range(0, len(examples), together))
    return [functools.reduce(functools.partial(_pair, silence=silence), group) for group in groups]


def _pair(first: Example, second: Example, *, silence: Silence) -> Example:
    return Example(
        torch.cat([first.features, silence(second.features, GAP), second.features]),
        first.tokens + second.tokens,
        f"{first.cut_id}+{second.cut_id}",
        f"{first.text} {second.text}",
    )


def _between(example: Example, silence: Silence) -> Example:
    before, after = (silence(example.features, MARGIN) for _ in range(2))
    return example._replace(features=torch.cat([before, example.features, after]))


def _random_silence(features: Tensor, length: Length, *, generator: Generator) -> Tensor:
    """Random frames of the utterance's quietest, or digital silence; as often the one as the other."""
    num_frames = _random_int(*length, generator)
    if _random(generator) < 0.5:
        return features.new_full((num_frames, features.size(1)), DIGITAL_SILENCE)
    num_quiet = max(1, int(QUIET_SHARE * len(features)))
    quiet = features[features.mean(dim=1).argsort(stable=True)[:num_quiet]]
    return quiet[torch.randint(num_quiet, (num_frames,), generator=generator)]


def _most_silence(features: Tensor, length: Length) -> Tensor:
    return features.new_full((length.most, features.size(1)), DIGITAL_SILENCE)


def _random(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def _random_int(smallest: int, largest: int, generator: Generator) -> int:
    return int(torch.randint(smallest, largest + 1, (1,), generator=generator))
