from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shared_moe_conformer.config import subsampled_length
from tests.recipes.loading import load
from tests.test_routing import LENS, batches, model

draw_experts = load(Path(__file__).resolve().parents[2] / "docs/draw_experts.py")


def test_mutual_information_of_what_is_the_same_and_of_what_is_independent() -> None:
    assert draw_experts.mutual_information([0, 1, 2, 3], [3, 0, 1, 2]) == pytest.approx(2)
    assert draw_experts.mutual_information([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(0)
    assert draw_experts.mutual_information([0, 0, 1, 1], [0, 1, 2, 2]) == pytest.approx(1), (
        "one label tells the other whole"
    )


def test_chance_explains_nothing_and_the_cause_all_but_chance() -> None:
    generator = np.random.default_rng(1)
    cause = generator.integers(0, 6, 3000)
    choice = cause // 2
    assert draw_experts.explained(choice, cause) == pytest.approx(1, abs=0.01)
    assert draw_experts.explained(choice, generator.integers(0, 60, 3000)) == pytest.approx(0, abs=0.01)
    half = np.where(generator.random(3000) < 0.5, choice, generator.integers(0, 3, 3000))
    assert 0.2 < draw_experts.explained(half, cause) < 0.5
    assert draw_experts.explained([0, 0, 0], [1, 2, 3]) == 0, "there is no choice"


def test_labelled_frames_are_those_of_every_utterance_by_itself() -> None:
    """Units stand in the order of the references, and experts are those that the frames have without batch-mates."""
    found = draw_experts.label_frames(model(), batches())
    lens = [subsampled_length(n) for n in sum(LENS, [])]
    assert found.utterances.bincount().tolist() == lens and len(found.cut_ids) == 3
    assert found.expert_ids.shape == (3, sum(lens)) and found.units.shape == found.loudness.shape == (sum(lens),)
    for n, length in enumerate(lens):
        assert set(found.units[found.utterances == n].tolist()) == {0, 3} or length <= 7
    batch = batches()[1]
    routing = model().encode(batch.x, batch.x_lens).routing
    assert routing is not None and torch.equal(found.expert_ids[:, found.utterances == 2], routing.expert_ids[..., 0])
    with pytest.raises(ValueError, match="no experts"):
        draw_experts.label_frames(model(experts_in="none"), batches())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 2), max_size=3), st.integers(0, 2), st.integers(0, 2**20))
def test_an_alignment_is_the_best_of_all_paths(tokens: list[int], more: int, seed: int) -> None:
    repeats = sum(a == b for a, b in zip(tokens, tokens[1:]))
    num_frames = len(tokens) + repeats + more
    assume(num_frames > 0)
    log_probs = torch.randn(num_frames, 3, generator=torch.Generator().manual_seed(seed)).log_softmax(dim=-1)

    def said(path: tuple[int, ...]) -> list[int]:
        return [unit for unit, before in zip(path, (0, *path)) if unit and unit != before]

    def score(path: tuple[int, ...]) -> float:
        return sum(float(log_probs[frame, unit]) for frame, unit in enumerate(path))

    paths = [path for path in itertools.product(range(3), repeat=num_frames) if said(path) == tokens]
    found = draw_experts.ctc_alignment(log_probs, tokens)
    assert said(tuple(found)) == tokens
    assert score(tuple(found)) == pytest.approx(max(map(score, paths)), abs=1e-5)


def test_units_spread_to_their_neighbours_as_far_as_they_reach() -> None:
    units = torch.tensor([0, 0, 5, 0, 0, 0, 0, 7, 0])
    assert draw_experts.spread(units, 1).tolist() == [0, 5, 5, 5, 0, 0, 7, 7, 7]
    assert draw_experts.spread(units, 9).tolist() == [5, 5, 5, 5, 5, 7, 7, 7, 7]
    assert draw_experts.spread(torch.zeros(3, dtype=torch.int64), 2).tolist() == [0, 0, 0]
