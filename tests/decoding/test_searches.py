from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shared_moe_conformer.config import Chunking, replace_fields
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.decoding import searches
from shared_moe_conformer.decoding.methods import METHODS, decode_at_scales, decode_batch, grouped, label, settings
from shared_moe_conformer.decoding.options import DecodingConfig, token_ngram_path
from shared_moe_conformer.decoding.searches import load_resources, resolved
from shared_moe_conformer.decoding.tuned_values import (
    GRIDS,
    TUNED_FILE,
    Tuned,
    difference,
    not_given,
    read_tuned,
    require_values,
    search_named,
    tunable,
    tuned_as,
    tuned_note,
    value_of,
    with_values,
    write_tuned,
)
from shared_moe_conformer.lattice.engine import lattice_engine
from shared_moe_conformer.lattice.lattice import LatticeEngine
from shared_moe_conformer.lattice.ngram import train_ngram
from shared_moe_conformer.model.encoder import EncoderOutput
from tests.decoding.conftest import total

from .test_methods import RESOURCES, available


def test_options_of_other_methods_are_refused() -> None:
    """They would change nothing, and nobody would be told."""
    beams = ["", "_lm_shallow_fusion", "_LODR", "_lm_rescore", "_lm_rescore_LODR"]
    users = ", ".join(f"modified_beam_search{kind}" for kind in beams)
    with pytest.raises(ValueError, match=f"greedy_search has no --hotwords, which is an option of {users}$"):
        resolved(DecodingConfig(hotwords=("STAR",)), vocab_size=7)
    with pytest.raises(
        ValueError, match="modified_beam_search has no --beam, which is an option of fast_beam_search, "
    ):
        resolved(DecodingConfig(decoding_method="modified_beam_search", beam=8.0), vocab_size=7)
    for idle in (
        {"decoding_method": "modified_beam_search", "hotwords_score": 3.0},
        {"decoding_method": "1best", "graph": "H", "hlg_scale": 0.5},
        {"decoding_method": "modified_beam_search_lm_shallow_fusion", "lm_type": "rnn", "lm_order": 4},
    ):
        with pytest.raises(ValueError, match=f"^--{[*idle][-1].replace('_', '-')} does nothing .*: leave it out$"):
            resolved(DecodingConfig(**idle), vocab_size=7)
    with pytest.raises(ValueError, match="all searches over HLG and over H: leave --graph out"):
        resolved(DecodingConfig(decoding_method="all", graph="H"), vocab_size=7)
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
    monkeypatch.setitem(sys.modules, "shared_moe_conformer.lattice.k2_engine", None)
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
        assert total(scorer, spelled) == len(spelled)
    assert (
        load_resources([DecodingConfig(decoding_method="modified_beam_search")], tmp_path, units).resources.hotwords
        is None
    )


def test_chunks_of_the_encoder_are_an_option_of_every_method_and_part_of_names() -> None:
    config = DecodingConfig(decoding_method="ctc_greedy_search", chunk_size=16, left_context_frames=32)
    assert resolved(config, vocab_size=50)[0].chunking == Chunking(16, 32)
    assert settings(config).endswith("chunk-size-16-left-context-frames-32")
    assert "chunk" not in settings(DecodingConfig()) and DecodingConfig().chunking is None


OVER_HLG = Tuned({"hlg_scale": 0.3}, "dev", "epoch-5-avg-2", 20.18, 25.0)
GREEDY = Tuned({"blank_penalty": 1.0}, "dev", "epoch-5-avg-2", 28.12, 38.55)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_tuned(tmp_path) == {}
    found = {"1best": OVER_HLG, "greedy_search": GREEDY}
    assert write_tuned(tmp_path, found) == tmp_path / TUNED_FILE
    assert read_tuned(tmp_path) == found
    assert [path.name for path in tmp_path.iterdir()] == [TUNED_FILE]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("magic", {}, "no decoding method is called 'magic'"),
        ("greedy_search", {"hlg_scale": 0.3}, "greedy_search has no option 'hlg_scale' that can be tuned"),
        ("1best", {"num_paths": 3}, "no option 'num_paths'"),
        ("1best", {"hlg_scale": -0.3}, "hlg_scale is -0.3: give a positive number"),
        ("1best", {"hlg_scale": float("inf")}, "hlg_scale of 1best is inf"),
        ("1best", {"hlg_scale": "0.3"}, "options is"),
        ("modified_beam_search", {"beam_size": 4.5}, "beam_size of modified_beam_search is 4.5"),
        ("nbest_rescoring", {"lm_scales": -1.0}, "lm_scales is"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, method: str, options: dict, message: str) -> None:
    values = {"options": options, "split": "dev", "checkpoint": "best", "wer": 1.0, "default_wer": 2.0}
    (tmp_path / TUNED_FILE).write_text(json.dumps({method: values}))
    with pytest.raises(ValueError, match=message) as caught:
        read_tuned(tmp_path)
    assert TUNED_FILE in str(caught.value) and "delete it and tune again" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '{"1best": 3}', '{"1best": {"hlg_scale": 0.3}}'])
def test_what_is_no_file_of_tuned_values_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / TUNED_FILE).write_text(text)
    with pytest.raises(ValueError, match=TUNED_FILE):
        read_tuned(tmp_path)


def test_an_option_is_tuned_where_it_changes_the_result() -> None:
    over_hlg = DecodingConfig(decoding_method="1best")
    assert tunable(over_hlg) == ["hlg_scale"] and tunable(replace(over_hlg, graph="H")) == []
    beam = DecodingConfig(decoding_method="modified_beam_search")
    assert tunable(beam) == ["blank_penalty", "beam_size"]
    assert "hotwords_score" in tunable(replace(beam, hotwords=("STAR",)))
    assert tunable(DecodingConfig(decoding_method="ctc_greedy_search")) == []


def test_defaults_are_among_the_values_that_are_tried() -> None:
    for name, grid in GRIDS.items():
        assert value_of(DecodingConfig(), name) in grid and sorted(grid) == list(grid)
        for method in ("modified_beam_search_LODR", "nbest_rescoring", "fast_beam_search_nbest_LG"):
            if name in tunable(DecodingConfig(decoding_method=method)):  # type: ignore[arg-type]
                for value in grid:
                    require_values(method, {name: value})


def test_values_take_the_place_of_defaults_in_each_search() -> None:
    tuned = {"1best": {"hlg_scale": 0.3}, "nbest_rescoring": {"hlg_scale": 0.5, "lm_scales": 0.7}}
    configs = resolved(DecodingConfig(decoding_method="all", lattice_engine="embedded"), vocab_size=7, tuned=tuned)
    scales = {(c.decoding_method, c.graph): c.hlg_scale for c in configs}
    assert scales["1best", "HLG"] == 0.3 and scales["1best", "H"] == scales["nbest", "HLG"] == 1.0
    assert [c.lm_scales for c in configs if c.decoding_method == "nbest_rescoring"] == [(0.7,)]
    assert [c.lm_scales for c in configs if c.decoding_method == "whole_lattice_rescoring"] == [(0.5,), (1.0,), (1.5,)]


def test_what_the_command_line_gives_wins() -> None:
    tuned = {"modified_beam_search": {"blank_penalty": 1.0, "beam_size": 8}}
    left = not_given(tuned, {"blank_penalty", "epoch"})
    assert left == {"modified_beam_search": {"beam_size": 8}}
    config = DecodingConfig(decoding_method="modified_beam_search", blank_penalty=0.0)
    (search,) = resolved(config, vocab_size=7, tuned=left)
    assert (search.blank_penalty, search.beam_size) == (0.0, 8)


def test_a_line_says_what_is_used_and_of_which_weights_it_is() -> None:
    searches = [DecodingConfig(), DecodingConfig(decoding_method="1best", graph="H"), DecodingConfig("1best")]
    tuned = {"1best": OVER_HLG, "greedy_search": GREEDY}
    changes = "greedy_search blank-penalty 1; 1best hlg-scale 0.3"
    assert tuned_note(searches, tuned, checkpoint="epoch-5-avg-2") == f"values tuned on dev (decoding.json): {changes}"
    other = tuned_note(searches, tuned, checkpoint="best", given={"hlg_scale"})
    assert other == "values tuned on dev by epoch-5-avg-2, not best (decoding.json): greedy_search blank-penalty 1"
    assert tuned_note(searches, tuned, checkpoint="best", given={"hlg_scale", "blank_penalty"}) == ""
    at_defaults = {"greedy_search": replace(GREEDY, options={"blank_penalty": 0.0})}
    assert tuned_note(searches, at_defaults, checkpoint="best") == ""


def test_one_scale_instead_of_several_is_a_difference() -> None:
    config = DecodingConfig("nbest_rescoring")
    assert difference(config, {"hlg_scale": 1.0, "lm_scales": 0.5}) == "lm-scales 0.5"
    assert with_values(config, {"lm_scales": 0.5}).lm_scales == (0.5,)


def test_scales_are_kept_for_each_language_model_and_graph_and_used_there_alone() -> None:
    lodr = DecodingConfig("modified_beam_search_LODR", lm_type="rnn")
    rescore = DecodingConfig("nbest_lm_rescore", graph="H", lm_type="transformer", lattice_engine="embedded")
    names = ["modified_beam_search_LODR:rnn", "nbest_lm_rescore:transformer:H"]
    assert [tuned_as(config) for config in (lodr, rescore)] == names and tuned_as(DecodingConfig()) == "greedy_search"
    tuned = {names[0]: {"lm_scale": 0.7}, names[1]: {"lm_scales": 0.2}}
    assert [c.lm_scale for c in resolved(lodr, vocab_size=7, tuned=tuned)] == [0.7]
    assert [c.lm_scale for c in resolved(replace_fields(lodr, {"lm_type": "ngram"}), vocab_size=7, tuned=tuned)] == [
        0.3
    ]
    assert [c.lm_scales for c in resolved(rescore, vocab_size=7, tuned=tuned)] == [(0.2,)]
    assert len(resolved(replace_fields(rescore, {"graph": "HLG"}), vocab_size=7, tuned=tuned)) == 3
    for name, values in tuned.items():
        require_values(name, values)
        assert tuned_as(search_named(name)) == name


@pytest.mark.parametrize("name", ["greedy_search:rnn", "modified_beam_search_LODR:gru", "1best:HLG", "magic"])
def test_tuned_values_of_no_search_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is called|give one of"):
        search_named(name)
