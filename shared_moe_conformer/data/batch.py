"""What the model is trained and decoded on: a padded batch of features and token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from lhotse.utils import LOG_EPSILON
from torch import Tensor


class AsrBatch(NamedTuple):
    """Utterances of similar length, padded."""

    x: Tensor
    """Features, (N, T, F), float; padding is the logarithm of nearly no energy."""
    x_lens: Tensor
    """Valid frames, (N,), int64."""
    y: Tensor
    """Token ids, (N, U), int64, padded with 0."""
    y_lens: Tensor
    """Valid tokens, (N,), int64."""
    cut_ids: list[str]
    """Ids of the cuts."""
    texts: list[str]
    """Reference texts."""
    num_copies: int = 1
    """Copies of the utterances, one after the other, with SpecAugment's masks of their own; N counts them all."""


class Example(NamedTuple):
    """One utterance of a batch."""

    features: Tensor
    """(T, F)"""
    tokens: list[int]
    """(U,)"""
    cut_id: str
    text: str


def collate(examples: Sequence[Example], *, num_copies: int = 1) -> AsrBatch:
    """A batch of utterances; the examples hold all of the first copy, then all of the second."""
    features, tokens, cut_ids, texts = map(list, zip(*examples))
    x = torch.nn.utils.rnn.pad_sequence(features, batch_first=True, padding_value=LOG_EPSILON)
    y = torch.nn.utils.rnn.pad_sequence([torch.tensor(t, dtype=torch.int64) for t in tokens], batch_first=True)
    return AsrBatch(x, _lengths(features), y, _lengths(tokens), cut_ids, texts, num_copies)


def _lengths(sequences: Sequence[Sequence[int] | Tensor]) -> Tensor:
    return torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
