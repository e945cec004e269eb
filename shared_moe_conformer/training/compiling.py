"""Compiling what can be compiled of a model for training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from shared_moe_conformer.config import require


def compile_parts(parts: Iterable[nn.Module], **options: Any) -> None:
    """Compile each part, for batches of any size, when it is first called; its weights and names stay.

    Args:
      parts: modules whose shapes follow from those of their inputs.
      options: of torch.compile.

    Raises:
      ValueError: this torch cannot.
    """
    version = torch.__version__
    require(hasattr(nn.Module, "compile"), f"--compile true needs torch 2.2 or newer, this is {version}: leave it out")
    for part in parts:
        part.compile(dynamic=True, **options)  # type: ignore[operator]
