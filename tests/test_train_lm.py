"""The verb, from prepared cuts to a language model in the lang folder, on texts of a few words."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lhotse import CutSet, MonoCut, SupervisionSegment

from shared_moe_conformer import train_lm
from shared_moe_conformer.config import Config, LmConfig, load_config_of, replace_fields
from shared_moe_conformer.data.tokenizer import Tokenizer, train_tokenizer
from shared_moe_conformer.decoding.neural_lm import NeuralScorer, load_neural_lm
from shared_moe_conformer.lattice.ngram import train_ngram
from shared_moe_conformer.training.folder import load_checkpoint

WORDS = ["ALPHA", "BRAVO", "CHARLIE", "DELTA", "ECHO"]
TEXTS = [f"{WORDS[i % 5]} {WORDS[(i + 1) % 5]}" for i in range(40)]
CONFIGS = {"base": replace_fields(Config(), {"lang_dir": "data/lang"})}
TINY = ("--embedding-dim", "8", "--hidden-dim", "12", "--max-tokens", "60", "--num-threads", "1", "--dropout", "0.1")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe's folder with cuts of texts alone, a tokenizer, a 2-gram over tokens, and a 3-gram over others."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "data/manifests").mkdir(parents=True)
    for split, texts in (("train", TEXTS), ("dev", TEXTS[:5])):
        cuts = [
            MonoCut(f"{split}-{i}", 0.0, 1.0, 0, supervisions=[SupervisionSegment(f"{i}", f"{i}", 0.0, 1.0, text=text)])
            for i, text in enumerate(texts)
        ]
        CutSet.from_cuts(cuts).to_file(folder / f"data/manifests/cuts_{split}.jsonl.gz")
    tokenizer = train_tokenizer(TEXTS, folder / "data/lang", 24)
    sentences = [[tokenizer.pieces[token] for token in spelling] for spelling in tokenizer.encode(TEXTS)]
    train_ngram(sentences, 2, vocabulary=tokenizer.pieces[1:]).save(folder / "data/lang/token_2gram.arpa")
    train_ngram([["other"]], 3).save(folder / "data/lang/token_3gram.arpa")
    return folder


def run(recipe: Path, exp_dir: Path, *arguments: str) -> dict[str, torch.Tensor]:
    """Train and return the weights after epoch 3."""
    flags = ["--exp-dir", str(exp_dir), "--num-epochs", "3", *TINY, *arguments]
    train_lm.main(CONFIGS, recipe_dir=recipe, arguments=flags)
    return load_checkpoint(exp_dir / "epoch-3.pt")["model"]


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_the_best_epoch_goes_beside_the_n_grams(
    recipe: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(recipe, tmp_path / "lm", "--lm-type", kind, "--num-epochs", "12", "--learning-rate", "0.03")
    shown = capsys.readouterr().err
    assert "to go" in shown and re.search(r"epoch 12/12, step \d+: dev nll [\d.]+, perplexity [\d.]+\n", shown)
    assert "tokens per second" in shown and "hours of audio" not in shown
    ending = rf"{kind}_lm.safetensors has the weights of epoch (\d+), with a perplexity of ([\d.]+) per token on dev"
    found = re.search(ending + r" \(token_2gram.arpa ([\d.]+)\)", shown)
    assert found is not None
    best = load_checkpoint(tmp_path / "lm/best-valid-perplexity.pt")
    assert json.loads(best["epoch"]) == int(found[1])
    tokenizer = Tokenizer.load(recipe / "data/lang")
    scorer = NeuralScorer(load_neural_lm(recipe / f"data/lang/{kind}_lm.safetensors", tokenizer.pieces))
    sentences = tokenizer.encode(TEXTS[:5])
    mean = sum(scorer.sentence_scores(sentences)) / sum(len(sentence) + 1 for sentence in sentences)
    perplexity = json.loads(best["valid_perplexity"])
    assert torch.tensor(-mean).exp().item() == pytest.approx(perplexity, rel=1e-4)
    assert perplexity == pytest.approx(float(found[2]), abs=0.006) and perplexity < 1.5 * float(found[3]) < 10
    config = load_config_of(LmConfig, tmp_path / "lm/config.json")
    assert config.model.vocab_size == 24 and config.model.lm_type == kind


def killed_after(num_updates: int, train: Callable[[Callable[[], None]], object]) -> int:
    """The signal that ended a fork of this process, which kills itself after this many updates."""
    process = os.fork()
    if process:
        return os.WTERMSIG(os.waitpid(process, 0)[1])
    updates = []

    def killing() -> None:
        updates.append(1)
        if len(updates) == num_updates:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        train(killing)
    finally:
        os._exit(1)


def test_a_training_that_is_killed_ends_with_the_same_bits(recipe: Path, tmp_path: Path) -> None:
    flags = ("--save-every-n-steps", "2", "--resume", "true")
    whole = run(recipe, tmp_path / "whole", *flags)

    def train(between_steps: Callable[[], None]) -> None:
        train_lm.Termination.check = lambda self: between_steps()  # type: ignore[method-assign]
        run(recipe, tmp_path / "killed", *flags)

    assert [killed_after(n, train) for n in (3, 11)] == [signal.SIGKILL] * 2
    resumed = run(recipe, tmp_path / "killed", *flags)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_other_texts_can_be_trained_on(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts").write_text("ALPHA\n\nECHO\n")
    run(recipe, tmp_path / "lm", "--text", str(tmp_path / "texts"))
    tokenizer = Tokenizer.load(recipe / "data/lang")
    num_tokens = sum(len(tokens) + 1 for tokens in tokenizer.encode(["ALPHA", "ECHO"]))
    assert f", {num_tokens} tokens to train on, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--text", "nowhere"), "give a file with one sentence a line"),
        (("--lang-dir", "data/none"), "run ./prepare.sh first"),
        (("--lm-type", "transformer", "--embedding-dim", "9"), "give a multiple of num_heads"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(
    recipe: Path, tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(recipe, tmp_path / "lm", *arguments)
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1 and not (tmp_path / "lm").exists()


def test_the_texts_are_where_a_recipe_has_its_manifests() -> None:
    german = replace_fields(Config(), {"manifest_dir": "data/de/fbank", "lang_dir": "data/de/lang"})
    assert train_lm._config_for(german).data.manifest_dir == "data/de/manifests"


def test_help_has_the_options_of_texts_alone(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_lm.main(CONFIGS, recipe_dir=recipe, arguments=["--help"])
    shown = capsys.readouterr().out
    assert "--lang-dir STR" in shown and "[data/lang]" in shown and "--max-tokens" in shown
    assert not any(
        name in shown for name in ("--ctc-loss-scale", "--prescan", "--dry-run", "--vocab-size", "--teacher")
    )
