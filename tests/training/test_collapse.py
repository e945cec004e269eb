from __future__ import annotations

import torch
from torch import Tensor

from shared_moe_conformer.training.collapse import NUM_UPDATES, CollapseDetector, CollapsedExpert


def collapsed_in(detector: CollapseDetector, frames: Tensor, updates: int = NUM_UPDATES) -> list[CollapsedExpert]:
    return [found for _ in range(updates) for found in detector.add(frames)]


def test_an_expert_below_one_percent_is_found_once() -> None:
    frames = torch.tensor([[50.0, 49.0, 1.0], [100.0, 0.0, 0.0], [994.0, 3.0, 3.0]])
    detector = CollapseDetector()
    assert collapsed_in(detector, frames, NUM_UPDATES - 1) == []
    found = detector.add(frames)
    assert [(layer, expert) for layer, expert, _ in found] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert round(found[2].share, 4) == 0.003
    assert collapsed_in(detector, frames) == []


def test_all_frames_of_the_updates_count_not_those_of_one() -> None:
    detector = CollapseDetector()
    idle, busy = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]])
    assert collapsed_in(detector, idle, NUM_UPDATES - 3) == collapsed_in(detector, busy, 3) == []
    assert [found.expert for found in collapsed_in(detector, idle)] == [1]


def test_without_experts_there_is_none() -> None:
    assert [found for _ in range(NUM_UPDATES) for found in CollapseDetector().add(None)] == []
