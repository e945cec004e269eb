from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.lattice.ngram import NgramModel
from tests.backoff import log_prob
from tests.local.conftest import Result
from tests.local.test_prepare_lang import write_cuts


def test_only_the_training_texts_are_used(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    write_cuts(tmp_path, train="SOME WORDS SOME MORE", dev="OTHERS")
    result = run_local("train_ngram", "--order", 2, "--lang-dir", "lang")
    assert result.status == 0 and "of 3 words" in result.out
    model = NgramModel.load(tmp_path / "lang/G.arpa")
    assert model.order == 2 and model.words == ["MORE", "SOME", "WORDS"]
    assert log_prob(model, "WORDS", ["SOME"]) > log_prob(model, "WORDS", ["MORE"])


def test_an_ngram_to_rescore_with_has_a_name_of_its_own(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    write_cuts(tmp_path, train="SOME WORDS SOME MORE WORDS")
    run_local("train_ngram", "--order", 4, "--name", "G_4_gram.arpa", "--lang-dir", "lang")
    assert NgramModel.load(tmp_path / "lang/G_4_gram.arpa").order == 4
    assert not (tmp_path / "lang/G.arpa").exists()


def test_an_impossible_order_is_one_line(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    write_cuts(tmp_path, train="SOME WORDS")
    result = run_local("train_ngram", "--order", 0, "--lang-dir", "lang")
    assert result.status == 1 and result.err.startswith("error: the order of the n-gram is 0")


def test_over_tokens_every_unit_has_a_probability(
    tmp_path: Path, lang_dir: Path, run_local: Callable[..., Result]
) -> None:
    write_cuts(tmp_path, train="ONE TWO THREE ONE TWO")
    shutil.copytree(lang_dir, tmp_path / "lang")
    result = run_local("train_ngram", "--unit", "token", "--order", 2, "--lang-dir", "lang")
    assert result.status == 0 and "of 39 tokens" in result.out
    model = NgramModel.load(tmp_path / "lang/token_2gram.arpa")
    tokenizer = Tokenizer.load(lang_dir)
    assert set(model.words) == set(tokenizer.pieces[1:])
    first, second = (tokenizer.pieces[token] for token in tokenizer.encode(["TWO"])[0][:2])
    assert log_prob(model, second, [first]) > log_prob(model, "<unk>", [first]) > -20
