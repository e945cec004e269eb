from __future__ import annotations

import itertools

import pytest
import torch

from shared_moe_conformer.decoding.prefixes import extended_hash, merge_equal_prefixes, trace_back


def hashed(tokens: tuple[int, ...]) -> int:
    value = torch.zeros((), dtype=torch.int64)
    for token in tokens:
        value = extended_hash(value, torch.tensor(token))
    return int(value)


def test_different_sequences_have_different_hashes() -> None:
    sequences = [tokens for length in range(7) for tokens in itertools.product(range(4), repeat=length)]
    assert len({hashed(tokens) for tokens in sequences}) == len(sequences)


def test_equal_prefixes_add_up_at_the_first() -> None:
    probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.0]])
    prefix_hash = torch.tensor([[5, 6, 5, 5], [1, 2, 3, 2]])
    merged = merge_equal_prefixes(probabilities.log(), prefix_hash).exp()
    assert merged.flatten().tolist() == pytest.approx([0.7, 0.3, 0, 0, 0.4, 0.3, 0.2, 0])


def test_the_way_back_follows_the_parents() -> None:
    """Every entry's whole history is carried forward; the way back must read the same."""
    generator = torch.Generator().manual_seed(0)
    num_frames, num_utterances, beam = 6, 3, 4
    parents = torch.randint(beam, (num_frames, num_utterances, beam), generator=generator)
    tokens = torch.randint(9, parents.shape, generator=generator)
    histories: list[list[list[int]]] = [[[] for _ in range(beam)] for _ in range(num_utterances)]
    for t in range(num_frames):
        histories = [
            [histories[n][parents[t, n, k]] + [int(tokens[t, n, k])] for k in range(beam)]
            for n in range(num_utterances)
        ]
    best = torch.tensor([0, 3, 2])
    assert trace_back(parents, tokens, best).tolist() == [histories[n][k] for n, k in enumerate(best)]
