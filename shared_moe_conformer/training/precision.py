"""Training in half precision, with compiled parts, or with recomputed activations.

In half precision matrix products take 16 bits. Weights, the optimizer, routers, softmaxes and losses stay in float32.

Source: Micikevicius et al. 2018, Mixed precision training (arXiv 1710.03740).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shared_moe_conformer.config import require
from shared_moe_conformer.model.conformer import ConformerBlock, FeedForward, IndividualParts, SelfAttention
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.merging import Merged
from shared_moe_conformer.model.moe import Routing
from shared_moe_conformer.model.norms import MaskedBatchNorm

FIRST_LOSS_SCALE = 2.0**10
"""First scale of a loss that is a mean over frames: so small that float16 rarely loses the first updates. It doubles
after every 2,000 good updates."""
FIRST_SCALE_OF_SUMS = 1.0
"""First scale of a loss that is a sum over frames."""


class Precision:
    """The number format of a training, and the loss scale that float16 needs."""

    def __init__(self, name: str, device: torch.device, *, of_sums: bool = False) -> None:
        """Choose the format.

        Args:
          name: float32, bfloat16 or float16.
          of_sums: losses are sums over frames, not means.

        Raises:
          ValueError: this torch cannot train in this format on this device.
        """
        possible = name != "float16" or device.type == "cuda" or hasattr(torch.amp, "GradScaler")
        require(
            possible,
            f"--precision float16 on a CPU needs torch 2.3 or newer, this is {torch.__version__}: give bfloat16",
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
        """The loss for `backward`, scaled up for float16, in which small gradients would become 0."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale of the loss."""
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
        """Skip an update; the loss scale falls if the gradients were too large for float16."""
        if self._scaler is not None:
            self._scaler.update()

    def state(self) -> dict[str, str]:
        """The entries of a checkpoint."""
        return {} if self._scaler is None else {"grad_scaler": json.dumps(self._scaler.state_dict())}

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Go back to the state of a checkpoint."""
        if self._scaler is not None and "grad_scaler" in checkpoint:
            self._scaler.load_state_dict(json.loads(checkpoint["grad_scaler"]))


def _grad_scaler(device: str, first_scale: float) -> Any:
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device, init_scale=first_scale)
    return torch.cuda.amp.GradScaler(init_scale=first_scale)


def compilable_parts(model: nn.Module) -> list[nn.Module]:
    """Modules of the layers whose shapes follow from those of their inputs, unlike experts and batch statistics.

    Sets of merged weights are left out: a compiled module would compute with its own weights.
    """
    merged = {one for module in model.modules() if isinstance(module, Merged) for one in module.sets}
    kinds = SelfAttention, FeedForward
    return [module for module in model.modules() if isinstance(module, kinds) and module not in merged]


def compile_parts(parts: Iterable[nn.Module], **options: Any) -> None:
    """Have torch compile each part at its first call, for batches of any size; weights and names stay the same.

    Args:
      parts: modules whose output shapes follow from their input shapes.
      options: options of torch.compile.

    Raises:
      ValueError: this torch cannot compile modules, or there is no part.
    """
    version, parts = torch.__version__, list(parts)
    require(hasattr(nn.Module, "compile"), f"--compile true needs torch 2.2 or newer, this is {version}: leave it out")
    require(parts != [], "--compile true: merged sets of weights cannot be compiled, nor experts: leave it out")
    for part in parts:
        part.compile(dynamic=True, **options)  # type: ignore[operator]


def recompute_activations(model: nn.Module) -> None:
    """From now on keep only the layers' inputs for the backward pass, which recomputes the rest.

    Dropout and jitter are drawn again as they were; statistics of batches count once.

    Source: Chen et al. 2016, Training deep nets with sublinear memory cost (arXiv 1604.06174).
    """
    for block in [module for module in model.modules() if isinstance(module, ConformerBlock)]:
        block.forward = functools.partial(_recomputed, block)  # type: ignore[method-assign]


def _recomputed(
    block: ConformerBlock, x: Tensor, frames: Frames, individual: IndividualParts, mixer: nn.Module | None = None
) -> tuple[Tensor, list[Routing]]:
    calls = 0

    def call(x: Tensor) -> tuple[Tensor, list[Routing]]:
        nonlocal calls
        calls += 1
        with nullcontext() if calls == 1 else _uncounted(individual.norms):
            return ConformerBlock.forward(block, x, frames, individual, mixer)

    if not (block.training and torch.is_grad_enabled()):
        return call(x)
    return checkpoint(call, x, use_reentrant=False)


@contextmanager
def _uncounted(norms: nn.Module) -> Iterator[None]:
    """Keep batch normalisations from changing their running statistics."""
    momenta = {norm: norm.momentum for norm in norms.modules() if isinstance(norm, MaskedBatchNorm)}
    for norm in momenta:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
