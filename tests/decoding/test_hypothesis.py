from __future__ import annotations

import torch

from shared_moe_conformer.decoding.hypothesis import Hypothesis, hypotheses_from_frames, trace_back


def test_tokens_and_their_frames_in_order() -> None:
    tokens = torch.tensor([[[4, 5], [0, 0], [6, 0]], [[0, 0], [0, 0], [0, 0]]])
    hyps = hypotheses_from_frames(tokens, torch.tensor([-1.5, -2.0]))
    assert hyps == [Hypothesis([4, 5, 6], [0, 0, 2], -1.5), Hypothesis([], [], -2.0)]


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


def test_confidences_stand_with_their_tokens() -> None:
    tokens = torch.tensor([[4, 0, 6], [0, 0, 0]])
    sure = torch.tensor([[0.5, 0.0, 0.25], [0.0, 0.0, 0.0]])
    first, second = hypotheses_from_frames(tokens, torch.zeros(2), confidences=sure)
    assert (first.tokens, first.confidences) == ([4, 6], [0.5, 0.25])
    assert second.confidences == []
