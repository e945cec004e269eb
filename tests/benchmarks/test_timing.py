from __future__ import annotations

import torch
from torch import nn

from benchmarks.tables import Ratio
from benchmarks.timing import Timing, forward, take_turns, training_step


def work(repetitions: int) -> None:
    sum(i * i for i in range(20000 * repetitions))


def test_contenders_take_turns_and_are_compared_to_the_first() -> None:
    calls: list[str] = []

    def contender(name: str, repetitions: int) -> None:
        calls.append(name)
        work(repetitions)

    times = take_turns({"one": lambda: contender("one", 1), "five": lambda: contender("five", 5)}, rounds=4)
    assert calls == ["one", "five", "five", "one", "one", "five", "five", "one", "one", "five"]
    assert times["one"].ratio == (1.0, 1.0, 1.0)
    assert 2 < times["five"].ratio.median < 12


def test_ratios_are_those_of_the_same_rounds() -> None:
    one, two = Timing([1.0, 2.0, 4.0, 8.0, 16.0], [1.0] * 5), Timing([3.0, 4.0, 4.0, 8.0, 80.0], [1.0] * 5)
    assert (one.seconds, one.ratio.median) == (4.0, 4.0)
    assert two.over(one) == Ratio(median=2.0, low=1.0, high=3.0)


def test_forward_has_no_gradients() -> None:
    layer = nn.Linear(2, 2)
    assert not forward(layer, torch.ones(1, 2))().requires_grad  # type: ignore


def test_training_step_computes_gradients_afresh() -> None:
    layer = nn.Linear(2, 1)
    step = training_step(layer, lambda: layer(torch.ones(1, 2)))
    step()
    first = layer.weight.grad.clone()
    step()
    torch.testing.assert_close(layer.weight.grad, first)
