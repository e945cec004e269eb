from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_moe_conformer.training.compiling import compile_parts

HAS_COMPILE = hasattr(nn.Module, "compile")


@pytest.mark.skipif(not HAS_COMPILE, reason="torch 2.2 compiles modules")
def test_compiled_parts_compute_the_same_under_their_own_names() -> None:
    """By dynamo alone: a backend that makes machine code takes minutes."""
    model = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2))
    names, x = list(model.state_dict()), torch.randn(5, 3)
    expected = model(x)
    compile_parts([model[0], model[2]], backend="eager")
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == names
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.skipif(HAS_COMPILE, reason="this torch compiles")
def test_an_older_torch_is_named() -> None:
    with pytest.raises(ValueError, match="--compile true needs torch 2.2 or newer, this is 1"):
        compile_parts([nn.Linear(1, 1)])
