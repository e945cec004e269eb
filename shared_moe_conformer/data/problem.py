"""A fault of a cut, as one line that can be counted by its kind."""

from __future__ import annotations


class Problem(str):
    """A line that says what is wrong with a cut, and begins with the cut's name."""

    cut_id: str
    kind: str
    """What is wrong, in a word or two, by which problems are counted."""

    def __new__(cls, cut_id: str, kind: str, message: str, *, split: str = "") -> Problem:
        """`cut-7: empty transcript`, or with a split `cut-7 (test): ...`."""
        problem = super().__new__(cls, f"{cut_id}{f' ({split})' if split else ''}: {message}")
        problem.cut_id, problem.kind = cut_id, kind
        return problem
