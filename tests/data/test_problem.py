from __future__ import annotations

from shared_moe_conformer.data.problem import Problem


def test_a_problem_is_a_line_that_knows_its_cut_and_kind() -> None:
    problem = Problem("cut-7", "empty text", "empty transcript")
    assert problem == "cut-7: empty transcript" and (problem.cut_id, problem.kind) == ("cut-7", "empty text")
    assert Problem("cut-7", "same text", "same text as a", split="test") == "cut-7 (test): same text as a"
