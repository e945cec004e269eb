from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lhotse import CutSet

from shared_moe_conformer.data.manifests import cuts_path, write_manifest
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.lattice.decoding_graph import Lexicon
from tests.data.conftest import noise_cut
from tests.local.conftest import Result


def write_cuts(folder: Path, **texts: str) -> None:
    for split, text in texts.items():
        cuts = CutSet.from_cuts([noise_cut(folder / "audio", split, text, duration=0.5)])
        write_manifest(cuts, cuts_path(folder / "data/manifests", split))


def test_the_training_words_are_spelled_in_the_tokenizers_units(
    tmp_path: Path, run_local: Callable[..., Result]
) -> None:
    write_cuts(tmp_path, train="SOME WORDS SOME MORE", dev="MORE SWORD")
    run_local("train_tokenizer", "--vocab-size", 16, "--lang-dir", "lang")
    result = run_local("prepare_lang", "--lang-dir", "lang", "--held-out-splits", "dev")
    assert result.status == 0 and "lang: 3 words\ndev: 1 of 2 words are not among them" in result.out
    lexicon, tokenizer = Lexicon.load(tmp_path / "lang"), Tokenizer.load(tmp_path / "lang")
    assert list(lexicon.spellings) == ["MORE", "SOME", "WORDS"]
    spelled = [token for word in ("SOME", "WORDS") for token in lexicon.spellings[word]]
    assert spelled == tokenizer.encode(["SOME WORDS"])[0], "a text is spelled as its words are"


def test_of_chinese_each_character_is_a_word(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    write_cuts(tmp_path, train="甚至出现甚")
    run_local("train_tokenizer", "--lang-dir", "lang")
    assert run_local("prepare_lang", "--lang-dir", "lang").status == 0
    lexicon = Lexicon.load(tmp_path / "lang")
    assert sorted(lexicon.spellings) == sorted(set("甚至出现"))
    assert {word: [lexicon.tokens[t] for t in spelling] for word, spelling in lexicon.spellings.items()} == {
        word: [word] for word in lexicon.spellings
    }
    assert "4 words" in run_local("train_ngram", "--order", 2, "--lang-dir", "lang").out


def test_a_word_that_cannot_be_spelled_is_named(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    write_cuts(tmp_path, train="SOME WORDS", dev="SOME XYLOPHONE")
    run_local("train_tokenizer", "--vocab-size", 14, "--lang-dir", "lang")
    result = run_local("prepare_lang", "--lang-dir", "lang", "--split", "dev")
    assert result.status == 1 and result.err.count("\n") == 1
    assert "'XYLOPHONE' has 'H', 'L', 'N', 'P', 'X', 'Y', which no unit of lang holds" in result.err
    assert not (tmp_path / "lang/words.txt").exists()
