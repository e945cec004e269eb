from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.decoding.hypothesis import Hypothesis

from .conftest import greedy_search


def one_by_one(model, frames: torch.Tensor, *, max_sym_per_frame: int) -> Hypothesis:
    """The definition, for one utterance, with the decoder run over the whole history each time."""
    tokens: list[int] = []
    where: list[int] = []
    score = 0.0
    for t, frame in enumerate(model.joiner.encoder_projection(frames)):
        for _ in range(max_sym_per_frame):
            decoder_out = model.decoder(torch.tensor([[0, *tokens]]))[0, -1]
            log_probs = model.joiner(frame, model.joiner.decoder_projection(decoder_out)).log_softmax(-1)
            token = int(log_probs.argmax())
            score += float(log_probs[token])
            if token == 0:
                break
            tokens.append(token)
            where.append(t)
    return Hypothesis(tokens, where, score)


@pytest.mark.parametrize("max_sym_per_frame", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_batch_gives_what_the_definition_gives_alone(make_model, make_batch, max_sym_per_frame, seed) -> None:
    model = make_model(6, seed=seed)
    x, lens = make_batch([9, 4, 0, 12], seed=seed)
    hyps = greedy_search(model, x, lens, max_sym_per_frame=max_sym_per_frame)
    for frames, num_frames, hyp in zip(x, lens, hyps):
        expected = one_by_one(model, frames[:num_frames], max_sym_per_frame=max_sym_per_frame)
        assert hyp[:2] == expected[:2]
        assert hyp.score == pytest.approx(expected.score, abs=1e-4)
    assert len({tuple(hyp.tokens) for hyp in hyps}) == len(hyps), "the model must tell the utterances apart"


def test_no_more_symbols_in_a_frame_than_allowed(make_model, make_batch) -> None:
    model = make_model(6)
    model.joiner.output.bias[0] = -100.0  # never a blank
    x, lens = make_batch([5, 3])
    hyps = greedy_search(model, x, lens, max_sym_per_frame=2)
    assert [hyp.frames for hyp in hyps] == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4], [0, 0, 1, 1, 2, 2]]
