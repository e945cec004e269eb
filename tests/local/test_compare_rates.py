from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared_moe_conformer.decoding.scoring import Decoded, transcripts_text
from tests.local.conftest import Result

NUM_UTTERANCES = 40


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write results in which the first `wrong` utterances have one of two words wrong."""

    def write(name: str, wrong: int, *, ref: str = "ONE TWO") -> Path:
        results = [Decoded(f"{i:02d}", ref, "ONE TEN" if i < wrong else ref) for i in range(NUM_UTTERANCES)]
        path = tmp_path / f"recogs-test-{name}.txt"
        path.write_text(transcripts_text(results))
        return path

    return write


def rows(result: Result) -> list[list[str]]:
    assert result.status == 0, result.err
    return [line.strip("| ").split(" | ") for line in result.out.splitlines()[2:]]


def test_models_are_compared_over_seeds_and_utterances(
    write: Callable[..., Path], run_local: Callable[..., Result]
) -> None:
    full, base = (
        (write("full-1", 10), write("full-2", 14)),
        (write("base-1", 16), write("base-2", 20), write("base-3", 18)),
    )
    first, second = rows(run_local("compare_rates", "full=", *full, "base=", *base))
    assert [cell.split(" [")[0] for cell in first[:5]] == ["full", "2", "15.00", "12.50, 17.50", "1.000"]
    assert [cell.split(" [")[0] for cell in second[:5]] == ["base", "3", "22.50", "20.00, 25.00, 22.50", "1.500"]
    low, high = map(float, second[4].split("[")[1].rstrip("]").split(", "))
    assert 1.0 < low < 1.3 and 1.8 < high < 3.0
    same = rows(run_local("compare_rates", "a=", full[0], "b=", full[0]))
    assert same[1][4] == "1.000 [1.000, 1.000]", "utterances are drawn alike for both"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.txt"], "a.txt: write a name first, as in base= a.txt"),
        (["full="], "full= is followed by no file: give its recogs-*.txt"),
        (["full=", "a.txt", "full=", "b.txt"], "full=: two models have this name"),
        (["full=", "nothing.txt"], "nothing.txt"),
    ],
)
def test_a_wrong_call_is_one_line(run_local: Callable[..., Result], arguments: list[str], message: str) -> None:
    result = run_local("compare_rates", *arguments)
    assert result.status == 1 and message in result.err and result.err.count("\n") == 1


def test_other_utterances_are_refused(write: Callable[..., Path], run_local: Callable[..., Result]) -> None:
    result = run_local("compare_rates", "a=", write("a", 1), "b=", write("b", 1, ref="ONE THREE"))
    assert result.status == 1 and "not of the same utterances: decode the same split with all models" in result.err
