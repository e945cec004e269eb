"""Half precision in the forward pass of training: matrix products in 16 bits, sums and losses in float32.

The weights and the optimizer stay in float32; routers, softmaxes and losses compute in it.

Source: Micikevicius et al. 2018, Mixed precision training (arXiv 1710.03740).
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from shared_moe_conformer.config import require

FIRST_LOSS_SCALE, FIRST_SCALE_OF_SUMS = 2.0**10, 1.0
"""Of a mean over frames, and of a sum over them: small enough that the first updates of float16 are hardly ever lost;
they double every 2,000 updates that are good."""


class Precision:
    """The number format of a training, and the loss scale that float16 needs."""

    def __init__(self, name: str, device: torch.device, *, of_sums: bool = False) -> None:
        """Nothing is computed yet.

        Args:
          name: float32, bfloat16 or float16.
          device: where the model is.
          of_sums: losses are sums over frames, not means.

        Raises:
          ValueError: this torch cannot train with it there.
        """
        possible = name != "float16" or device.type == "cuda" or hasattr(torch.amp, "GradScaler")
        require(
            possible, f"--precision float16 on a CPU needs torch 2.3 or newer, this is {torch.__version__}: bfloat16"
        )
        self._device = device.type
        self._dtype: torch.dtype = getattr(torch, name)
        first_scale = FIRST_SCALE_OF_SUMS if of_sums else FIRST_LOSS_SCALE
        self._scaler = _grad_scaler(self._device, first_scale) if name == "float16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device, dtype=self._dtype)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call `backward` of: float16's gradients would vanish if it were not scaled up."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradients those of the loss itself."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the weights."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()

    def skip(self) -> None:
        """Leave an update out; the loss scale becomes smaller if the gradients were too large for float16."""
        if self._scaler is not None:
            self._scaler.update()

    def state(self) -> dict[str, str]:
        """What a checkpoint keeps."""
        return {} if self._scaler is None else {"grad_scaler": json.dumps(self._scaler.state_dict())}

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Go back to the state that a checkpoint kept."""
        if self._scaler is not None and "grad_scaler" in checkpoint:
            self._scaler.load_state_dict(json.loads(checkpoint["grad_scaler"]))


def _grad_scaler(device: str, first_scale: float) -> Any:
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device, init_scale=first_scale)
    return torch.cuda.amp.GradScaler(init_scale=first_scale)
