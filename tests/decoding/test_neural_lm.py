from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch

from shared_moe_conformer.config import LmModelConfig
from shared_moe_conformer.decoding.beam import ModifiedBeamSearch, RescoredBeamSearch
from shared_moe_conformer.decoding.hypothesis import search_utterances
from shared_moe_conformer.decoding.neural_lm import (
    LanguageModel,
    NeuralScorer,
    load_neural_lm,
    neural_lm_path,
    save_neural_lm,
)
from tests.decoding.conftest import total
from tests.decoding.test_beam import SCORERS, probabilities

KINDS = ("rnn", "transformer")
PIECES = ["<blk>", "<sos/eos>", "<unk>"]


def make_lm(kind: str, *, vocab_size: int = 3) -> LanguageModel:
    torch.manual_seed(5)
    config = LmModelConfig(kind, vocab_size, embedding_dim=8, hidden_dim=8, num_heads=2, left_context=3)
    model = LanguageModel(config).eval()
    model.embedding.weight.data *= 3
    return model


def fused_score(scorer: NeuralScorer, tokens: tuple[int, ...]) -> float:
    """Sum of the scores of a sequence's tokens, without its end."""
    state, total = scorer.start(1, 1), 0.0
    for token in tokens:
        total += float(scorer.token_scores(state)[0, 0, token])
        state = scorer.advanced(state, torch.tensor([[0]]), torch.tensor([[token]]))
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_beam_is_brute_force_over_all_fused_scores(make_model, make_batch, kind: str) -> None:
    model, scorer = make_model(3, seed=1, sharpness=1.5), NeuralScorer(make_lm(kind))
    x, lens = make_batch([4, 3], seed=1)
    scorers = [scorer.scaled(0.7), SCORERS["low_order"].scaled(-0.3)]
    hyps = search_utterances(ModifiedBeamSearch(model, beam_size=40, scorers=scorers), x, lens)
    for frames, num_frames, hyp in zip(x, lens, hyps):
        fused = {
            tokens: math.log(p) + 0.7 * fused_score(scorer, tokens) - 0.3 * total(SCORERS["low_order"], tokens)
            for tokens, p in probabilities(model, frames[:num_frames]).items()
        }
        per_token = {tokens: score / (len(tokens) + model.decoder.context_size) for tokens, score in fused.items()}
        assert tuple(hyp.tokens) == max(per_token, key=lambda tokens: per_token[tokens])
        assert hyp.score == pytest.approx(fused[tuple(hyp.tokens)], abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_beam_that_is_rescored_is_brute_force_over_whole_sentences(make_model, make_batch, kind: str) -> None:
    model, scorer = make_model(3, seed=2, sharpness=1.5), NeuralScorer(make_lm(kind))
    x, lens = make_batch([4, 3], seed=2)
    lms = [scorer.scaled(0.7), SCORERS["low_order"].scaled(-0.3)]
    hyps = search_utterances(RescoredBeamSearch(ModifiedBeamSearch(model, beam_size=40), lms), x, lens)
    for frames, num_frames, hyp in zip(x, lens, hyps):
        found = {
            tokens: math.log(p) + sum(lm.sentence_scores([tokens])[0] for lm in lms)
            for tokens, p in probabilities(model, frames[:num_frames]).items()
        }
        per_token = {tokens: score / (len(tokens) + model.decoder.context_size) for tokens, score in found.items()}
        assert tuple(hyp.tokens) == max(per_token, key=lambda tokens: per_token[tokens])
        assert hyp.score == pytest.approx(found[tuple(hyp.tokens)], abs=1e-4)


def test_a_beam_that_no_language_model_rescores_is_as_it_was(make_model, make_batch) -> None:
    model = make_model(7, seed=3)
    batch, search = make_batch([12, 0, 5]), ModifiedBeamSearch(model)
    plain, rescored = (search_utterances(s, *batch) for s in (search, RescoredBeamSearch(search, [])))
    assert [hyp[:2] for hyp in plain] == [hyp[:2] for hyp in rescored]
    assert [hyp.score for hyp in plain] == pytest.approx([hyp.score for hyp in rescored])


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_and_batch_mates_change_nothing(make_model, make_batch, kind: str) -> None:
    model, lm = make_model(7, seed=1), NeuralScorer(make_lm(kind, vocab_size=7), scale=0.5)
    search = ModifiedBeamSearch(model, scorers=[lm])
    x, lens = make_batch([12, 6])
    whole = search_utterances(search, x, lens)
    state = search.start(2)
    for begin in range(0, 12, 5):
        state = search.advance(state, x[:, begin : begin + 5], (lens - begin).clamp(min=0, max=5))
    alone = [search_utterances(search, x[i : i + 1, :n], lens[i : i + 1])[0] for i, n in enumerate(lens.tolist())]
    for found in (search.finish(state), alone):
        assert [hyp.tokens for hyp in found] == [hyp.tokens for hyp in whole]
        assert [hyp.score for hyp in found] == pytest.approx([hyp.score for hyp in whole], abs=1e-4)
    assert any(hyp.tokens for hyp in whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_model_back(tmp_path: Path, kind: str) -> None:
    model, sentences = make_lm(kind), [[2, 1, 2], [], [1]]
    path = save_neural_lm(model, neural_lm_path(tmp_path, kind), PIECES)
    assert path.name == f"{kind}_lm.safetensors"
    loaded = load_neural_lm(path, PIECES)
    assert loaded.config == model.config and not loaded.training
    assert NeuralScorer(loaded).sentence_scores(sentences) == NeuralScorer(model).sentence_scores(sentences)


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = neural_lm_path(tmp_path, "rnn")
    with pytest.raises(FileNotFoundError, match="run ./train_lm.py --lm-type rnn"):
        load_neural_lm(path, PIECES)
    save_neural_lm(make_lm("rnn"), path, PIECES)
    with pytest.raises(ValueError, match="its units are not those of tokens.txt"):
        load_neural_lm(path, [*PIECES[:2], "A"])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="run ./train_lm.py again"):
        load_neural_lm(path, PIECES)
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}))
    with pytest.raises(ValueError, match="cannot be used"):
        load_neural_lm(path, PIECES)


@pytest.mark.parametrize("options", [{"vocab_size": 10**9}, {"hidden_dim": 10**9}, {"num_layers": 10**9}])
def test_a_file_cannot_ask_for_memory_that_its_weights_do_not_fill(tmp_path: Path, options: dict[str, int]) -> None:
    model, path = make_lm("rnn"), neural_lm_path(tmp_path, "rnn")
    config = {**vars(model.config), **options}
    about = {"config": json.dumps(config), "pieces": json.dumps(PIECES)}
    path.write_bytes(safetensors.torch.save({k: v.contiguous() for k, v in model.state_dict().items()}, about))
    with pytest.raises(ValueError, match="its config is not that of its weights"):
        load_neural_lm(path, PIECES)
