"""The encoder in two parts for other toolkits' trainers, which do not know its statistics and balance of experts.

Both parts together have the parameters of `Encoder`, by the same names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shared_moe_conformer.config import Chunking, EncoderConfig, require, with_options
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.frontend import Conv2dSubsampling, FeatureNorm
from shared_moe_conformer.model.norms import as_wide_as

DEFAULTS = EncoderConfig(balancing_bias_rate=0.001)
"""Defaults of another toolkit's config: the package's, but with experts that need no loss."""


def whole_utterance_parts(options: dict[str, Any], *, num_mel_bins: int, because: str) -> tuple[FrontEnd, Layers]:
    """Both parts, for a toolkit that knows no chunks.

    Args:
      options: fields of `EncoderConfig`; others have the values of `DEFAULTS`.
      because: why there are no chunks, for the message.

    Raises:
      ValueError: an impossible encoder, experts that need a loss, or training in chunks.
    """
    config = with_options(DEFAULTS, options)
    sizes = config.chunk_sizes
    require(not any(sizes), f"the encoder has chunk_sizes {sizes}, but {because}: leave them out")
    require(num_mel_bins >= 16, f"features have {num_mel_bins} values a frame: the encoder needs 16 mel bins or more")
    return FrontEnd(config, num_mel_bins=num_mel_bins), Layers(config)


class FrontEnd(nn.Module):
    """Features to the first layer's frames; a forward in training adds its features to the statistics."""

    def __init__(self, config: EncoderConfig, *, num_mel_bins: int) -> None:
        super().__init__()
        self.feature_norm = FeatureNorm(num_mel_bins, by_loudness=config.loudness_norm)
        self.subsampling = Conv2dSubsampling(num_mel_bins, config.encoder_dim, channels=config.subsampling_channels)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames (N, T', C) and the valid ones of each utterance, (N,).

        Args:
          x: features, (N, T, F).
          x_lens: valid frames of each utterance, (N,).
        """
        if self.training:
            self.feature_norm.count(self.feature_norm.totals(x, x_lens))
        features = self.feature_norm(x, x_lens)
        frames, lens = self.subsampling(features, x_lens)
        return self.dropout(as_wide_as(features, frames)), lens


class Layers(Encoder):
    """The encoder without its front end; a forward in training moves the experts' balancing biases.

    The biases follow the previous batch, since such a trainer does nothing for them after an update.
    """

    frames_per_expert: Tensor | None = None
    """Frames of each expert in the last training batch, (L, E)."""

    def __init__(self, config: EncoderConfig) -> None:
        """Take the options.

        Raises:
          ValueError: experts that only a loss could balance.
        """
        require(
            config.experts_in == "none" or config.balancing_bias_rate > 0,
            "this trainer adds no load-balancing loss: give the experts balancing_bias_rate, e.g. 0.001, or experts_in"
            " none",
        )
        super().__init__(config, num_mel_bins=16)
        del self.feature_norm, self.subsampling, self.dropout
        self.encoder_dim = config.encoder_dim

    def forward(  # type: ignore[override]
        self, x: Tensor, lens: Tensor, chunking: Chunking | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return encoder frames (N, T', C) and the valid ones of each utterance, (N,).

        Args:
          x: the front end's frames, (N, T', C).
          lens: the valid ones of each utterance, (N,).
          chunking: see `Encoder.forward`.
        """
        if self.training and self.frames_per_expert is not None:
            self.balance_experts(self.frames_per_expert)
        output, _ = self.run_layers(x, lens, chunking)
        if self.training and output.routing is not None:
            with torch.no_grad():
                self.frames_per_expert = self.router_losses(output.routing).frames_per_expert
        return output.encoder_out, output.encoder_out_lens
