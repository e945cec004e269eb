"""Input of the transducer losses, and the losses as icefall computes them: for tests and benchmarks."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.loss.pruned_transducer import TransducerLosses
from shared_moe_conformer.model.transducer import Joiner

SMOOTHING: dict[str, Any] = {"lm_only_scale": 0.25, "am_only_scale": 0.0}
"""Smoothing of the simple loss, as icefall's recipes have it."""


class Batch(NamedTuple):
    """The first arguments of `pruned_transducer_loss`."""

    am_simple: Tensor
    lm_simple: Tensor
    encoder_frames: Tensor
    decoder_frames: Tensor
    joiner: Joiner
    y: Tensor
    x_lens: Tensor
    y_lens: Tensor

    def parameters(self) -> list[Tensor]:
        """The tensors that have gradients."""
        return [*self[:4], *self.joiner.output.parameters()]

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Gradients of `parameters()`; None where the loss does not depend on one."""
        return torch.autograd.grad(loss, self.parameters(), allow_unused=True)

    def double(self) -> Batch:
        """The same in float64, with parameters of its own."""
        names = ("am_simple", "lm_simple", "encoder_frames", "decoder_frames")
        frames: dict[str, Any] = {name: getattr(self, name).detach().double().requires_grad_() for name in names}
        return self._replace(joiner=copy.deepcopy(self.joiner).double(), **frames)

    def boundary(self) -> Tensor:
        """[begin_symbol, begin_frame, end_symbol, end_frame] of each utterance, (N, 4)."""
        zeros = torch.zeros_like(self.x_lens)
        return torch.stack([zeros, zeros, self.y_lens, self.x_lens], dim=1)


def make_batch(
    x_lens: list[int], y_lens: list[int], *, vocab_size: int, joiner_dim: int, dtype: torch.dtype = torch.float32
) -> Batch:
    """Random frames, random at padding too."""
    batch, num_frames, num_tokens = len(x_lens), max(x_lens), max(y_lens)
    lengths = torch.tensor(y_lens)
    y = torch.randint(1, vocab_size, (batch, num_tokens)) * (torch.arange(num_tokens) < lengths.unsqueeze(1))

    def frames(length: int, channels: int) -> Tensor:
        return torch.randn(batch, length, channels, dtype=dtype, requires_grad=True)

    return Batch(
        am_simple=frames(num_frames, vocab_size),
        lm_simple=frames(num_tokens + 1, vocab_size),
        encoder_frames=frames(num_frames, joiner_dim),
        decoder_frames=frames(num_tokens + 1, joiner_dim),
        joiner=Joiner(3, 3, joiner_dim, vocab_size).to(dtype),
        y=y,
        x_lens=torch.tensor(x_lens),
        y_lens=lengths,
    )


def step_by_step(batch: Batch, prune_range: int, functions: Any) -> TransducerLosses:
    """The losses as icefall computes them, from k2's four functions or another module's of the same names."""
    boundary = batch.boundary()
    common = {"symbols": batch.y, "termination_symbol": 0, "boundary": boundary, "reduction": "sum"}
    simple_loss, (px_grad, py_grad) = functions.rnnt_loss_smoothed(
        lm=batch.lm_simple, am=batch.am_simple, return_grad=True, **SMOOTHING, **common
    )
    ranges = functions.get_rnnt_prune_ranges(px_grad, py_grad, boundary, prune_range)
    frames = functions.do_rnnt_pruning(batch.encoder_frames, batch.decoder_frames, ranges)
    pruned_loss = functions.rnnt_loss_pruned(logits=batch.joiner(*frames), ranges=ranges, **common)
    return TransducerLosses(simple_loss, pruned_loss, torch.zeros(()))
