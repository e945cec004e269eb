from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.decoding import k2 as searches
from shared_moe_conformer.decoding.hypothesis import Hypothesis, search_utterances
from shared_moe_conformer.decoding.options import NOTHING, DecodingConfig, Resources
from shared_moe_conformer.lattice.graphs import WordGraph, graph_of_arcs

from .conftest import frames_of, greedy_search, modified_beam_search, recogniser
from .test_beam import probabilities

pytest.importorskip("k2")

WIDE = {"beam": 100.0, "max_contexts": 1000, "max_states": 1000}


def fast_beam_search(model, x, lens, **options) -> list[Hypothesis]:
    return search_utterances(searches.fast_beam_search(model, DecodingConfig(**options), NOTHING), x, lens)


def fast_beam_search_nbest(model, x, lens, *, token_word_graph: WordGraph | None = None, **options) -> list[Hypothesis]:
    method = searches.fast_beam_search_nbest_lg if token_word_graph else searches.fast_beam_search_nbest
    search = method(model, DecodingConfig(**options), Resources(token_word_graph=token_word_graph))
    return search_utterances(search, x, lens)


def alignments(model, frames: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Log-probability of every alignment, by the definition."""
    scores = {}
    projected = model.joiner.encoder_projection(frames)
    for labels in itertools.product(range(model.decoder.vocab_size), repeat=len(frames)):
        tokens: list[int] = []
        score = 0.0
        for frame, label in zip(projected, labels):
            decoder_out = model.decoder(torch.tensor([[0, *tokens]]))[0, -1]
            score += float(model.joiner(frame, model.joiner.decoder_projection(decoder_out)).log_softmax(-1)[label])
            tokens += [label] * (label != 0)
        scores[labels] = score
    return scores


@pytest.mark.parametrize("seed", range(2))
def test_the_best_alignment_is_found(make_model, make_batch, seed) -> None:
    model = make_model(3, seed=seed, sharpness=1.5)
    x, lens = make_batch([5, 3, 1], seed=seed)
    for frames, num_frames, hyp in zip(x, lens, fast_beam_search(model, x, lens, **WIDE)):
        exact = alignments(model, frames[:num_frames])
        best = max(exact, key=lambda labels: exact[labels])
        assert hyp.tokens == [label for label in best if label]
        assert hyp.frames == [frame for frame, label in enumerate(best) if label]
        assert hyp.score == pytest.approx(exact[best], abs=1e-4)


@pytest.mark.parametrize("seed", range(2))
def test_nbest_is_the_likeliest_token_sequence(make_model, make_batch, seed) -> None:
    model = make_model(3, seed=seed, sharpness=1.5)
    x, lens = make_batch([4, 3], seed=seed)
    hyps = fast_beam_search_nbest(model, x, lens, **WIDE, num_paths=500)
    for frames, num_frames, hyp in zip(x, lens, hyps):
        exact = probabilities(model, frames[:num_frames])
        assert tuple(hyp.tokens) == max(exact, key=lambda tokens: exact[tokens])


def toy_words() -> WordGraph:
    """A is token 1, B is tokens 2 and 1; B costs half a nat and ending another one."""
    arcs = np.array([(0, 0, 1, 1), (0, 1, 2, 0), (1, 0, 1, 2)])
    weight = np.array([-0.25, -0.5, 0.0])
    return WordGraph(graph_of_arcs(arcs, weight, final_state=[0], final_weight=[-1.0]), ["<eps>", "A", "B"])


def words_of(tokens: tuple[int, ...]) -> tuple[str, ...] | None:
    """Of the toy graph; None where the last word is not complete or the tokens are no words."""
    words: list[str] = []
    rest = list(tokens)
    while rest:
        if rest[0] == 1:
            words, rest = [*words, "A"], rest[1:]
        elif rest[:2] == [2, 1]:
            words, rest = [*words, "B"], rest[2:]
        else:
            return None
    return tuple(words)


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(2))
def test_over_words_the_graphs_scores_are_added(make_model, make_batch, seed, scale) -> None:
    model = make_model(3, seed=seed, sharpness=1.5)
    x, lens = make_batch([4, 3], seed=seed)
    hyps = fast_beam_search_nbest(
        model, x, lens, token_word_graph=toy_words(), ngram_lm_scale=scale, **WIDE, num_paths=500
    )
    for frames, num_frames, hyp in zip(x, lens, hyps):
        exact: dict[tuple[str, ...], float] = defaultdict(float)
        for tokens, probability in probabilities(model, frames[:num_frames]).items():
            if (words := words_of(tokens)) is not None:
                graph_score = -0.25 * words.count("A") - 0.5 * words.count("B") - 1.0
                exact[words] += probability * math.exp(scale * graph_score)
        assert tuple(hyp.words or ()) == max(exact, key=lambda words: exact[words])
        assert words_of(tuple(hyp.tokens)) == tuple(hyp.words or ())
        assert len(hyp.word_frames or ()) == len(hyp.words or ())


def test_the_graphs_final_weight_is_not_counted(make_model, make_batch) -> None:
    model = make_model(3, seed=1, sharpness=1.5)
    x, lens = make_batch([4], seed=1)
    (hyp,) = fast_beam_search_nbest(model, x, lens, token_word_graph=toy_words(), ngram_lm_scale=1.0, **WIDE)
    words = tuple(hyp.words or ())
    best = max(
        score
        for labels, score in alignments(model, x[0]).items()
        if words_of(tuple(label for label in labels if label)) == words
    )
    assert words and hyp.score == pytest.approx(best - 0.25 * words.count("A") - 0.5 * words.count("B"), abs=1e-4)


@pytest.mark.parametrize("seed", range(2))
def test_what_differs_from_modified_beam_search(make_model, make_batch, seed) -> None:
    """With beams that hold all, only how the best is chosen: by the sum, by that per token, or by one alignment."""
    model = make_model(3, seed=seed, sharpness=1.5)
    x, lens = make_batch([4, 3], seed=seed)
    modified = modified_beam_search(model, x, lens, beam_size=40)
    lattices = searches.transducer_lattice_finder(model, DecodingConfig(**WIDE))(x, lens).lattices
    totals = lattices.total_scores([[hyp.tokens] for hyp in modified])
    assert [total for (total,) in totals] == pytest.approx([hyp.score for hyp in modified], abs=1e-4)
    likeliest = fast_beam_search_nbest(model, x, lens, **WIDE, num_paths=500)
    for (total,), (more,) in zip(totals, lattices.total_scores([[hyp.tokens] for hyp in likeliest])):
        assert more >= total - 1e-4


def test_a_model_that_is_sure_is_searched_alike_by_all(make_model, make_batch) -> None:
    model = make_model(7, sharpness=40.0)
    x, lens = make_batch([15, 0, 9])
    modified = modified_beam_search(model, x, lens, beam_size=4)
    for search in (fast_beam_search, fast_beam_search_nbest):
        hyps = search(model, x, lens)
        assert [hyp[:2] for hyp in hyps] == [hyp[:2] for hyp in modified]
        assert [hyp.confidences for hyp in hyps] == [pytest.approx(hyp.confidences, abs=1e-4) for hyp in modified]
    assert modified[0].tokens


def test_batch_mates_change_nothing(make_model, make_batch) -> None:
    model = make_model(7, sharpness=2.0)
    x, lens = make_batch([15, 3, 8, 1])
    for frames, num_frames, hyp in zip(x, lens.tolist(), fast_beam_search(model, x, lens)):
        (alone,) = fast_beam_search(model, frames[None, :num_frames], torch.tensor([num_frames]))
        assert alone[:2] == hyp[:2]


def test_an_oracle_finds_what_was_said_if_it_was_drawn(make_model, make_batch) -> None:
    model = make_model(3, seed=2, sharpness=1.0)
    x, lens = make_batch([4, 3])

    def to_text(tokens: list[int]) -> str:
        return " ".join(map(str, tokens))

    said = ["2 1", "1 1 2"]
    options = DecodingConfig(num_paths=2000, nbest_scale=0.2, **WIDE)
    oracle = searches.fast_beam_search_nbest_oracle(model, options, Resources(transcripts=said, to_text=to_text))
    hyps = search_utterances(oracle, x, lens)
    assert [to_text(hyp.tokens) for hyp in hyps] == said
    assert [to_text(hyp.tokens) for hyp in fast_beam_search_nbest(model, x, lens, **WIDE)] != said


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    widened=st.sampled_from(
        [("beam", 0.3), ("beam", 3.0), ("max_contexts", 1), ("max_contexts", 3), ("max_states", 2)]
    ),
)
def test_a_wider_search_never_gives_a_worse_path(seed, widened) -> None:
    model, (x, lens) = recogniser(4, seed=seed, sharpness=1.5), frames_of([6, 4], seed=seed)
    narrow = fast_beam_search(model, x, lens, **{**WIDE, widened[0]: widened[1]})
    wide = fast_beam_search(model, x, lens, **WIDE)
    assert all(w.score >= n.score - 1e-4 for n, w in zip(narrow, wide))


@pytest.mark.parametrize("seed", range(2))
def test_a_penalty_of_blank_counts_as_in_greedy_search(make_model, make_batch, seed) -> None:
    model = make_model(7, seed=seed, sharpness=2.0)
    x, lens = make_batch([15, 4], seed=seed)
    counts = []
    for penalty in (-4.0, 0.0, 4.0):
        best = fast_beam_search(model, x, lens, blank_penalty=penalty, **WIDE)
        greedy = greedy_search(model, x, lens, blank_penalty=penalty)
        assert all(b.score >= g.score - 1e-3 for b, g in zip(best, greedy))
        counts.append(sum(len(hyp.tokens) for hyp in best))
    assert counts == sorted(set(counts)), "each is more than the one before"
