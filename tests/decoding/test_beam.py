from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch

from shared_moe_conformer.decoding.beam import extended_hash, merge_equal_prefixes, trace_back
from shared_moe_conformer.decoding.scorers import PrefixScorer, phrase_scorer
from tests.decoding.conftest import total

from .conftest import greedy_search, modified_beam_search


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
    for frames, num_frames, hyp in zip(x, lens, modified_beam_search(model, x, lens, beam_size=40)):
        exact = probabilities(model, frames[:num_frames])
        assert sum(exact.values()) == pytest.approx(1.0, abs=1e-5)
        per_token = {tokens: math.log(p) / (len(tokens) + model.decoder.context_size) for tokens, p in exact.items()}
        assert tuple(hyp.tokens) == max(per_token, key=lambda tokens: per_token[tokens])
        assert hyp.score == pytest.approx(math.log(exact[tuple(hyp.tokens)]), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_beam_of_one_is_greedy_search(make_model, make_batch, seed) -> None:
    model = make_model(7, seed=seed)
    x, lens = make_batch([15, 3, 8, 0], seed=seed)
    greedy, beam = greedy_search(model, x, lens), modified_beam_search(model, x, lens, beam_size=1)
    assert [hyp[:2] for hyp in beam] == [hyp[:2] for hyp in greedy]
    assert [hyp.score for hyp in beam] == pytest.approx([hyp.score for hyp in greedy], abs=1e-4)
    assert any(hyp.tokens for hyp in greedy)


def test_batch_mates_change_nothing(make_model, make_batch) -> None:
    model = make_model(7, sharpness=2.0)
    x, lens = make_batch([15, 3, 8, 1])
    together = modified_beam_search(model, x, lens, beam_size=4)
    for frames, num_frames, hyp in zip(x, lens.tolist(), together):
        (alone,) = modified_beam_search(model, frames[None, :num_frames], torch.tensor([num_frames]), beam_size=4)
        assert alone[:2] == hyp[:2]
        assert alone.score == pytest.approx(hyp.score, abs=1e-4)


def test_frames_are_those_of_the_tokens(make_model, make_batch) -> None:
    """Where the model is sure of itself, the beam finds each token at the frame at which greedy search finds it."""
    model = make_model(7, sharpness=40.0)
    x, lens = make_batch([15, 9])
    greedy, beam = greedy_search(model, x, lens), modified_beam_search(model, x, lens, beam_size=4)
    assert [hyp[:2] for hyp in beam] == [hyp[:2] for hyp in greedy]


SCORERS = {
    "lm": PrefixScorer(
        torch.tensor([[0, 1, 0], [1, 0, 1]]), torch.tensor([[0.0, -0.3, -2.0], [0.0, -1.5, -0.2]]), *torch.zeros(2, 2)
    ),
    "low_order": PrefixScorer(
        torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[0.0, -0.4, -1.6]]), *torch.zeros(2, 1)
    ),
    "hotwords": phrase_scorer([[2, 1]], vocab_size=3),
}


def searched(model, x, lens, *, lm_scale=0.0, lodr_scale=0.0, hotwords_score=0.0, **options):
    """What is found with the named scorers at these scales."""
    scales = {"lm": lm_scale, "low_order": -lodr_scale, "hotwords": hotwords_score}
    scorers = [SCORERS[name].scaled(scale) for name, scale in scales.items()]
    return modified_beam_search(model, x, lens, scorers=scorers, **options)


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_is_brute_force_over_all_fused_scores(make_model, make_batch, seed) -> None:
    model = make_model(3, seed=seed, sharpness=1.5)
    x, lens = make_batch([4, 3], seed=seed)
    hyps = searched(model, x, lens, beam_size=40, lm_scale=0.7, lodr_scale=0.3, hotwords_score=0.9)
    for frames, num_frames, hyp in zip(x, lens, hyps):
        fused = {
            tokens: math.log(p)
            + 0.7 * total(SCORERS["lm"], tokens)
            - 0.3 * total(SCORERS["low_order"], tokens)
            + 0.9 * total(SCORERS["hotwords"], tokens)
            for tokens, p in probabilities(model, frames[:num_frames]).items()
        }
        per_token = {tokens: score / (len(tokens) + model.decoder.context_size) for tokens, score in fused.items()}
        assert tuple(hyp.tokens) == max(per_token, key=lambda tokens: per_token[tokens])
        assert hyp.score == pytest.approx(fused[tuple(hyp.tokens)], abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_scales_of_zero_change_nothing(make_model, make_batch, seed) -> None:
    model = make_model(3, seed=seed)
    x, lens = make_batch([9, 4, 0], seed=seed)
    plain = modified_beam_search(model, x, lens)
    assert searched(model, x, lens) == plain
    assert [hyp.score for hyp in searched(model, x, lens, lm_scale=0.5)] != [hyp.score for hyp in plain]


@pytest.mark.parametrize("seed", range(6))
def test_no_beam_finds_more_than_the_one_that_holds_all(make_model, make_batch, seed) -> None:
    """A narrow beam may score better than a wider one, since each drops other alignments; none beats the widest."""
    model = make_model(3, seed=seed, sharpness=2.0)
    x, lens = make_batch([4, 3], seed=seed)

    def per_token(beam: int) -> list[float]:
        hyps = modified_beam_search(model, x, lens, beam_size=beam)
        return [hyp.score / (len(hyp.tokens) + model.decoder.context_size) for hyp in hyps]

    widest = per_token(40)
    for beam in (1, 2, 3, 5, 8):
        assert all(score <= best + 1e-5 for score, best in zip(per_token(beam), widest))


def test_confidences_are_the_models_probabilities(make_model, make_batch) -> None:
    model = make_model(7, seed=1)
    x, lens = make_batch([12, 6])
    for search in (greedy_search, modified_beam_search):
        for frames, hyp in zip(model.joiner.encoder_projection(x), search(model, x, lens)):
            assert hyp.confidences is not None and len(hyp.confidences) == len(hyp.tokens) > 0
            for position, (token, frame) in enumerate(zip(hyp.tokens, hyp.frames)):
                decoder_out = model.decoder(torch.tensor([[0, *hyp.tokens[:position]]]))[0, -1]
                probs = model.joiner(frames[frame], model.joiner.decoder_projection(decoder_out)).softmax(-1)
                assert hyp.confidences[position] == pytest.approx(float(probs[token]), abs=1e-5)


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
