from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.decoding.hypothesis import search_utterances
from shared_moe_conformer.decoding.k2 import any_tokens
from shared_moe_conformer.decoding.methods import (
    METHODS,
    OF_ENCODER,
    decode_batch,
    label,
    settings,
    used,
)
from shared_moe_conformer.decoding.options import DecodingConfig, Resources
from shared_moe_conformer.decoding.scorers import ngram_scorer
from shared_moe_conformer.decoding.searches import resolved
from shared_moe_conformer.lattice.decoding_graph import ctc_topology
from shared_moe_conformer.lattice.graphs import WordGraph, graph_of_arcs
from shared_moe_conformer.lattice.lg import compose_topology
from shared_moe_conformer.lattice.ngram import NgramAutomaton, train_ngram
from shared_moe_conformer.model.encoder import EncoderOutput

OTHER_VALUES = {
    "max_sym_per_frame": 3,
    "blank_penalty": 1.5,
    "beam_size": 7,
    "beam": 11.0,
    "lm_type": "rnn",
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
WORDS = ["AB", "BE", "C", "D", "E", "F"]
ARCS = [(0, 1, 1, 1), (1, 0, 2, 0), (0, 2, 2, 2), (2, 0, 5, 0), *((0, 0, token, token) for token in (3, 4, 5, 6))]
L = graph_of_arcs(np.array(ARCS), np.zeros(len(ARCS)), final_state=[0], final_weight=[0.0])
HLG = WordGraph(compose_topology(ctc_topology(7, modified=False), L), ["<eps>", *WORDS])
STRONGER = NgramAutomaton(train_ngram([WORDS, ["AB", "C", "D"]], 2), HLG.words)
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
    options = {f.name for f in dataclasses.fields(DecodingConfig)} - {"decoding_method", *OF_ENCODER}
    named = {name for method in METHODS.values() for name in method.options}
    assert options == named == OTHER_VALUES.keys()


class Noted:
    """Options that note which of them are read."""

    def __init__(self, config: DecodingConfig) -> None:
        self.config, self.read = config, set()

    def __getattr__(self, name: str) -> object:
        self.read.add(name)
        return getattr(self.config, name)


@pytest.mark.parametrize("method", METHODS)
def test_a_search_reads_its_methods_options(method, make_model, make_batch) -> None:
    """Those that are not read decide what the resources are."""
    if method not in available():
        pytest.skip("needs k2")
    options = Noted(DecodingConfig(decoding_method=method, lattice_engine="embedded"))
    search_utterances(METHODS[method].search(make_model(7), options, RESOURCES), *make_batch([12, 0, 5]))
    of_resources = {"hotwords", "hotwords_file", "lm_type", "lm_order", "rescoring_ngram", "backoff"}
    read = options.read - {"decoding_method"} | (set(METHODS[method].options) & of_resources)
    unused = {"ngram_lm_scale"} if METHODS[method].engines == ("k2",) else {"graph", "ctc_topology"}
    assert set(METHODS[method].options) - unused == read - unused


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


def test_resources_are_used_as_far_as_the_options_need_them() -> None:
    assert used(DecodingConfig(decoding_method="1best", graph="H")) == []
    assert used(DecodingConfig(decoding_method="1best")) == ["word_graph"]
    assert used(DecodingConfig(decoding_method="modified_beam_search_LODR")) == ["token_lm", "low_order_lm", "hotwords"]


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
        ("output_beam", float("inf")),
        ("lm_scale", float("inf")),
    ],
)
def test_values_that_cannot_be_are_refused(name, value) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        DecodingConfig(**{name: value})


def test_a_batch_is_decoded_by_one_method(make_model, make_batch) -> None:
    x, lens = make_batch([3])
    with pytest.raises(ValueError, match="give one of greedy_search, "):
        decode_batch(make_model(7), EncoderOutput(x, lens, None), DecodingConfig(decoding_method="all"))


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


def test_an_n_grams_order_does_not_matter_to_a_network() -> None:
    config = DecodingConfig(decoding_method="modified_beam_search_lm_shallow_fusion", lm_type="rnn", lm_order=2)
    assert settings(config) == "modified_beam_search_lm_shallow_fusion-beam-size-4-lm-scale-0.3-lm-type-rnn"
    ngram = replace_fields(config, {"lm_type": "ngram"})
    assert settings(ngram) == "modified_beam_search_lm_shallow_fusion-beam-size-4-lm-scale-0.3-lm-order-2"
    assert label(config) == "modified_beam_search_lm_shallow_fusion with rnn"


def test_a_penalty_of_blank_changes_no_name_until_it_is_given() -> None:
    assert settings(DecodingConfig()) == "greedy_search-max-sym-per-frame-1"
    assert settings(DecodingConfig(blank_penalty=0.5)) == "greedy_search-max-sym-per-frame-1-blank-penalty-0.5"
    with pytest.raises(ValueError, match="blank_penalty is nan: give a finite number"):
        DecodingConfig(blank_penalty=float("nan"))
