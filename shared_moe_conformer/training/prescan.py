"""A test, before training begins, whether the largest batches fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from shared_moe_conformer.training.checkpoint import rng_state, set_rng_state
from shared_moe_conformer.training.distributed import gather
from shared_moe_conformer.training.log import logger
from shared_moe_conformer.training.metrics import loss_scales
from shared_moe_conformer.training.tracking import memory_in_use
from shared_moe_conformer.training.trainer import Trainer

if TYPE_CHECKING:
    from shared_moe_conformer.data.batch import AsrBatch

SMALLER = (0.75, 0.5, 0.25, 0.125)
"""Shares of the wanted duration that are tried next, to say which duration fits."""
SIGNS = ("out of memory", "can't allocate memory", "not enough memory")
"""Parts of torch's messages when memory runs out, on GPUs and CPUs."""


def prescan(trainer: Trainer, largest_batches: Callable[[float], Sequence[AsrBatch]], *, max_duration: float) -> None:
    """Compute the gradients of the largest batches and drop them; nothing changes, bit by bit.

    Args:
      largest_batches: function from a duration in seconds to the largest batches of that duration.
      max_duration: seconds in a batch of the training.

    Raises:
      ValueError: the batches do not fit into memory in one of the processes; the message says which would.
    """
    if _fit_everywhere(trainer, largest_batches(max_duration)):
        memory = ", ".join(f"{name} {value:.0f}" for name, value in memory_in_use().items())
        logger.info("the largest batches of %g s fit into memory (%s)", max_duration, memory)
        return
    message = f"batches of --max-duration {max_duration:g} do not fit into the memory of {trainer.device}"
    for share in SMALLER:
        if _fit_everywhere(trainer, largest_batches(share * max_duration)):
            raise ValueError(
                f"{message}, those of {share * max_duration:g} do: give --max-duration {share * max_duration:g}, "
                "with a larger --accumulate-batches to keep updates as large, or --checkpoint-activations true"
            )
    raise ValueError(f"{message}, nor does an eighth of it: leave out the longest cuts, or train a smaller model")


def _fit_everywhere(trainer: Trainer, batches: Sequence[AsrBatch]) -> bool:
    return all(gather(_fit(trainer, batches)))


def _fit(trainer: Trainer, batches: Sequence[AsrBatch]) -> bool:
    """Whether this process can compute the batches while the optimizer's memory is taken too."""
    with _unchanged(trainer):
        try:
            moments = [torch.empty_like(p) for p in trainer.model.parameters() if p.requires_grad for _ in range(2)]
            for batch in batches:
                with trainer.precision.autocast():
                    loss, _ = trainer.losses(trainer.model, batch, loss_scales(trainer.config, 0))
                loss.backward()
            del moments
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in SIGNS):
                raise
            return False
    return True


@contextmanager
def _unchanged(trainer: Trainer) -> Iterator[None]:
    """Put generators, statistics and gradients back after the block."""
    generators, buffers = rng_state(), [buffer.clone() for buffer in trainer.model.buffers()]
    trainer.train_mode()
    try:
        yield
    finally:
        trainer.optimizer.zero_grad(set_to_none=True)
        for buffer, before in zip(trainer.model.buffers(), buffers):
            buffer.copy_(before)
        set_rng_state(generators)
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()
