"""Options of the networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shared_moe_conformer.config.encoder import EncoderConfig
from shared_moe_conformer.config.tree import require, require_choice

TransducerBackend = Literal["auto", "k2", "torch"]


@dataclass(frozen=True)
class ModelConfig:
    """Encoder, stateless decoder, joiner and CTC head."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder."""
    vocab_size: int = 500
    """Output units, blank included (V); must be the tokenizer's."""
    decoder_dim: int = 256
    """Channels of the decoder, the prediction network."""
    context_size: int = 2
    """Previous tokens that the decoder sees."""
    joiner_dim: int = 256
    """Channels in which encoder and decoder frames are added."""
    transducer_backend: TransducerBackend = "auto"
    """Engine of the transducer loss; auto: k2 on a GPU where it is installed, otherwise torch (faster on a CPU)."""

    def __post_init__(self) -> None:
        require(self.vocab_size >= 2, f"vocab_size is {self.vocab_size}: give 2 or more (unit 0 is blank)")
        for name in ("decoder_dim", "context_size", "joiner_dim"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: give 1 or more")
        require_choice("transducer_backend", self.transducer_backend, TransducerBackend)
