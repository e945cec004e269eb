"""Searches of frames whose scores do not depend on the context, so that sums over paths are products over frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from shared_moe_conformer.lattice.graphs import Graph, graph_of_arcs

pytest.importorskip("k2")

from shared_moe_conformer.lattice.k2_engine import TransducerLattices, search

VOCAB = 4


def any_tokens() -> Graph:
    arcs = np.array([(0, 0, token, token) for token in range(1, VOCAB)])
    return graph_of_arcs(arcs, np.zeros(len(arcs)), final_state=[0], final_weight=[0.0])


def lattices_of(log_probs: torch.Tensor, lens: torch.Tensor, **widths: float) -> TransducerLattices:
    certain_blank = torch.full((VOCAB,), -torch.inf)
    certain_blank[0] = 0.0

    def next_log_probs(t: int, utterances: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        assert contexts.shape == (len(utterances), 2)
        there = t < lens[utterances]
        return log_probs[utterances, min(t, log_probs.size(1) - 1)].where(there.unsqueeze(1), certain_blank)

    options = {"beam": 50.0, "max_contexts": 200, "max_states": 200, **widths}
    return search(next_log_probs, lens, any_tokens(), vocab_size=VOCAB, context_size=2, **options)


@pytest.fixture
def log_probs() -> torch.Tensor:
    return torch.randn(3, 5, VOCAB, generator=torch.Generator().manual_seed(3)).log_softmax(-1)


def test_the_last_frame_is_in_the_lattice(log_probs: torch.Tensor) -> None:
    lens = torch.tensor([5, 0, 2])
    lattices = lattices_of(log_probs, lens)
    assert lattices.lattice.get_tot_scores(True, True).tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    for (path, scores), row, num_frames in zip(lattices.one_best(), log_probs, lens.tolist()):
        best = row[:num_frames].max(dim=1)
        assert path.frame_labels == best.indices.tolist()
        assert scores == pytest.approx(best.values.tolist())
        assert path.score == pytest.approx(float(best.values.sum()), abs=1e-5)
        assert path.output_labels == [label for label in path.frame_labels if label]


def test_totals_sum_over_the_places_of_tokens(log_probs: torch.Tensor) -> None:
    lattices = lattices_of(log_probs, torch.tensor([5, 5, 5]))
    totals = lattices.total_scores([[[2], []], [[3]], []])
    for index, token in ((0, 2), (1, 3)):
        row = log_probs[index].double()
        expected = sum(math.exp(row[:, 0].sum() - row[t, 0] + row[t, token]) for t in range(5))
        assert totals[index][0] == pytest.approx(math.log(expected), abs=1e-4)
    assert totals[0][1] == pytest.approx(float(log_probs[0, :, 0].sum()), abs=1e-4) and totals[2] == []


def test_drawn_outputs_differ_and_are_the_same_each_time(log_probs: torch.Tensor) -> None:
    lattices = lattices_of(log_probs, torch.tensor([5, 0, 2]))
    drawn = lattices.sampled_outputs(num_paths=300, nbest_scale=1.0)
    assert drawn == lattices.sampled_outputs(num_paths=300, nbest_scale=1.0)
    assert all(len({tuple(output) for output in of_one}) == len(of_one) for of_one in drawn)
    assert len(drawn[0]) > 20 and drawn[1] == [()] and len(drawn[2]) == 1 + 3 + 9
    aligned = lattices.aligned([of_one[-1] for of_one in drawn])
    assert [tuple(path.output_labels) for path, _ in aligned] == [of_one[-1] for of_one in drawn]


def test_narrow_searches_keep_less(log_probs: torch.Tensor) -> None:
    lens = torch.tensor([5, 5, 5])
    wide, narrow = (lattices_of(log_probs, lens, beam=beam).lattice.num_arcs for beam in (50.0, 0.5))
    assert narrow < wide
    assert lattices_of(log_probs, lens, max_contexts=1, max_states=1).lattice.num_arcs < wide
