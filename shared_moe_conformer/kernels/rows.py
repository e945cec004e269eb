"""A loss of rows that are expensive to compute, most of which have next to no gradient.

Half or two thirds of the positions that pruning keeps are passed by hardly any alignment. Their gradients are all but 0
and yet cost as much as the others', or more, where they are subnormal numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROWS_AT_ONCE = 512
"""Rows that are computed at once, so that their parts stay in a CPU's cache."""
SMALLEST_GRADIENT = 2e-6
"""Share of the largest row's gradient below which a row's counts as 0: of a frame's 5 rows, together 1e-5 at most."""


def loss_of_rows(compute: Callable[[Tensor], Tensor], loss_of: Callable[[Tensor], Tensor], indices: Tensor) -> Tensor:
    """The loss `loss_of(compute(indices))`; on a CPU only rows that matter to it are computed with gradient.

    There all rows are first computed without gradient, a few hundred at a time, so that only their results are held.
    The loss's gradient with respect to these tells which rows matter, and those are computed again. On a GPU all rows
    are computed once, since a loop would wait for its launches. The result may be differentiated once only: on a CPU
    its second derivatives would lack those of `loss_of`.

    Args:
      compute: function from the indices of rows, (R,), to their results, (R, K).
      loss_of: function from the results of all rows to the loss, a scalar.
      indices: of all rows, (R,).
    """
    if indices.device.type != "cpu" or len(indices) == 0:
        return loss_of(compute(indices))
    with torch.no_grad():
        results = torch.cat([compute(some) for some in indices.split(ROWS_AT_ONCE)])
    torch.clear_autocast_cache()  # otherwise weights that were cast here would have no gradient below
    if not torch.is_grad_enabled():
        return loss_of(results)
    loss = loss_of(results.requires_grad_())
    (gradient,) = torch.autograd.grad(loss, results)
    size = gradient.abs().sum(dim=1)
    matter = ~(size <= SMALLEST_GRADIENT * size.max())  # so that NaN matters
    changes = (gradient[matter] * compute(indices[matter])).sum()
    return loss.detach() + (changes - changes.detach())  # the first gives the value, the rest the gradient
