"""The options of a model in transformers."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from shared_moe_conformer.config import ENCODER_FRAME_SHIFT, EncoderConfig, to_dict, with_options
from shared_moe_conformer.hugging_face.saving import SavesCode
from shared_moe_conformer.release.hugging_face import MODEL_CLASSES, MODEL_TYPE


class SharedMoeConformerConfig(SavesCode, PretrainedConfig):
    """The encoder's options under `encoder`, and what transformers asks of every CTC model."""

    model_type = MODEL_TYPE

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        *,
        vocab_size: int = 500,
        num_mel_bins: int = 80,
        sampling_rate: int = 16000,
        load_balancing_loss_scale: float = 0.01,
        router_z_loss_scale: float = 0.001,
        **others: Any,
    ) -> None:
        """Take the options.

        Args:
          encoder: fields of `EncoderConfig`; the others have its defaults.
          vocab_size: output units, blank (0) included.
          num_mel_bins: of the features.
          sampling_rate: of the audio, in Hz.
          load_balancing_loss_scale, router_z_loss_scale: in a loss, beside CTC's mean over frames.

        Raises:
          ValueError: the encoder cannot be.
        """
        options = with_options(EncoderConfig(), encoder or {})
        self.encoder = to_dict(options)
        self.vocab_size = vocab_size
        self.num_mel_bins, self.sampling_rate = num_mel_bins, sampling_rate
        self.load_balancing_loss_scale, self.router_z_loss_scale = load_balancing_loss_scale, router_z_loss_scale
        self.hidden_size = options.encoder_dim
        self.num_hidden_layers = options.num_layers
        self.num_attention_heads = options.num_attention_heads
        self.inputs_to_logits_ratio = round(ENCODER_FRAME_SHIFT * sampling_rate)
        super().__init__(**{"pad_token_id": 0, **others, "auto_map": MODEL_CLASSES})

    def encoder_config(self) -> EncoderConfig:
        """The encoder's options."""
        return with_options(EncoderConfig(), self.encoder)
