from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.decoding.beam import ModifiedBeamSearch
from shared_moe_conformer.decoding.ctc import CtcGreedySearch, CtcPrefixBeamSearch
from shared_moe_conformer.decoding.greedy import GreedySearch
from shared_moe_conformer.decoding.hypothesis import (
    Chunk,
    Hypothesis,
    hypotheses,
    joined,
    search_utterances,
    valid_frames,
)
from shared_moe_conformer.decoding.scorers import phrase_scorer
from shared_moe_conformer.model.asr_model import AsrModel

from .conftest import frames_of, recogniser

VOCAB_SIZE = 6


def test_tokens_and_their_frames_in_order() -> None:
    tokens = torch.tensor([[[4, 5], [0, 0], [6, 0]], [[0, 0], [0, 0], [0, 0]]])
    confidences = tokens / 8
    valid = torch.tensor([[True, True, True], [True, False, False]])
    assert hypotheses(Chunk(tokens, confidences, valid), [-1.5, -2.0]) == [
        Hypothesis([4, 5, 6], [0, 0, 2], -1.5, confidences=[0.5, 0.625, 0.75]),
        Hypothesis([], [], -2.0, confidences=[]),
    ]


def test_padding_between_chunks_is_not_counted() -> None:
    first = Chunk(torch.tensor([[4, 0], [5, 5]]), torch.ones(2, 2), torch.tensor([[True, False], [True, True]]))
    second = Chunk(torch.tensor([[6], [7]]), torch.ones(2, 1), torch.tensor([[True], [True]]))
    both = hypotheses(joined([first, second]), [0.0, 0.0])
    assert [hyp[:2] for hyp in both] == [([4, 6], [0, 1]), ([5, 5, 7], [0, 1, 2])]


def test_valid_frames() -> None:
    assert valid_frames(torch.zeros(2, 3, 1), torch.tensor([3, 1])).tolist() == [[True] * 3, [True, False, False]]


def searches(model: AsrModel) -> list[Any]:
    hotwords = phrase_scorer([[2, 3], [1]], vocab_size=VOCAB_SIZE).scaled(0.75)
    return [
        GreedySearch(model),
        GreedySearch(model, max_sym_per_frame=3, blank_penalty=1.5),
        ModifiedBeamSearch(model, beam_size=3),
        ModifiedBeamSearch(model, beam_size=4, blank_penalty=0.5, scorers=[hotwords]),
        CtcGreedySearch(model),
        CtcPrefixBeamSearch(model, beam_size=3),
    ]


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Multiples of 1/16: their products add up exactly, in whatever order a matrix product takes them."""
    return (16 * values).round() / 16


def exact_model(seed: int) -> AsrModel:
    """One whose frames are projected to the same bits whatever chunk they are in."""
    model = recogniser(VOCAB_SIZE, seed=seed, sharpness=2.0)
    for layer in (model.joiner.encoder_projection, model.ctc_head):
        for values in layer.parameters():
            values.copy_(rounded(values))
    return model


@st.composite
def chunked_lens(draw: st.DrawFn) -> list[list[int]]:
    """How many frames of each utterance each of several chunks holds."""
    num_utterances = draw(st.integers(1, 3))
    lens = st.lists(st.integers(0, 9), min_size=num_utterances, max_size=num_utterances)
    return draw(st.lists(lens, min_size=1, max_size=5))


@pytest.mark.parametrize("number", range(6))
@settings(deadline=None, max_examples=40)
@given(lens=chunked_lens(), seed=st.integers(0, 50))
def test_chunks_change_nothing(number: int, lens: list[list[int]], seed: int) -> None:
    """After every chunk the hypotheses are exactly those of the frames so far in one chunk: scores and all."""
    with torch.inference_mode():
        search = searches(exact_model(seed))[number]
        totals = torch.tensor(lens).sum(dim=0).tolist()
        frames = [rounded(frames_of([total], seed=seed + n)[0])[0] for n, total in enumerate(totals)]
        state, begins, seen = search.start(len(totals)), [0] * len(totals), []
        for of_chunk in lens:
            ends = [begin + length for begin, length in zip(begins, of_chunk)]
            parts = [rows[begin:end] for rows, begin, end in zip(frames, begins, ends)]
            state = search.advance(state, padded(parts), torch.tensor(of_chunk))
            whole = padded([rows[:end] for rows, end in zip(frames, ends)])
            expected = search_utterances(search, whole, torch.tensor(ends))
            assert search.finish(state) == expected
            seen.append((state, expected))
            begins = ends
        assert all(search.finish(state) == expected for state, expected in seen), "no call changes a state"
        assert all(len(hyp.confidences) == len(hyp.tokens) == len(hyp.frames) for hyp in expected)


@settings(deadline=None, max_examples=40)
@given(lens=chunked_lens(), seed=st.integers(0, 50), beam_size=st.sampled_from([1, 3]))
def test_a_segment_that_goes_on_neither_loses_nor_doubles_tokens(
    lens: list[list[int]], seed: int, beam_size: int
) -> None:
    """With one hypothesis kept, the tokens of all segments are those of the whole."""
    with torch.inference_mode():
        model = exact_model(seed)
        greedy = [GreedySearch(model), GreedySearch(model, max_sym_per_frame=3), CtcGreedySearch(model)]
        beams = [ModifiedBeamSearch(model, beam_size=beam_size), CtcPrefixBeamSearch(model, beam_size=beam_size)]
        for search in (*greedy, *beams):
            state, found = search.start(len(lens[0])), [[] for _ in lens[0]]
            parts = [[rounded(frames_of([n], seed=seed + i)[0])[0][:n] for i, n in enumerate(each)] for each in lens]
            for rows in parts:
                state = search.advance(state, padded(rows), torch.tensor([len(each) for each in rows]))
                for tokens, hyp in zip(found, search.finish(state)):
                    assert len(hyp.confidences) == len(hyp.tokens) == len(hyp.frames)
                    tokens += hyp.tokens
                state = search.next_segment(state)
                assert [hyp.tokens for hyp in search.finish(state)] == [[] for _ in found]
            whole = [torch.cat(rows) for rows in zip(*parts)]
            expected = search_utterances(search, padded(whole), torch.tensor([len(each) for each in whole]))
            if search in greedy or beam_size == 1:
                assert found == [hyp.tokens for hyp in expected]


def padded(rows: list[torch.Tensor]) -> torch.Tensor:
    """A batch with numbers in its padding that would give tokens."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=3.0)


@pytest.mark.parametrize("number", range(6))
def test_nothing_is_found_before_the_first_frame_and_in_a_batch_of_nothing(number: int) -> None:
    search = searches(exact_model(0))[number]
    assert [hyp.tokens for hyp in search.finish(search.start(2))] == [[], []]
    frames, lens = frames_of([3], seed=0)
    assert search_utterances(search, frames[:0], lens[:0]) == []


def test_a_penalty_of_blank_gives_more_tokens(make_model, make_batch) -> None:
    model, batch = make_model(VOCAB_SIZE), make_batch([30, 12])
    for search in (GreedySearch, ModifiedBeamSearch):
        lengths = [
            sum(len(hyp.tokens) for hyp in search_utterances(search(model, blank_penalty=penalty), *batch))
            for penalty in (-3.0, 0.0, 3.0)
        ]
        assert lengths == sorted(set(lengths)), "each is more than the one before"


def test_a_penalty_is_a_bias_of_blank(make_model, make_batch) -> None:
    model, batch = make_model(VOCAB_SIZE), make_batch([20, 7])
    penalised = [search_utterances(s(model, blank_penalty=0.75), *batch) for s in (GreedySearch, ModifiedBeamSearch)]
    model.joiner.output.bias[0] -= 0.75
    for search, hyps in zip((GreedySearch, ModifiedBeamSearch), penalised):
        expected = search_utterances(search(model), *batch)
        assert [hyp.tokens for hyp in hyps] == [hyp.tokens for hyp in expected]
        assert [hyp.score for hyp in hyps] == pytest.approx([hyp.score for hyp in expected], abs=1e-4)
