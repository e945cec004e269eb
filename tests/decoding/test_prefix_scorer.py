from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.decoding.prefix_scorer import PrefixScorer


@pytest.fixture
def counter() -> PrefixScorer:
    """Two states; token 2 moves to the other, at 1 nat from state 0; ending in state 1 costs 5."""
    next_state = torch.tensor([[0, 0, 1], [1, 1, 0]])
    return PrefixScorer(next_state, torch.tensor([[0.0, 0.5, 1.0], [0.0, -0.5, 0.0]]), torch.tensor([0.0, -5.0]))


def test_total_follows_the_states(counter: PrefixScorer) -> None:
    assert counter.total([]) == 0.0
    assert counter.total([1, 2, 1]) == pytest.approx(0.5 + 1.0 - 0.5 - 5.0)
    assert counter.total([2, 2, 1]) == pytest.approx(1.0 + 0.0 + 0.5)


def test_scale_multiplies_every_score(counter: PrefixScorer) -> None:
    tokens = [2, 1, 1]
    assert counter.scaled(0.25).total(tokens) == pytest.approx(0.25 * counter.total(tokens))
    assert counter.total(tokens) != 0
    assert counter.to(torch.device("cpu")).total(tokens) == counter.total(tokens)
