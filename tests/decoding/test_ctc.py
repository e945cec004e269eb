from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch

from shared_moe_conformer.decoding.ctc import collapse, peaks

from .conftest import ctc_greedy_search, ctc_prefix_beam_search


class Posteriors(torch.nn.Module):
    """A model whose encoder frames are the posteriors themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.ctc_head = torch.nn.Linear(1, 1)

    def ctc_log_probs(self, encoder_out: torch.Tensor) -> torch.Tensor:
        return encoder_out


POSTERIORS = Posteriors()


def collapsed(labels: tuple[int, ...]) -> tuple[int, ...]:
    """Graves et al. 2006, by the letter: repeated labels merged, then blanks removed."""
    return tuple(label for label, _ in itertools.groupby(labels) if label != 0)


def random_posteriors(lens: list[int], vocab_size: int, *, seed: int, sharpness: float) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(lens), max(lens), vocab_size, generator=generator)
    return (sharpness * logits).log_softmax(-1), torch.tensor(lens)


def probabilities(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """The probability of every token sequence, by summing over all alignments."""
    total: dict[tuple[int, ...], float] = defaultdict(float)
    for labels in itertools.product(range(log_probs.size(1)), repeat=len(log_probs)):
        total[collapsed(labels)] += math.exp(sum(float(row[label]) for row, label in zip(log_probs, labels)))
    return total


def test_collapse_is_the_definition() -> None:
    labels = torch.tensor(list(itertools.product(range(3), repeat=5)))
    assert [tuple(row[row != 0].tolist()) for row in collapse(labels)] == [collapsed(tuple(r)) for r in labels.tolist()]


def test_greedy_search_collapses_the_likeliest_labels() -> None:
    log_probs, lens = random_posteriors([30, 7, 0, 12], 4, seed=0, sharpness=2.0)
    for row, num_frames, hyp in zip(log_probs, lens, ctc_greedy_search(POSTERIORS, log_probs, lens)):
        best = row[:num_frames].max(dim=1)
        assert tuple(hyp.tokens) == collapsed(tuple(best.indices.tolist()))
        assert [int(row[t].argmax()) for t in hyp.frames] == hyp.tokens
        assert hyp.score == pytest.approx(float(best.values.sum()), abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_wide_prefix_beam_sums_all_alignments(seed, sharpness) -> None:
    log_probs, lens = random_posteriors([5, 3, 4, 1], 3, seed=seed, sharpness=sharpness)
    for row, num_frames, hyp in zip(log_probs, lens, ctc_prefix_beam_search(POSTERIORS, log_probs, lens, beam_size=64)):
        exact = probabilities(row[:num_frames])
        assert tuple(hyp.tokens) == max(exact, key=lambda tokens: exact[tokens])
        assert hyp.score == pytest.approx(math.log(exact[tuple(hyp.tokens)]), abs=1e-4)


def prefix_beam(log_probs: torch.Tensor, *, beam: int) -> dict[tuple[int, ...], float]:
    """Hannun et al. 2014 with a dictionary: the probabilities of the prefixes that a pruned beam holds at the end."""
    ends = {(): (1.0, 0.0)}  # prefix -> probability with a blank last, with its last token last
    for row in log_probs.exp().tolist():
        after: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for prefix, (blank, token) in ends.items():
            after[prefix][0] += (blank + token) * row[0]
            for label, probability in enumerate(row[1:], start=1):
                repeats = prefix[-1:] == (label,)
                after[prefix][1] += token * probability * repeats
                after[(*prefix, label)][1] += (blank if repeats else blank + token) * probability
        best = sorted(after, key=lambda prefix: -sum(after[prefix]))[:beam]
        ends = {prefix: (after[prefix][0], after[prefix][1]) for prefix in best}
    return {prefix: sum(both) for prefix, both in ends.items()}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("beam", [1, 2, 5, 8])
def test_narrow_prefix_beam_is_the_algorithm(beam, seed) -> None:
    """Also where the beam is wider than the first frames have prefixes for it."""
    log_probs, lens = random_posteriors([12, 7, 9], 3, seed=seed, sharpness=1.0)
    for row, num_frames, hyp in zip(
        log_probs, lens, ctc_prefix_beam_search(POSTERIORS, log_probs, lens, beam_size=beam)
    ):
        expected = prefix_beam(row[:num_frames], beam=beam)
        assert tuple(hyp.tokens) == max(expected, key=lambda prefix: expected[prefix])
        assert hyp.score == pytest.approx(math.log(expected[tuple(hyp.tokens)]), abs=1e-4)


@pytest.mark.parametrize("beam", [1, 2, 4, 16])
def test_no_beam_finds_more_than_there_is(beam) -> None:
    """The score is at most the sum over all alignments of the tokens, which the CTC loss knows."""
    log_probs, lens = random_posteriors([40, 25, 12, 30], 6, seed=3, sharpness=1.5)
    for row, num_frames, hyp in zip(
        log_probs, lens, ctc_prefix_beam_search(POSTERIORS, log_probs, lens, beam_size=beam)
    ):
        tokens = torch.tensor([hyp.tokens])
        exact = -torch.nn.functional.ctc_loss(
            row[:num_frames, None], tokens, num_frames[None], torch.tensor([tokens.size(1)]), reduction="sum"
        )
        assert hyp.score <= float(exact) + 1e-3
        assert len(hyp.tokens) > 0


def test_prefix_beam_finds_what_greedy_search_misses() -> None:
    """Two frames, blank 0.6 and a token 0.4 each: empty has 0.36, the token 0.64 (Hannun et al. 2014)."""
    log_probs = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]]).log()
    assert ctc_greedy_search(POSTERIORS, log_probs, torch.tensor([2]))[0].tokens == []
    (hyp,) = ctc_prefix_beam_search(POSTERIORS, log_probs, torch.tensor([2]), beam_size=2)
    assert hyp.tokens == [1]
    assert hyp.score == pytest.approx(math.log(0.64))


def test_prefix_beam_batch_mates_change_nothing() -> None:
    log_probs, lens = random_posteriors([20, 0, 7, 13], 5, seed=5, sharpness=1.0)
    for row, num_frames, hyp in zip(log_probs, lens, ctc_prefix_beam_search(POSTERIORS, log_probs, lens, beam_size=3)):
        (alone,) = ctc_prefix_beam_search(POSTERIORS, row[None, :num_frames], num_frames[None], beam_size=3)
        assert alone[:2] == hyp[:2]
        assert alone.score == pytest.approx(hyp.score, abs=1e-4)


def test_prefix_beam_keeps_the_frames_of_the_likeliest_way() -> None:
    """Token 1 is barely possible in frame 0 and nearly certain in frame 3: it belongs to frame 3."""
    log_probs = torch.full((1, 6, 3), 1e-4)
    log_probs[0, :, 0] = 1.0
    log_probs[0, 0, 1] = 0.01
    log_probs[0, 3, 0], log_probs[0, 3, 1] = 1e-4, 1.0
    (hyp,) = ctc_prefix_beam_search(POSTERIORS, log_probs.log(), torch.tensor([6]), beam_size=4)
    assert (hyp.tokens, hyp.frames) == ([1], [3])


def test_a_token_is_as_sure_as_its_highest_posterior_until_the_next_one() -> None:
    generator = torch.Generator().manual_seed(5)
    log_probs = torch.randn(3, 8, 4, generator=generator).log_softmax(-1)
    path = torch.tensor([[0, 2, 0, 0, 3, 3, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1], [0] * 8])
    begin = torch.arange(8).where(path > 0, torch.zeros_like(path)).cummax(dim=1).values
    last = path.gather(1, begin)
    sure = peaks(log_probs.exp().gather(2, last.unsqueeze(2)).squeeze(2), path)
    for row, frames, probs in zip(sure, path, log_probs.exp()):
        begins = frames.nonzero().squeeze(1).tolist()
        for begin, end in zip(begins, [*begins[1:], len(frames)]):
            assert float(row[begin]) == pytest.approx(float(probs[begin:end, frames[begin]].max()))


@pytest.mark.parametrize("search", [ctc_greedy_search, ctc_prefix_beam_search])
def test_every_token_has_a_confidence(search, make_model, make_batch) -> None:
    hyps = search(make_model(7), *make_batch([12, 0, 5]))
    assert all(len(hyp.confidences) == len(hyp.tokens) for hyp in hyps) and hyps[0].tokens
    assert all(0 < confidence <= 1 for hyp in hyps for confidence in hyp.confidences)
