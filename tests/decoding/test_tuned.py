from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.searches import resolved
from shared_moe_conformer.decoding.tuned import (
    GRIDS,
    TUNED_FILE,
    Tuned,
    difference,
    not_given,
    read_tuned,
    require_values,
    tunable,
    tuned_note,
    value_of,
    with_values,
    write_tuned,
)

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
