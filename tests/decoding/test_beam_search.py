from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch

from shared_moe_conformer.decoding.beam_search import modified_beam_search
from shared_moe_conformer.decoding.greedy import greedy_search


def probabilities(model, frames: torch.Tensor) -> dict[tuple[int, ...], float]:
    """The probability of every token sequence, by summing over all alignments with at most one token per frame."""
    total: dict[tuple[int, ...], float] = defaultdict(float)
    projected = model.joiner.encoder_projection(frames)
    for alignment in itertools.product(range(model.decoder.vocab_size), repeat=len(frames)):
        tokens: tuple[int, ...] = ()
        log_prob = 0.0
        for frame, label in zip(projected, alignment):
            decoder_out = model.decoder(torch.tensor([[0, *tokens]]))[0, -1]
            log_prob += float(model.joiner(frame, model.joiner.decoder_projection(decoder_out)).log_softmax(-1)[label])
            tokens += (label,) * (label != 0)
        total[tokens] += math.exp(log_prob)
    return total


@pytest.mark.parametrize("seed", range(4))
def test_wide_beam_sums_all_alignments(make_model, make_batch, seed) -> None:
    model = make_model(3, seed=seed, sharpness=1.5)
    x, lens = make_batch([4, 3], seed=seed)
    for frames, num_frames, hyp in zip(x, lens, modified_beam_search(model, x, lens, beam=40)):
        exact = probabilities(model, frames[:num_frames])
        assert sum(exact.values()) == pytest.approx(1.0, abs=1e-5)
        per_token = {tokens: math.log(p) / (len(tokens) + model.decoder.context_size) for tokens, p in exact.items()}
        assert tuple(hyp.tokens) == max(per_token, key=lambda tokens: per_token[tokens])
        assert hyp.score == pytest.approx(math.log(exact[tuple(hyp.tokens)]), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_beam_of_one_is_greedy_search(make_model, make_batch, seed) -> None:
    model = make_model(7, seed=seed)
    x, lens = make_batch([15, 3, 8, 0], seed=seed)
    greedy, beam = greedy_search(model, x, lens), modified_beam_search(model, x, lens, beam=1)
    assert [hyp[:2] for hyp in beam] == [hyp[:2] for hyp in greedy]
    assert [hyp.score for hyp in beam] == pytest.approx([hyp.score for hyp in greedy], abs=1e-4)
    assert any(hyp.tokens for hyp in greedy)


def test_batch_mates_change_nothing(make_model, make_batch) -> None:
    model = make_model(7, sharpness=2.0)
    x, lens = make_batch([15, 3, 8, 1])
    together = modified_beam_search(model, x, lens, beam=4)
    for frames, num_frames, hyp in zip(x, lens.tolist(), together):
        (alone,) = modified_beam_search(model, frames[None, :num_frames], torch.tensor([num_frames]), beam=4)
        assert alone[:2] == hyp[:2]
        assert alone.score == pytest.approx(hyp.score, abs=1e-4)


def test_frames_are_those_of_the_tokens(make_model, make_batch) -> None:
    """Where the model is sure of itself, the beam finds each token at the frame at which greedy search finds it."""
    model = make_model(7, sharpness=40.0)
    x, lens = make_batch([15, 9])
    greedy, beam = greedy_search(model, x, lens), modified_beam_search(model, x, lens, beam=4)
    assert [hyp[:2] for hyp in beam] == [hyp[:2] for hyp in greedy]
