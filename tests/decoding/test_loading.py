from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.decoding.loading import load_resources, token_ngram_path
from shared_moe_conformer.decoding.methods import DecodingConfig
from shared_moe_conformer.lattice.kneser_ney import train_ngram

PLAIN = DecodingConfig()
FUSED = DecodingConfig(decoding_method="modified_beam_search_lm_shallow_fusion", lm_order=3)
LODR = DecodingConfig(decoding_method="modified_beam_search_LODR", lm_order=3)


@pytest.fixture
def units(lang_dir: Path) -> Tokenizer:
    return Tokenizer.load(lang_dir)


def save_ngram(folder: Path, units: Tokenizer, order: int) -> None:
    train_ngram([units.pieces[3:8]], order, vocabulary=units.pieces[1:]).save(token_ngram_path(folder, order))


def test_only_what_is_needed_is_loaded(tmp_path: Path, units: Tokenizer) -> None:
    loaded = load_resources([PLAIN], tmp_path, units)
    assert loaded.configs == [PLAIN] and not loaded.left_out
    assert loaded.resources.token_lm is None and loaded.resources.to_text == units.decode


def test_of_several_searches_those_that_lack_something_are_left_out(tmp_path: Path, units: Tokenizer) -> None:
    save_ngram(tmp_path, units, 3)
    loaded = load_resources([PLAIN, FUSED, LODR], tmp_path, units)
    assert loaded.configs == [PLAIN, FUSED]
    assert loaded.resources.token_lm is not None and loaded.resources.low_order_lm is None
    assert loaded.left_out.keys() == {"modified_beam_search_LODR"}
    assert "token_2gram.arpa" in loaded.left_out["modified_beam_search_LODR"]
    save_ngram(tmp_path, units, 2)
    assert load_resources([PLAIN, FUSED, LODR], tmp_path, units).configs == [PLAIN, FUSED, LODR]


def test_a_search_alone_must_have_all(tmp_path: Path, units: Tokenizer) -> None:
    with pytest.raises(FileNotFoundError, match="no n-gram over tokens in"):
        load_resources([FUSED], tmp_path, units)
    with pytest.raises(FileNotFoundError, match="no hotwords in nowhere.txt"):
        config = DecodingConfig(decoding_method="modified_beam_search", hotwords_file="nowhere.txt")
        load_resources([config], tmp_path, units)


def test_hotwords_come_from_options_and_files(tmp_path: Path, units: Tokenizer) -> None:
    (tmp_path / "names.txt").write_text("THANK YOU\n")
    config = DecodingConfig(
        decoding_method="modified_beam_search", hotwords=("ONE",), hotwords_file=str(tmp_path / "names.txt")
    )
    scorer = load_resources([config], tmp_path, units).resources.hotwords
    assert scorer is not None
    for phrase in ("ONE", "THANK YOU"):
        (spelled,) = units.encode([phrase])
        assert scorer.total(spelled) == len(spelled)
    assert (
        load_resources([DecodingConfig(decoding_method="modified_beam_search")], tmp_path, units).resources.hotwords
        is None
    )
