from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lhotse import CutSet

from shared_moe_conformer.data.manifests import cuts_path, write_manifest
from shared_moe_conformer.data.tokenizer import Tokenizer
from tests.data.conftest import noise_cut
from tests.local.conftest import Result


def test_only_the_training_texts_are_used(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    for split, text in (("train", "SOME WORDS HERE"), ("dev", "XYZ")):
        cuts = CutSet.from_cuts([noise_cut(tmp_path / "audio", split, text, duration=0.5)])
        write_manifest(cuts, cuts_path(tmp_path / "data/manifests", split))
    result = run_local("train_tokenizer", "--vocab-size", 20, "--lang-dir", "data/lang_bpe_20")
    assert result.status == 0
    tokenizer = Tokenizer.load(tmp_path / "data/lang_bpe_20")
    assert tokenizer.vocab_size == 20
    assert tokenizer.unknown_characters("SOME XYZ") == ["X", "Y", "Z"]
    assert "20 units" in result.out and "1 texts" in result.out
    assert run_local("train_tokenizer", "--covered-splits", "dev", "--lang-dir", "data/lang_char").status == 0
    assert sorted(Tokenizer.load(tmp_path / "data/lang_char").pieces[3:]) == sorted("SOMEWRDHXYZ\u2581")


def test_an_impossible_vocabulary_is_one_line(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    cuts = CutSet.from_cuts([noise_cut(tmp_path / "audio", "a", "SOME WORDS", duration=0.5)])
    write_manifest(cuts, cuts_path(tmp_path / "data/manifests", "train"))
    result = run_local("train_tokenizer", "--vocab-size", 999, "--lang-dir", "data/lang")
    assert result.status == 1
    assert result.err.startswith("error: no tokenizer of 999 units") and result.err.count("\n") == 1
    assert not (tmp_path / "data/lang").exists()
