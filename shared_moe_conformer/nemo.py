"""The encoder in NeMo: once this is imported, a config may say `_target_: shared_moe_conformer.nemo.Encoder`.

docs/nemo.md has a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nemo.core.classes import NeuralModule, common
from torch import Tensor

from shared_moe_conformer.config import SUBSAMPLING_FACTOR
from shared_moe_conformer.standalone import whole_utterance_parts

PREFIX = "shared_moe_conformer."

if PREFIX not in common.ALLOWED_TARGET_PREFIXES:
    common.ALLOWED_TARGET_PREFIXES.append(PREFIX)  # NeMo only builds configs whose prefix is listed there


class Encoder(NeuralModule):  # type: ignore[misc]
    """The `encoder` of a NeMo model: features (N, F, T) to frames (N, C, T')."""

    subsampling_factor = SUBSAMPLING_FACTOR
    """Feature frames per encoder frame, from which NeMo computes times."""

    def __init__(self, feat_in: int, **options: Any) -> None:
        """Take the mel bins of the preprocessor, and the options of `standalone.whole_utterance_parts`."""
        super().__init__()
        plain = {name: _plain(value) for name, value in options.items()}
        self.front_end, self.layers = whole_utterance_parts(
            plain, num_mel_bins=feat_in, because="NeMo's streaming does not know it"
        )
        self._feat_out = self.layers.encoder_dim

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
