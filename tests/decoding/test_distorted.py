from __future__ import annotations

from shared_moe_conformer.decoding.distorted import distortion_table
from shared_moe_conformer.decoding.scoring import Scores

from .test_scoring import scores


def at(test_set: str, method: str, errors: int) -> Scores:
    score = scores(method)._replace(test_set=test_set)
    return score._replace(wer=score.wer._replace(insertions=0, deletions=errors, substitutions=1, ref_len=100))


def test_each_distortion_stands_beside_clean() -> None:
    header, line, *rows = distortion_table(
        [at("test", "greedy_search", 9)], [[at("test-white=10", "greedy_search", 14)]]
    ).splitlines()
    assert header.startswith("| test | WER") and header.count("|") == line.count("|")
    assert rows[0].startswith("| clean | 10.00 [") and rows[0].endswith("| 0 | 9 | 1 | 1.00 |")
    assert rows[1].startswith("| white=10 | 15.00 [") and rows[1].endswith("| 0 | 14 | 1 | 1.50 |")


def test_each_method_is_compared_with_itself() -> None:
    clean, noisy = (
        [at(name, m, n * k) for m, n in (("a", 1), ("b", 3))] for name, k in (("dev", 1), ("dev-gain=3", 3))
    )
    rows = distortion_table(clean, [noisy]).splitlines()[2:]
    assert [row.split(" |")[0] for row in rows] == ["| clean, a", "| clean, b", "| gain=3, a", "| gain=3, b"]
    assert [row.split("| ")[-1] for row in rows] == ["1.00 |", "1.00 |", "2.00 |", "2.50 |"]


def test_nothing_is_a_multiple_of_no_errors() -> None:
    perfect = at("test", "a", 0)
    perfect = perfect._replace(wer=perfect.wer._replace(substitutions=0))
    assert distortion_table([perfect], [[at("test-gain=3", "a", 1)]]).endswith("| - |\n")
