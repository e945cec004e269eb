from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from shared_moe_conformer.config import Chunking, replace_fields
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.decoding import searches
from shared_moe_conformer.decoding.methods import METHODS, decode_at_scales, decode_batch
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.resources import token_ngram_path
from shared_moe_conformer.decoding.searches import grouped, label, load_resources, resolved, settings
from shared_moe_conformer.lattice.engine import lattice_engine
from shared_moe_conformer.lattice.ngram import train_ngram
from shared_moe_conformer.lattice.search import LatticeEngine
from shared_moe_conformer.model.encoder import EncoderOutput

from .test_methods import OTHER_VALUES, RESOURCES, available


@pytest.mark.parametrize("method", METHODS)
def test_settings_tell_every_option_that_matters(method) -> None:
    config = DecodingConfig(decoding_method=method, hotwords_file="cities.txt")
    for name, value in OTHER_VALUES.items():
        other = settings(replace_fields(config, {name: value}))
        assert (other != settings(config)) == (name in METHODS[method].options)


def test_settings_are_names_of_files_and_say_nothing_of_hotwords_that_are_not_there() -> None:
    config = DecodingConfig(decoding_method="modified_beam_search", hotwords_file="/some/where/names.txt")
    assert settings(config) == "modified_beam_search-beam-size-4-hotwords-score-1.5-hotwords-file-names"
    assert settings(replace_fields(config, {"hotwords_file": ""})) == "modified_beam_search-beam-size-4"
    given = replace_fields(config, {"hotwords_file": "", "hotwords": ("PRESS STAR", "../A")})
    assert settings(given) == "modified_beam_search-beam-size-4-hotwords-score-1.5-hotwords-PRESS_STAR_A"


def test_a_penalty_of_blank_changes_no_name_until_it_is_given() -> None:
    assert settings(DecodingConfig()) == "greedy_search-max-sym-per-frame-1"
    assert settings(DecodingConfig(blank_penalty=0.5)) == "greedy_search-max-sym-per-frame-1-blank-penalty-0.5"
    with pytest.raises(ValueError, match="blank_penalty is nan: give a finite number of nats"):
        DecodingConfig(blank_penalty=float("nan"))


def test_options_of_other_methods_are_refused() -> None:
    """They would change nothing, and nobody would be told."""
    users = "modified_beam_search, modified_beam_search_lm_shallow_fusion, modified_beam_search_LODR"
    with pytest.raises(ValueError, match=f"greedy_search has no --hotwords, which is an option of {users}$"):
        resolved(DecodingConfig(hotwords=("STAR",)), vocab_size=7)
    with pytest.raises(
        ValueError, match="modified_beam_search has no --beam, which is an option of fast_beam_search, "
    ):
        resolved(DecodingConfig(decoding_method="modified_beam_search", beam=8.0), vocab_size=7)
    assert resolved(DecodingConfig(decoding_method="all", hotwords=("STAR",)), vocab_size=7)
    (once,) = resolved(DecodingConfig(ctc_topology="modified"), vocab_size=7)
    assert resolved(once, vocab_size=7) == [once]


def test_all_is_every_method_over_every_graph_by_every_engine() -> None:
    configs = resolved(DecodingConfig(decoding_method="all"), vocab_size=2000)
    assert len({label(config) for config in configs}) == len({settings(config) for config in configs}) == len(configs)
    assert all(config.ctc_topology == "modified" for config in configs)
    searches = [(c.graph, c.lattice_engine) for c in configs if c.decoding_method == "1best"]
    installed = {engine for _, engine in searches}
    assert sorted(searches) == sorted(itertools.product(("H", "HLG"), installed)) and "auto" not in installed


def test_all_by_one_engine() -> None:
    one = resolved(DecodingConfig(decoding_method="1best"), vocab_size=7)[0].lattice_engine
    configs = resolved(DecodingConfig(decoding_method="all", lattice_engine=one), vocab_size=7)
    assert {c.lattice_engine for c in configs if METHODS[c.decoding_method].engines} == {one}
    assert {c.decoding_method for c in configs} >= {name for name, method in METHODS.items() if not method.engines}


def test_one_method_by_all_engines() -> None:
    configs = resolved(DecodingConfig(decoding_method="1best", lattice_engine="all"), vocab_size=7)
    installed = ["k2", "embedded"] if "fast_beam_search" in available() else ["embedded"]
    assert [(c.lattice_engine, c.graph) for c in configs] == [(name, "HLG") for name in installed]


def test_without_k2_the_fast_beam_searches_say_so(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "shared_moe_conformer.lattice.k2_transducer", None)
    for method in ("fast_beam_search", "fast_beam_search_nbest_LG"):
        with pytest.raises(ValueError, match="need k2 .*: make install ENGINE=k2, or decode with modified_beam_search"):
            resolved(DecodingConfig(decoding_method=method), vocab_size=7)
    with pytest.raises(ValueError, match="fast_beam_search needs k2: leave --lattice-engine embedded out"):
        resolved(DecodingConfig(decoding_method="fast_beam_search", lattice_engine="embedded"), vocab_size=7)


def test_each_scale_is_a_search_of_its_own_name_and_all_share_one_lattice(make_model, make_batch) -> None:
    config = DecodingConfig(decoding_method="whole_lattice_rescoring", lm_scales=(0.0, 0.5, 3.0))
    configs = resolved(config, vocab_size=7)
    assert [c.lm_scales for c in configs] == [(0.0,), (0.5,), (3.0,)]
    assert len({settings(c) for c in configs}) == len({label(c) for c in configs}) == 3
    others = resolved(DecodingConfig(decoding_method="ctc_greedy_search"), vocab_size=7)
    assert [len(group) for group in grouped([*others, *configs])] == [1, 3]
    x, lens = make_batch([12, 0, 5])
    batch = EncoderOutput(x, lens, None)
    together = decode_at_scales(make_model(7), batch, configs, resources=RESOURCES)
    alone = [decode_batch(make_model(7), batch, c, resources=RESOURCES) for c in configs]
    assert together == alone


def test_without_k2_all_is_what_needs_no_k2(monkeypatch) -> None:
    def only_embedded(name: str) -> LatticeEngine:
        if name == "k2":
            raise ValueError("no k2")
        return lattice_engine("embedded")

    monkeypatch.setattr(searches, "lattice_engine", only_embedded)
    assert available() == {name for name, method in METHODS.items() if method.engines != ("k2",)}
    with pytest.raises(ValueError, match="no k2"):
        resolved(DecodingConfig(decoding_method="1best", lattice_engine="k2"), vocab_size=7)


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


def test_chunks_of_the_encoder_are_an_option_of_every_method_and_part_of_names() -> None:
    config = DecodingConfig(decoding_method="ctc_greedy_search", chunk_size=16, left_context_frames=32)
    assert resolved(config, vocab_size=50)[0].chunking == Chunking(16, 32)
    assert settings(config).endswith("chunk-size-16-left-context-frames-32")
    assert "chunk" not in settings(DecodingConfig()) and DecodingConfig().chunking is None
