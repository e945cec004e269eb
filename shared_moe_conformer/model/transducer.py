"""The transducer's decoder (prediction network) and joiner."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.kernels.linear import Linear


class Decoder(nn.Module):
    """Embedding of the last `context_size` tokens, mixed by a grouped convolution, then ReLU: it keeps no state.

    A negative token means "before the beginning" and counts as zeros.

    Source: Ghodsi et al. 2020, RNN-Transducer with stateless prediction network (ICASSP 2020); the grouped convolution
    is icefall's.
    """

    blank_id = 0
    channels_per_group = 4

    def __init__(self, vocab_size: int, decoder_dim: int, context_size: int) -> None:
        super().__init__()
        if decoder_dim % self.channels_per_group:
            raise ValueError(f"decoder_dim is {decoder_dim}: give a multiple of {self.channels_per_group}")
        self.vocab_size = vocab_size
        self.context_size = context_size
        self.embedding = nn.Embedding(vocab_size, decoder_dim)
        self.conv = nn.Conv1d(
            decoder_dim, decoder_dim, context_size, groups=decoder_dim // self.channels_per_group, bias=False
        )

    @property
    def start_context(self) -> list[int]:
        """The `context_size` tokens of an empty hypothesis: blank, and before it nothing."""
        return [-1] * (self.context_size - 1) + [self.blank_id]

    def forward(self, y: Tensor) -> Tensor:
        """Return (N, U, decoder_dim); frame u sees the tokens u - context_size + 1 to u.

        Args:
          y: tokens, (N, U), int64.
        """
        return self._mix(F.pad(y, (self.context_size - 1, 0), value=-1))

    def step(self, context: Tensor) -> Tensor:
        """Return (N, decoder_dim) for the last tokens of N hypotheses, (N, context_size), int64."""
        return self._mix(context).squeeze(1)

    def _mix(self, y: Tensor) -> Tensor:
        embedded = self.embedding(y.clamp(min=0)) * (y >= 0).unsqueeze(-1)
        return F.relu(self.conv(embedded.transpose(1, 2)).transpose(1, 2))


class Joiner(nn.Module):
    """Encoder and decoder frame projected to `joiner_dim` channels, added, tanh, then one logit per token.

    Source: Graves 2012, Sequence transduction with recurrent neural networks (arXiv 1211.3711), with the additive joint
    network of Graves et al. 2013 (arXiv 1303.5778).
    """

    def __init__(self, encoder_dim: int, decoder_dim: int, joiner_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.encoder_projection = Linear(encoder_dim, joiner_dim)
        self.decoder_projection = Linear(decoder_dim, joiner_dim)
        self.output = Linear(joiner_dim, vocab_size)

    def forward(self, projected_encoder_out: Tensor, projected_decoder_out: Tensor) -> Tensor:
        """Return logits (..., V) of frames (..., J) that are already projected; leading axes broadcast."""
        return self.output(torch.tanh(projected_encoder_out + projected_decoder_out))
