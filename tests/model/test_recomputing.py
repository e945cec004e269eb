from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.model.asr_model import AsrModel

X, X_LENS = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([60, 48, 31])
Y, Y_LENS = torch.tensor([[4, 5, 6, 7], [3, 3, 0, 0], [9, 0, 0, 0]]), torch.tensor([4, 2, 1])


def step(model: AsrModel) -> tuple[Any, int]:
    """The losses of a batch after their backward, and the bytes that autograd kept for it outside recomputed layers."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model(X, X_LENS, Y, Y_LENS)
    (losses.pruned_loss + losses.ctc_loss + losses.load_balancing_loss + losses.router_z_loss).backward()
    return losses, kept


@pytest.mark.parametrize("experts_in", ["none", "both"])
def test_gradients_losses_and_statistics_are_as_without(model_config: Any, experts_in: str) -> None:
    options = {"group_sizes": (3, 1), "dropout": 0.2, "router_jitter": 0.1, "low_rank_delta": 2}
    plain = AsrModel(model_config(experts_in=experts_in, **options), num_mel_bins=20)
    saving = copy.deepcopy(plain)
    saving.checkpoint_activations()
    (expected, kept), (found, kept_less) = step(plain), step(saving)
    assert kept_less < 0.5 * kept
    for name, value in expected._asdict().items():
        assert value is None or torch.equal(value, getattr(found, name)), name
    others = dict(saving.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(others[name].grad, parameter.grad, msg=name)
    statistics = dict(saving.named_buffers())
    assert all(torch.equal(value, statistics[name]) for name, value in plain.named_buffers())
    assert not torch.equal(plain.encoder.groups[0].norms[0].depthwise.running_mean, torch.zeros(16))


def test_statistics_count_again_after_a_backward(model_config: Any) -> None:
    model = AsrModel(model_config(), num_mel_bins=20)
    model.checkpoint_activations()
    means = []
    for _ in range(2):
        step(model)
        means.append(model.encoder.groups[0].norms[0].depthwise.running_mean.clone())
    assert not torch.equal(*means)
