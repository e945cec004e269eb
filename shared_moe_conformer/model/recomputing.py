"""Layers whose inner results are not kept for the backward pass but computed again there: less memory, more time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shared_moe_conformer.model.block import ConformerBlock, IndividualParts
from shared_moe_conformer.model.normalisation import MaskedBatchNorm
from shared_moe_conformer.model.router import Routing


def recomputed(
    block: ConformerBlock, x: Tensor, padding_mask: Tensor, individual: IndividualParts
) -> tuple[Tensor, list[Routing]]:
    """`block(x, padding_mask, individual)`, of which only x is kept.

    Dropout and jitter are drawn again as they were; statistics of batches count once.

    Source: Chen et al. 2016, Training deep nets with sublinear memory cost (arXiv 1604.06174).
    """
    calls = 0

    def call(x: Tensor) -> tuple[Tensor, list[Routing]]:
        nonlocal calls
        calls += 1
        with nullcontext() if calls == 1 else _uncounted(individual.norms):
            return block(x, padding_mask, individual)

    return checkpoint(call, x, use_reentrant=False)


@contextmanager
def _uncounted(norms: nn.Module) -> Iterator[None]:
    """Let batch normalisations leave their running statistics as they are."""
    batch_norms = [norm for norm in norms.modules() if isinstance(norm, MaskedBatchNorm)]
    for norm in batch_norms:
        norm.counts = False
    try:
        yield
    finally:
        for norm in batch_norms:
            norm.counts = True
