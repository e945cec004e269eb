"""The encoder in NeMo: once this is imported, a config may say `_target_: shared_moe_conformer.nemo.Encoder`.

docs/nemo.md has a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nemo.core.classes import NeuralModule, common
from torch import Tensor

from shared_moe_conformer.config import SUBSAMPLING_FACTOR, EncoderConfig, require, with_options
from shared_moe_conformer.standalone import FrontEnd, Layers

DEFAULTS = EncoderConfig(balancing_bias_rate=0.001)
"""Options that a config leaves out: those of the package, and experts that need no loss."""
PREFIX = "shared_moe_conformer."

if PREFIX not in common.ALLOWED_TARGET_PREFIXES:
    common.ALLOWED_TARGET_PREFIXES.append(PREFIX)  # NeMo makes nothing of a config that is not listed there


class Encoder(NeuralModule):  # type: ignore[misc]
    """What a NeMo model calls `encoder`: features (N, F, T) to frames (N, C, T')."""

    subsampling_factor = SUBSAMPLING_FACTOR
    """Feature frames of an encoder frame, by which NeMo tells times."""

    def __init__(self, feat_in: int, **options: Any) -> None:
        """Take the options.

        Args:
          feat_in: mel bins of the preprocessor.
          options: fields of `EncoderConfig`; those that are left out have the values of `DEFAULTS`.

        Raises:
          ValueError: an encoder that cannot be, or whose experts need a loss, or that is trained in chunks.
        """
        super().__init__()
        config = with_options(DEFAULTS, {name: _plain(value) for name, value in options.items()})
        require(
            not any(config.chunk_sizes),
            f"the encoder has chunk_sizes {config.chunk_sizes}, but NeMo's streaming does not know it: leave them out",
        )
        self.front_end = FrontEnd(config, num_mel_bins=feat_in)
        self.layers = Layers(config)
        self._feat_out = config.encoder_dim

    def forward(self, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Return encoder frames (N, C, T') and the valid ones of each utterance, (N,).

        Args:
          audio_signal: features, (N, F, T).
          length: valid frames of each utterance, (N,).
        """
        frames, lens = self.layers(*self.front_end(audio_signal.transpose(1, 2), length))
        return frames.transpose(1, 2), lens


def _plain(value: Any) -> Any:
    """A value of a config; OmegaConf's lists as Python's."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
