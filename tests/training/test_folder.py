from __future__ import annotations

import json
import random
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shared_moe_conformer.training import folder
from shared_moe_conformer.training.folder import (
    BEST_NAME,
    epoch_path,
    keep_last,
    load_checkpoint,
    rng_state,
    save_checkpoint,
    save_if_best,
    saved_epochs,
    set_rng_state,
)
from tests.training.conftest import save_epochs


def draw() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved: dict[str, Any] = {"model": {"w": torch.randn(3)}, "train_state": '{"epoch": 2}', "rng_state": rng_state()}
    save_checkpoint(tmp_path / "epoch-1.pt", saved)
    loaded = load_checkpoint(tmp_path / "epoch-1.pt")
    assert torch.equal(loaded["model"]["w"], saved["model"]["w"])
    assert loaded["train_state"] == saved["train_state"]
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-1.pt"]


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    random.gauss(0, 1), np.random.randn()  # each keeps half of a pair
    save_checkpoint(tmp_path / "epoch-1.pt", {"model": {}, "rng_state": rng_state()})
    expected = draw(), random.gauss(0, 1), np.random.randn()
    draw()
    set_rng_state(load_checkpoint(tmp_path / "epoch-1.pt")["rng_state"])
    assert (draw(), random.gauss(0, 1), np.random.randn()) == expected


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_epochs(tmp_path, {1: 1.0})

    def fail(value: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(folder.torch, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(epoch_path(tmp_path, 1), {"model": {}})
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-1.pt"]
    assert float(load_checkpoint(epoch_path(tmp_path, 1))["model"]["w"][0]) == 1.0


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    save_epochs(tmp_path, {1: 1.0})
    path = epoch_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(ValueError, match=r"epoch-1\.pt cannot be read"):
        load_checkpoint(path)


def test_a_file_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": {}}, tmp_path / "epoch-1.pt")
    with pytest.raises(ValueError, match="holds no model"):
        load_checkpoint(tmp_path / "epoch-1.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model": Trap()}, tmp_path / "epoch-1.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path / "epoch-1.pt")
    assert not (tmp_path / "sprung").exists()


def test_only_the_last_epochs_are_kept(tmp_path: Path) -> None:
    save_epochs(tmp_path, dict.fromkeys((8, 9, 10, 11), 0.0))
    keep_last(tmp_path, 0)
    assert saved_epochs(tmp_path) == [8, 9, 10, 11]
    keep_last(tmp_path, 2)
    assert saved_epochs(tmp_path) == [10, 11]
    keep_last(tmp_path, 5)
    assert saved_epochs(tmp_path) == [10, 11]


def test_a_disk_without_room_is_one_line_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "epoch-1.pt"
    save_checkpoint(path, {"model": {"weight": torch.zeros(1)}})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(ValueError, match=r"epoch-1\.pt cannot be written .* MiB are free"):
            save_checkpoint(path, {"model": {"weight": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in tmp_path.iterdir()] == ["epoch-1.pt"]
    assert load_checkpoint(path)["model"]["weight"].tolist() == [0.0]


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    model = nn.Linear(1, 1, bias=False)
    for epoch, wer in enumerate([90.0, 50.0, 70.0, 50.0, 49.0], start=1):
        nn.init.constant_(model.weight, float(epoch))
        assert save_if_best(tmp_path / BEST_NAME, model.state_dict(), value=wer, epoch=epoch) == (epoch in (1, 2, 5))
    assert load_checkpoint(tmp_path / BEST_NAME)["model"]["weight"] == 5.0
    assert json.loads(load_checkpoint(tmp_path / BEST_NAME)["valid_wer"]) == 49.0


@pytest.mark.parametrize("content", [b"damaged", None])
def test_damaged_best_weights_are_replaced(tmp_path: Path, content: bytes | None, caplog: Any) -> None:
    if content is None:
        save_checkpoint(tmp_path / BEST_NAME, {"model": {}})
    else:
        (tmp_path / BEST_NAME).write_bytes(content)
    assert save_if_best(tmp_path / BEST_NAME, nn.Linear(1, 1, bias=False).state_dict(), value=90.0, epoch=1)
    assert f"{BEST_NAME} cannot be read" in caplog.text
    assert json.loads(load_checkpoint(tmp_path / BEST_NAME)["valid_wer"]) == 90.0
