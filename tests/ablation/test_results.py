"""The file of results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared_moe_conformer.ablation.results import (
    Result,
    add_result,
    config_digest,
    error_rates,
    method_errors,
    read_results,
)
from shared_moe_conformer.config import Config, from_dict, replace_fields, told_options
from shared_moe_conformer.decoding.scoring import Decoded


def test_results_are_read_as_they_were_written(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    path = tmp_path / "results.jsonl"
    results = [make_result("full"), make_result("base", 2, options={"num_experts": "3"})]
    for result in results:
        add_result(path, result)
    assert read_results(path) == results
    assert len(path.read_text().splitlines()) == 2
    assert read_results(tmp_path / "none.jsonl") == []


def test_a_line_that_was_not_finished_is_no_result(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    path = tmp_path / "results.jsonl"
    add_result(path, make_result("full"))
    with path.open("a") as file:
        file.write('{"config": "ba')
    assert [result.variant for result in read_results(path)] == ["full"]
    add_result(path, make_result("base"))
    assert [result.variant for result in read_results(path)] == ["full", "base"]


def test_a_line_from_before_digests_is_read(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    path = tmp_path / "results.jsonl"
    add_result(path, make_result("full"))
    path.write_text(path.read_text().replace(', "config_digest": ""', ""))
    assert "digest" not in path.read_text() and read_results(path) == [make_result("full")]


def test_a_digest_changes_with_what_a_training_does() -> None:
    changes: list[dict] = [{}, {"dropout": 0.3}, {"balance_over": "group"}, {"group_sizes": (3, 3)}]
    digests = [config_digest(replace_fields(Config(), change)) for change in changes]
    assert len(set(digests)) == len(changes)
    assert config_digest(replace_fields(Config(), {"seed": 7, "num_epochs": 3})) == digests[0]
    assert digests[0] == "fdec9c06", "results that are kept in the repository are no longer found"
    extended = {"lr_schedule": "wsd", "decay_epochs": 3}
    in_ten, in_twelve = (config_digest(replace_fields(Config(), {**extended, "num_epochs": n})) for n in (10, 12))
    assert in_ten == in_twelve != digests[0]


def test_an_option_that_did_not_exist_changes_no_digest() -> None:
    options = told_options(Config())
    assert from_dict(Config, options) == Config() and "balance_over" not in options["model"]["encoder"]
    changed = told_options(replace_fields(Config(), {"balance_over": "group"}))
    assert changed["model"]["encoder"]["balance_over"] == "group"


def test_a_damaged_line_is_named(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    path = tmp_path / "results.jsonl"
    add_result(path, make_result("full"))
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(ValueError, match="line 2, is not a result"):
        read_results(path)


def test_errors_are_counted_by_utterance() -> None:
    result = method_errors("greedy_search", [Decoded("a", "ab cd", "ab xd e"), Decoded("b", "ab", "")])
    assert (result.insertions, result.deletions, result.substitutions) == (1, 1, 1)
    assert result.word_errors == (2, 1) and result.character_errors == (2, 2)


def test_a_search_that_was_not_run_is_named(make_result: Callable[..., Result]) -> None:
    assert make_result().method("greedy_search").word_errors == (1, 1, 1, 0)
    with pytest.raises(ValueError, match="base, full, seed 1: not decoded by 1best"):
        make_result().method("1best")


def rates(results: dict[str, list[Result]], level: str = "word") -> dict:
    return error_rates(results, method="greedy_search", level=level, reference="full")  # type: ignore[arg-type]


def test_means_over_seeds(make_result: Callable[..., Result]) -> None:
    full = [make_result("full", 1, (1, 1, 1, 0)), make_result("full", 2, (2, 1, 1, 1))]
    base = [make_result("base", 1, (4, 2, 3, 1))]
    words, characters = (rates({"full": full, "base": base}, level) for level in ("word", "character"))
    assert words["full"].percent.mean == pytest.approx(40)  # 3 and 5 errors of 10 words
    assert words["base"].ratio.mean == pytest.approx(100 / 40)
    assert characters["full"].percent.mean == pytest.approx(16)  # 6 and 10 of 50
    low, high = words["full"].percent[1:]
    assert low < 40 < high


def test_a_ratio_does_not_hold_what_is_hard_for_both(make_result: Callable[..., Result]) -> None:
    errors = (4, 0, 0, 1)
    found = rates({"full": [make_result("full", 1, errors)], "base": [make_result("base", 1, errors)]})
    assert found["base"].percent.high - found["base"].percent.low > 20
    assert found["base"].ratio == (1, 1, 1)


def test_intervals_hold_the_spread_of_seeds(make_result: Callable[..., Result]) -> None:
    alike = [make_result("full", seed, (2, 1, 2, 0)) for seed in (1, 2, 3)]
    apart = [make_result("base", seed, errors) for seed, errors in ((1, (0, 0, 0, 0)), (2, (4, 2, 3, 1)))]
    found = rates({"full": alike, "base": apart})
    assert found["base"].percent == (50, 0, 100)
    assert found["full"].percent.high - found["full"].percent.low < 40


def test_without_the_reference_there_is_no_ratio(make_result: Callable[..., Result]) -> None:
    ratio = rates({"base": [make_result("base")]})["base"].ratio
    assert ratio.mean != ratio.mean


def test_another_test_set_is_refused(make_result: Callable[..., Result]) -> None:
    with pytest.raises(ValueError, match="of 2 test sets"):
        rates({"full": [make_result()], "base": [make_result("base", words=(4, 2, 3, 2))]})
