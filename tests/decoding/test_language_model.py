from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.config import LmModelConfig
from shared_moe_conformer.decoding.neural_lm import EOS, SOS, LanguageModel

KINDS = ("rnn", "transformer")
SENTENCES = [[5, 3, 4, 4, 2], [7, 6], []]


def make_model(kind: str, *, left_context: int = 64) -> LanguageModel:
    torch.manual_seed(0)
    config = LmModelConfig(
        kind, vocab_size=9, embedding_dim=8, hidden_dim=12, num_layers=2, num_heads=2, left_context=left_context
    )
    return LanguageModel(config).eval()


def padded(sentences: list[list[int]], value: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    lens = torch.tensor([len(sentence) for sentence in sentences])
    rows = [torch.tensor(sentence, dtype=torch.int64) for sentence in sentences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value), lens


def step_by_step(model: LanguageModel, sentence: list[int]) -> float:
    """The negative log-likelihood, one token after the other."""
    state, total = model.start(1), 0.0
    for token, following in zip([SOS, *sentence], [*sentence, EOS]):
        log_probs, state = model.step(torch.tensor([token]), state)
        total -= float(log_probs[0, following])
    return total


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_sentence_costs_the_sum_of_its_steps_whatever_is_beside_it(kind: str) -> None:
    model = make_model(kind)
    nll = model(*padded(SENTENCES))
    assert nll.tolist() == pytest.approx([step_by_step(model, sentence) for sentence in SENTENCES], rel=1e-5)
    assert torch.equal(nll, model(*padded(SENTENCES, value=8)))


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_probabilities_of_all_that_may_follow_sum_to_1(kind: str) -> None:
    model = make_model(kind)
    ends = float(model(*padded([[]])).neg().exp())
    longer = sum(float(model.step(torch.tensor([SOS]), model.start(1))[0][0, t].exp()) for t in range(9) if t != EOS)
    assert ends + longer == pytest.approx(1.0, abs=1e-5)


@torch.inference_mode()
def test_a_transformer_forgets_what_is_further_back_than_its_layers_see() -> None:
    model = make_model("transformer", left_context=3)  # two layers see two tokens back each
    ends = []
    for begin in ([3, 5], [4, 5], [4, 6]):
        _, state = model.log_probs(torch.tensor([[*begin, 6, 7, 2]]), model.start(1))
        ends.append(model.step(torch.tensor([8]), state)[0])
    assert torch.allclose(ends[0], ends[1]) and not torch.allclose(ends[1], ends[2])


def test_a_long_whole_is_what_its_steps_are_even_where_the_memory_is_full() -> None:
    model, sentence = make_model("transformer", left_context=4), [2, 3, 4, 5, 6, 7, 8, 2, 3, 5]
    with torch.inference_mode():
        assert float(model(*padded([sentence]))) == pytest.approx(step_by_step(model, sentence), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode(False)
def test_every_parameter_learns(kind: str) -> None:
    model = make_model(kind).train()
    model(*padded(SENTENCES)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3, "lm_type": "transformer"}, "give a multiple of num_heads, 3"),
        ({"lm_type": "gru"}, "give one of rnn, transformer"),
        ({"dropout": 1.0}, "give 0 or more, below 1"),
        ({"left_context": 1}, "give 2 or more"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LmModelConfig(**options)
