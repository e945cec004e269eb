from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from shared_moe_conformer.config import Config
from shared_moe_conformer.training.checkpoint import rng_state
from shared_moe_conformer.training.prescan import prescan
from shared_moe_conformer.training.trainer import Trainer


@pytest.fixture
def trainer(tiny_model: Callable[[], Any], config: Config) -> Trainer:
    return Trainer(tiny_model(), config.training)


def holds(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, limit: int, error: type[Exception] = RuntimeError) -> None:
    """Have the trainer run out of memory when a batch has more utterances than a limit."""
    losses = trainer.losses

    def limited(model: Any, batch: Any, scales: Any) -> Any:
        if len(batch.x) > limit:
            raise error("CUDA out of memory. Tried to allocate 2 GiB")
        return losses(model, batch, scales)

    monkeypatch.setattr(trainer, "losses", limited)


def test_weights_statistics_and_generators_stay_as_they_are(trainer: Trainer, batch: Any, caplog: Any) -> None:
    before, generators = copy.deepcopy(trainer.model.state_dict()), rng_state()
    with caplog.at_level(logging.INFO):
        prescan(trainer, lambda duration: [batch(1), batch(2)], max_duration=60.0)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    after = rng_state()
    assert torch.equal(generators["torch"], after["torch"]) and generators["numpy"] == after["numpy"]
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert not trainer.optimizer.state and trainer.state.step == 0
    assert "largest batches of 60 s fit into memory (peak_memory_mib" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_what_fits_is_said(trainer: Trainer, batch: Any, monkeypatch: Any, error: type[Exception]) -> None:
    holds(trainer, monkeypatch, limit=20, error=error)
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(
        ValueError, match=r"--max-duration 60 do not fit .* cpu, those of 15 do: give --max-duration 15"
    ):
        prescan(trainer, lambda duration: [batch(1, num_utterances=int(duration))], max_duration=60.0)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_if_nothing_fits_it_is_said(trainer: Trainer, batch: Any, monkeypatch: Any) -> None:
    holds(trainer, monkeypatch, limit=0)
    with pytest.raises(ValueError, match="nor does an eighth"):
        prescan(trainer, lambda duration: [batch(1)], max_duration=60.0)


def test_other_errors_are_not_taken_for_a_lack_of_memory(trainer: Trainer, monkeypatch: Any, batch: Any) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(trainer, "losses", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        prescan(trainer, lambda duration: [batch(1)], max_duration=60.0)
