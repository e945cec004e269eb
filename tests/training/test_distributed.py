from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from shared_moe_conformer.config import Config, replace_fields
from shared_moe_conformer.data.augment import Example
from shared_moe_conformer.data.batch import AsrBatch, collate
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.training.distributed import (
    World,
    agreed_name,
    average_buffers,
    connected,
    from_local_leader,
    gather,
    world,
)
from shared_moe_conformer.training.trainer import Trainer
from tests.conftest import TINY, TINY_VOCAB
from tests.torchrun import free_port, torchrun

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG: Config = replace_fields(
    TINY, {"balancing_bias_rate": 0.1, "dropout": 0.0, "warmup_steps": 0, "loss_warmup_steps": 2, "learning_rate": 0.01}
)


def batches(step: int) -> list[AsrBatch]:
    """Two batches of an update, of different sizes."""
    generator = torch.Generator().manual_seed(step)
    found = []
    for size in (2, 3):
        lens = torch.randint(30, 60, (size,), generator=generator).tolist()
        features = [torch.randn(n, 80, generator=generator) for n in lens]
        tokens = [torch.randint(3, TINY_VOCAB, (4,), generator=generator).tolist() for _ in lens]
        names = [f"cut-{step}-{size}-{n}" for n in range(size)]
        found.append(collate(list(map(Example, features, tokens, names, names))))
    return found


def make_trainer() -> Trainer:
    torch.manual_seed(0)
    trainer = Trainer(AsrModel(CONFIG.model), CONFIG.training)
    trainer.model.train()
    return trainer


def start(call: str, **variables: str) -> subprocess.Popen:
    """A process that calls a function of this file.

    What is compared to the bit comes from such processes alone: this one's MKL may have begun with other settings.
    """
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = f"from tests.training.test_distributed import *; {call}"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)


def load(path: str) -> dict[str, Any]:
    allow = {"weights_only": False} if int(torch.__version__.split(".")[0]) >= 2 else {}
    return torch.load(path, **allow)


def update_alone(path: str) -> None:
    """The same three updates by one process that accumulates, and fifty losses."""
    trainer = make_trainer()
    reports = [trainer.train_step(*batches(step), progress=0.1) for step in range(3)]
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.grad.any()]
    result = {"model": trainer.model.state_dict(), "reports": reports, "trained": trained, "losses": fifty_losses()}
    torch.save(result, path)


def fifty_losses() -> list[float]:
    """The losses of fifty updates of a new model, of which this process has its part of the batches."""
    trainer, (rank, size, _) = make_trainer(), world()
    updates = (trainer.train_step(*batches(step % 5)[rank::size], progress=0.1) for step in range(50))
    return [report.totals.averages()["loss"] for report in updates]


def update_of_two_processes(path: str) -> None:
    """The work of each of two processes: three updates of a batch each, a batch that is not finite, fifty losses."""
    torch.set_num_threads(1)
    with connected(torch.device("cpu")):
        trainer, rank = make_trainer(), world().rank
        reports = [trainer.train_step(batches(step)[rank], progress=0.1) for step in range(3)]
        result: dict[str, Any] = {
            "model": copy.deepcopy(trainer.model.state_dict()),
            "reports": reports,
            "ranks": gather(rank),
        }
        bad = batches(3)[rank]
        bad.x[0] += float("nan") if rank else 0.0
        before = copy.deepcopy(trainer.model.state_dict())
        report = trainer.train_step(bad, progress=0.1)
        after = trainer.model.state_dict()
        result["skipped"] = report.skipped, report.suspects, trainer.state.step
        result["unchanged"] = all(torch.equal(value, after[name]) for name, value in before.items())
        result["made"] = [made_by_leader(local_rank, lambda: f"by {rank}") for local_rank in (rank, 0)]
        result["refused"] = made_by_leader(rank, lambda: Path(f"none-of-{rank}").read_text())
        result["losses"] = fifty_losses()
        torch.save(result, f"{path}.{rank}")


def made_by_leader(local_rank: int, make: Callable[[], str]) -> str:
    """The result of `from_local_leader`, or its error, in a process with this number on its machine."""
    os.environ["LOCAL_RANK"] = str(local_rank)
    try:
        return from_local_leader(make)
    except OSError as error:
        return str(error)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of one process."""
    path = str(tmp_path_factory.mktemp("process") / "result")
    assert start(f"update_alone({path!r})").wait(timeout=120) == 0
    return load(path)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of two real processes that are connected by gloo."""
    path = tmp_path_factory.mktemp("processes") / "result"
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    call = f"update_of_two_processes({str(path)!r})"
    processes = [start(call, **address, RANK=str(rank)) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [load(f"{path}.{rank}") for rank in range(2)]


def test_two_processes_update_as_one_that_accumulates(alone: dict[str, Any], results: list[dict[str, Any]]) -> None:
    shared = results[0]
    for mine, theirs in zip(alone["reports"], shared["reports"], strict=True):
        assert theirs.totals.averages() == pytest.approx(mine.totals.averages(), rel=1e-4)
        assert torch.equal(theirs.totals.frames_per_expert, mine.totals.frames_per_expert)
        assert theirs[1:3] == mine[1:3] and theirs.grad_norm == pytest.approx(mine.grad_norm, rel=1e-4)
    biases = [name for name in alone["model"] if name.endswith("balancing_bias")]
    assert biases and all(alone["model"][name].any() for name in biases)
    assert all(torch.equal(shared["model"][name], alone["model"][name]) for name in biases)
    start_of = make_trainer().model
    for name, _ in start_of.named_parameters():
        torch.testing.assert_close(shared["model"][name], alone["model"][name], rtol=1e-3, atol=1e-5)
    first = start_of.state_dict()
    assert not any(torch.equal(first[name], alone["model"][name]) for name in alone["trained"])


def test_all_processes_have_the_same_weights_and_statistics(results: list[dict[str, Any]]) -> None:
    first, second = (result["model"] for result in results)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert results[0]["ranks"] == results[1]["ranks"] == [0, 1]


def test_fifty_losses_of_two_processes_are_those_of_one(alone: dict[str, Any], results: list[dict[str, Any]]) -> None:
    losses = results[0]["losses"]
    assert losses == pytest.approx(alone["losses"], rel=1e-4) and losses[-1] < 0.8 * losses[0]


def test_a_bad_batch_of_one_process_is_skipped_and_named_by_all(results: list[dict[str, Any]]) -> None:
    for result in results:
        message, suspects, step = result["skipped"]
        assert message.startswith("step 4: loss is nan") and suspects == ("cut-3-3-0",)
        assert result["unchanged"] and step == 3


def test_the_first_process_of_a_machine_makes_things_for_the_others(results: list[dict[str, Any]]) -> None:
    assert [result["made"] for result in results] == [["by 0", "by 0"], ["by 0", "by 1"]], "on one machine, on two"
    assert all("none-of-0" in result["refused"] for result in results)


DIES = """
import os, pathlib, signal, sys, torch
from shared_moe_conformer.training.distributed import connected, gather, world
with connected(torch.device("cpu")):
    (pathlib.Path(sys.argv[1]) / str(os.getpid())).touch()
    gather(0)
    if world().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    gather(0)
"""


@pytest.mark.slow
def test_when_a_process_dies_the_other_ends_too(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    script = tmp_path / "run.py"
    script.write_text(DIES)
    torchrun(script, tmp_path / "pids", fails=True)
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_those_who_meet_agree_upon_a_name_whatever_the_dead_have_left() -> None:
    """Four meetings in one store; before each a process has asked and died."""
    store, names = torch.distributed.HashStore(), set()
    with ThreadPoolExecutor(3) as processes:
        for _ in range(4):
            store.set("question_of_1", "nobody")
            store.add("questions_of_1", 1)
            found = {process.result() for process in [processes.submit(agreed_name, store, n, 3) for n in (0, 2, 1)]}
            assert len(found) == 1 and not found & names
            names |= found


def test_each_frame_of_an_update_weighs_alike() -> None:
    """The gradient of two batches is the mean of their gradients, weighted by their frames."""
    gradients, frames = [], []
    for batch in (*batches(0), None):
        trainer = make_trainer()
        totals, _ = trainer._backward(batches(0) if batch is None else [batch])
        gradients.append(trainer.model.ctc_head.weight.grad.clone())
        frames.append(totals.num_frames)
    first, second, both = gradients
    assert frames[2] == frames[0] + frames[1]
    torch.testing.assert_close(both, (first * frames[0] + second * frames[1]) / frames[2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, World(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, World(3, 4, 1)),
    ],
)
def test_torchrun_says_who_one_is(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: World
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert world() == expected


def test_variables_that_torchrun_would_not_set_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="use torchrun"):
        world()


def test_alone_nothing_is_exchanged() -> None:
    model = torch.nn.BatchNorm1d(2)
    model.running_mean.fill_(3.0)
    with connected(torch.device("cpu")):
        average_buffers(model)
        assert gather("a") == ["a"]
    assert model.running_mean.tolist() == [3.0, 3.0]
