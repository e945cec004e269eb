"""Benchmarks in small: what they measure does not matter here, and no process is started for a peak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmarks.long_recordings
    import benchmarks.pruned_transducer
    import benchmarks.sharing

    def run_here(function: Callable[..., Callable[[], object]], *arguments: Any) -> float:
        function(*arguments)()
        return 1.0

    for module in (benchmarks.timing, benchmarks.long_recordings, benchmarks.pruned_transducer, benchmarks.sharing):
        monkeypatch.setattr(module, "peak_memory", run_here)
