"""Error rates and their intervals."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared_moe_conformer.ablation.results import Result
from shared_moe_conformer.ablation.statistics import error_rates


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
