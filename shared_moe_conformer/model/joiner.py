"""The joiner: logits of the next token from an encoder frame and a decoder frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared_moe_conformer.products import Linear


class Joiner(nn.Module):
    """Both frames projected to `joiner_dim` channels, added, tanh, then one logit per token.

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
