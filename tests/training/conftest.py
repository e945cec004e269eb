from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from shared_moe_conformer.config import Config, TrainingConfig
from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.model.asr_model import AsrLosses
from shared_moe_conformer.training.averaging import RunningSum
from shared_moe_conformer.training.folder import epoch_path, save_checkpoint, step_path

STEPS_PER_EPOCH = 5


def save_epochs(exp_dir: Path, values: dict[int, float]) -> None:
    """Checkpoints whose weights are these numbers."""
    for epoch, value in values.items():
        model = {"w": torch.full((2,), value), "steps": torch.tensor(epoch), "half": torch.tensor(value).half()}
        save_checkpoint(epoch_path(exp_dir, epoch), {"model": model})


@pytest.fixture(scope="module")
def exp_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of a model whose weight is the square of the update's number, in every kind of checkpoint."""
    folder = tmp_path_factory.mktemp("exp")
    model = nn.BatchNorm1d(2)
    running = RunningSum(model, period=2)
    for step in range(1, 3 * STEPS_PER_EPOCH + 1):
        nn.init.constant_(model.weight, float(step**2))
        model.num_batches_tracked.fill_(step)
        running.stepped(step)
        checkpoint = {"model": model.state_dict(), **running.state()}
        if step % 3 == 0:
            save_checkpoint(step_path(folder, step), checkpoint)
        if step % STEPS_PER_EPOCH == 0:
            save_checkpoint(epoch_path(folder, step // STEPS_PER_EPOCH), checkpoint)
    return folder


class TinyEncoder:
    """Stand-in for what a trainer tells the encoder: features to count, and the frames of each expert."""

    def __init__(self) -> None:
        self.feature_norm = self
        self.balanced: list[Tensor] = []

    def totals(self, x: Tensor, x_lens: Tensor) -> Tensor:
        return x_lens.double().sum().view(1)

    def count(self, totals: Tensor) -> None:
        self.num_features = totals

    def balance_experts(self, frames_per_expert: Tensor) -> Tensor:
        self.balanced.append(frames_per_expert)
        return frames_per_expert


class TinyModel(nn.Module):
    """Stand-in with dropout, batch statistics, an expert's stacked tensors and a router."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.router = nn.Linear(4, 2, bias=False)
        self.hidden_weight = nn.Parameter(torch.randn(2, 4, 3) / 2)
        self.hidden_bias = nn.Parameter(torch.zeros(2, 3))
        self.embedding = nn.Embedding(5, 3)
        self.dropout = nn.Dropout(0.3)
        self.encoder = TinyEncoder()

    def forward(self, x: Tensor, x_lens: Tensor, y: Tensor, y_lens: Tensor, **options: float) -> AsrLosses:
        valid = torch.arange(x.size(1)) < x_lens.unsqueeze(1)
        frames = self.dropout(self.norm(x[valid]))
        probs, expert_ids = self.router(frames).softmax(dim=-1).max(dim=-1)
        weight, bias = self.hidden_weight[expert_ids], self.hidden_bias[expert_ids]
        out = (torch.einsum("mc,mch->mh", frames, weight) + bias) * probs.unsqueeze(-1)
        error = (out - self.embedding(y).mean(dim=(0, 1))).square().sum()
        used = torch.bincount(expert_ids, minlength=2).float().unsqueeze(0)
        return AsrLosses(error, 2 * error, 3 * error, probs.mean(), probs.square().mean(), valid.sum(), used)


def make_batch(seed: int, *, num_utterances: int = 3) -> AsrBatch:
    generator = torch.Generator().manual_seed(seed)
    x_lens = torch.randint(4, 10, (num_utterances,), generator=generator)
    x = torch.randn(num_utterances, int(x_lens.max()), 4, generator=generator)
    y = torch.randint(1, 5, (num_utterances, 2), generator=generator)
    names = [f"cut-{seed}-{n}" for n in range(num_utterances)]
    return AsrBatch(x, x_lens, y, torch.full((num_utterances,), 2), names, ["a b"] * num_utterances)


class TinyLoader:
    """Stand-in for the training loader: five batches, others in each epoch."""

    def __init__(self) -> None:
        self.epoch, self.num_taken = 1, 0
        self.has_ended: bool | None = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.num_taken = epoch, 0

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[AsrBatch]:
        while self.num_taken < len(self):
            self.num_taken += 1
            yield make_batch(100 * self.epoch + self.num_taken)

    def state_dict(self) -> dict[str, int | str]:
        return {"epoch": self.epoch, "num_taken": self.num_taken}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        self.epoch, self.num_taken = int(state["epoch"]), int(state["num_taken"])


@pytest.fixture
def config() -> Config:
    return Config(training=TrainingConfig(num_epochs=3, warmup_steps=4, loss_warmup_steps=6, learning_rate=0.05))


@pytest.fixture
def batch() -> Callable[..., AsrBatch]:
    return make_batch


@pytest.fixture
def loader() -> Callable[[], TinyLoader]:
    return TinyLoader


@pytest.fixture
def tiny_model() -> Callable[[], TinyModel]:
    """Makes the same stand-in each time."""

    def make() -> TinyModel:
        torch.manual_seed(0)
        return TinyModel()

    return make
