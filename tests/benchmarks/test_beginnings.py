from __future__ import annotations

import pytest

from benchmarks import beginnings
from tests.benchmarks.test_scripts import assert_whole


@pytest.mark.slow
def test_a_training_of_each_kind_begins_and_resumes() -> None:
    report = beginnings.measure(True)
    assert_whole(report)
    assert len(report.tables[0].rows) == 5
