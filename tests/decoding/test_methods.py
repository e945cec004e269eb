from __future__ import annotations

import dataclasses
import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest

from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.decoding import methods
from shared_moe_conformer.decoding.fast_beam_search import any_tokens
from shared_moe_conformer.decoding.methods import (
    METHODS,
    DecodingConfig,
    decode_at_scales,
    decode_batch,
    grouped,
    label,
    resolved,
    settings,
    used,
)
from shared_moe_conformer.decoding.ngram_scorer import ngram_scorer
from shared_moe_conformer.decoding.resources import Resources
from shared_moe_conformer.lattice.engine import LatticeEngine, lattice_engine
from shared_moe_conformer.lattice.graphs import WordGraph, over_tokens
from shared_moe_conformer.lattice.kneser_ney import train_ngram
from shared_moe_conformer.lattice.lexicon import Lexicon
from shared_moe_conformer.lattice.ngram_automaton import NgramAutomaton
from shared_moe_conformer.model.encoder import EncoderOutput

OTHER_VALUES = {
    "max_sym_per_frame": 3,
    "beam_size": 7,
    "beam": 11.0,
    "lm_order": 2,
    "lm_scale": 0.5,
    "lm_scales": (0.25, 0.5),
    "rescoring_ngram": "G_5_gram.arpa",
    "backoff": "epsilon",
    "lodr_scale": 0.25,
    "hotwords": ("PRESS STAR", "MENU"),
    "hotwords_file": "lists/names.txt",
    "hotwords_score": 2.5,
    "graph": "H",
    "hlg_scale": 0.5,
    "lattice_engine": "k2",
    "ctc_topology": "modified",
    "search_beam": 9.5,
    "output_beam": 3.0,
    "max_active": 123,
    "max_contexts": 5,
    "max_states": 32,
    "num_paths": 17,
    "nbest_scale": 0.75,
    "ngram_lm_scale": 0.25,
}


LM = ngram_scorer(train_ngram(["abc", "cab"], 2, vocabulary="abcdef"), ["<blk>", *"abcdef"])
LG = WordGraph(replace(any_tokens(7), olabel=np.tile([1, 2], 3).astype(np.int32)), ["<eps>", "ODD", "EVEN"])
LEXICON = Lexicon(["<blk>", *"abcdef"], {"AB": [1, 2], "BE": [2, 5], "C": [3], "D": [4], "E": [5], "F": [6]})
HLG = WordGraph(over_tokens(LEXICON.transducer(disambiguated=False), modified=False), LEXICON.words)
STRONGER = NgramAutomaton(train_ngram([[*LEXICON.spellings], ["AB", "C", "D"]], 2), LEXICON.words)
RESOURCES = Resources(
    token_lm=LM,
    low_order_lm=LM,
    word_graph=HLG,
    rescoring_lm=STRONGER,
    token_word_graph=LG,
    transcripts=["5 4", "", "3"],
    to_text=lambda tokens: " ".join(map(str, tokens)),
)
"""What the methods need, for a model of seven units."""


def available() -> set[str]:
    return {config.decoding_method for config in resolved(DecodingConfig(decoding_method="all"), vocab_size=7)}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_decodes_a_batch(method, make_model, make_batch) -> None:
    if method not in available():
        pytest.skip("needs k2")
    model = make_model(7)
    x, lens = make_batch([12, 0, 5])
    hyps = decode_batch(
        model, EncoderOutput(x, lens, None), DecodingConfig(decoding_method=method), resources=RESOURCES
    )
    assert [len(hyp.tokens) == len(hyp.frames) for hyp in hyps] == [True] * 3
    assert len(hyps[0].tokens) > 0 and hyps[1].tokens == []
    assert hyps[0].frames == sorted(hyps[0].frames) and max(hyps[0].frames) < 12 and max(hyps[2].frames) < 5


@pytest.mark.parametrize("topology", ["standard", "modified"])
def test_1best_over_the_topology_is_ctc_greedy_search(topology, make_model, make_batch) -> None:
    model = make_model(7)
    x, lens = make_batch([30, 12, 5])
    batch = EncoderOutput(x, lens, None)
    lattice = decode_batch(model, batch, DecodingConfig(decoding_method="1best", graph="H", ctc_topology=topology))
    greedy = decode_batch(model, batch, DecodingConfig(decoding_method="ctc_greedy_search"))
    assert [hyp[:2] for hyp in lattice] == [hyp[:2] for hyp in greedy]
    assert [hyp.score for hyp in lattice] == pytest.approx([hyp.score for hyp in greedy], abs=1e-3)


def test_options_of_the_methods_are_all_there_are() -> None:
    """An option that no method names would change results without changing the names of their files."""
    options = {f.name for f in dataclasses.fields(DecodingConfig)} - {"decoding_method"}
    named = {name for method in METHODS.values() for name in (*method.options, *method.inputs)}
    assert options == named == OTHER_VALUES.keys()


@pytest.mark.parametrize("method", METHODS)
def test_settings_tell_every_option_that_matters(method) -> None:
    config = DecodingConfig(decoding_method=method, hotwords_file="cities.txt")
    for name, value in OTHER_VALUES.items():
        other = settings(replace_fields(config, {name: value}))
        assert (other != settings(config)) == (name in (*METHODS[method].options, *METHODS[method].inputs))


def test_settings_are_names_of_files_and_say_nothing_of_hotwords_that_are_not_there() -> None:
    config = DecodingConfig(decoding_method="modified_beam_search", hotwords_file="/some/where/names.txt")
    assert settings(config) == "modified_beam_search-beam-size-4-hotwords-score-1.5-hotwords-file-names"
    assert settings(replace_fields(config, {"hotwords_file": ""})) == "modified_beam_search-beam-size-4"
    given = replace_fields(config, {"hotwords_file": "", "hotwords": ("PRESS STAR", "../A")})
    assert settings(given) == "modified_beam_search-beam-size-4-hotwords-score-1.5-hotwords-PRESS_STAR_A"


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


@pytest.mark.parametrize(("method", "options"), [(name, {}) for name in METHODS] + [("1best", {"graph": "H"})])
def test_without_what_it_uses_a_method_says_what_to_do(method, options, make_model, make_batch) -> None:
    config = DecodingConfig(decoding_method=method, **options)
    if method not in available():
        pytest.skip("needs k2")
    batch = EncoderOutput(*make_batch([3]), None)
    if set(used(config)) <= {"hotwords"}:
        assert decode_batch(make_model(7), batch, config)
        return
    with pytest.raises(ValueError, match="run ./prepare.sh|./decode.py"):
        decode_batch(make_model(7), batch, config)


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


def test_without_k2_the_fast_beam_searches_say_so(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "shared_moe_conformer.lattice.k2_transducer", None)
    for method in ("fast_beam_search", "fast_beam_search_nbest_LG"):
        with pytest.raises(ValueError, match="need k2 .*: make install ENGINE=k2, or decode with modified_beam_search"):
            resolved(DecodingConfig(decoding_method=method), vocab_size=7)
    with pytest.raises(ValueError, match="fast_beam_search needs k2: leave --lattice-engine embedded out"):
        resolved(DecodingConfig(decoding_method="fast_beam_search", lattice_engine="embedded"), vocab_size=7)


def test_resources_are_used_as_far_as_the_options_need_them() -> None:
    assert used(DecodingConfig(decoding_method="1best", graph="H")) == []
    assert used(DecodingConfig(decoding_method="1best")) == ["word_graph"]
    assert used(DecodingConfig(decoding_method="modified_beam_search_LODR")) == ["token_lm", "low_order_lm", "hotwords"]


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

    monkeypatch.setattr(methods, "lattice_engine", only_embedded)
    assert available() == {name for name, method in METHODS.items() if method.engines != ("k2",)}
    with pytest.raises(ValueError, match="no k2"):
        resolved(DecodingConfig(decoding_method="1best", lattice_engine="k2"), vocab_size=7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decoding_method", "magic"),
        ("beam_size", 0),
        ("beam", 0.0),
        ("lm_scales", ()),
        ("max_sym_per_frame", 0),
        ("search_beam", 0.0),
        ("max_active", 1),
        ("lm_scale", -0.5),
        ("lm_order", 0),
        ("hotwords_score", -1.0),
        ("num_paths", 0),
        ("backoff", "none"),
    ],
)
def test_values_that_cannot_be_are_refused(name, value) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        DecodingConfig(**{name: value})


def test_a_batch_is_decoded_by_one_method(make_model, make_batch) -> None:
    x, lens = make_batch([3])
    with pytest.raises(ValueError, match="give one of greedy_search, "):
        decode_batch(make_model(7), EncoderOutput(x, lens, None), DecodingConfig(decoding_method="all"))
