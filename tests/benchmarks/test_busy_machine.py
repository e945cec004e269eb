from __future__ import annotations

import pytest

from benchmarks import busy_machine


def test_an_utterance_is_recognised_in_a_process_of_its_own() -> None:
    assert 0 < busy_machine.seconds("shared_moe_conformer", True, 1) < busy_machine.LONGEST


def test_each_way_is_measured_alone_and_beside_busy_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([2.0, 50.0, 2.0, 6.0, 1.0, 2.0] * 2 + [9.0] * 6)
    monkeypatch.setattr(busy_machine, "seconds", lambda *way: next(found))
    rows = busy_machine.table(1, num_busy=1, rounds=3).rows
    assert [row[1:] for row in rows] == [[2.0, 50.0, 25.0], [2.0, 6.0, 3.0], [1.0, 2.0, 2.0]]
