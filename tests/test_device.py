from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.device import choose_device


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("auto").type == kind
    assert choose_device("cpu") == torch.device("cpu")


def test_a_device_that_cannot_be_used_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="--device abacus cannot be used here") as caught:
        choose_device("abacus")
    assert "\n" not in str(caught.value)


def test_a_gpu_without_a_number_is_left_for_each_process_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """To torch it is the first one: two processes would train on it."""

    class OnFirst:
        device = torch.device("cuda:0")

    monkeypatch.setattr(torch, "empty", lambda *size, device: OnFirst)
    assert choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
