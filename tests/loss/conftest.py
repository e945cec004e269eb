"""The sum over all alignments, written out, and the functions of each backend."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations_with_replacement

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.loss.backend import TransducerFunctions, transducer_functions


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["torch", "k2"])
def functions(request: pytest.FixtureRequest) -> TransducerFunctions:
    """Each backend that is installed."""
    if request.param == "k2":
        pytest.importorskip("k2")
    return transducer_functions(request.param, "cpu")


@pytest.fixture(scope="session")
def sum_over_alignments() -> Callable[[Tensor, Tensor], Tensor]:
    """Log-probability of all ways to emit the tokens, each in one frame, in order, and a blank after each frame."""

    def total(px: Tensor, py: Tensor) -> Tensor:
        num_tokens, num_frames = px.shape[0], py.shape[1]
        alignments = []
        for frame_of_token in combinations_with_replacement(range(num_frames), num_tokens):
            emitted = [sum(t >= frame for frame in frame_of_token) for t in range(num_frames)]
            tokens, blanks = px[range(num_tokens), frame_of_token], py[emitted, range(num_frames)]
            alignments.append(tokens.sum() + blanks.sum())
        return torch.stack(alignments).logsumexp(0)

    return total


@pytest.fixture(scope="session")
def sum_over_alignments_of_logits(
    sum_over_alignments: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor], Tensor]:
    """The same from a joiner's logits (T, U + 1, V) and tokens (U,)."""

    def total(logits: Tensor, y: Tensor) -> Tensor:
        log_probs = logits.log_softmax(-1).transpose(0, 1)  # (U + 1, T, V)
        px = log_probs[:-1].gather(2, y.reshape(-1, 1, 1).expand(-1, logits.shape[0], 1)).squeeze(2)
        return sum_over_alignments(px, log_probs[..., 0])

    return total
