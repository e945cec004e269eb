"""The encoder, and the encoder with its CTC head, as models of transformers; and their options."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput, ModelOutput

from shared_moe_conformer.config import ENCODER_FRAME_SHIFT, EncoderConfig, to_dict, with_options
from shared_moe_conformer.kernels.linear import Linear
from shared_moe_conformer.loss.per_frame import ctc_loss
from shared_moe_conformer.model.encoder import Encoder, EncoderOutput
from shared_moe_conformer.model.merging import DepthGates
from shared_moe_conformer.release.card import CODE, MODEL_CLASSES, MODEL_TYPE


class SavesCode:
    """A class of transformers whose `save_pretrained` also writes the code that names the classes.

    Otherwise transformers would copy the file of each class, and some of the files that it imports.
    """

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "") -> None:
        """Do nothing: `auto_map` names the folder's code already."""

    def save_pretrained(self, save_directory: str | Path, *args: Any, **options: Any) -> Any:
        """Save, and add the code; the arguments are those of transformers."""
        saved = super().save_pretrained(save_directory, *args, **options)  # type: ignore[misc]
        shutil.copyfile(Path(__file__).with_name(f"{CODE}.py"), Path(save_directory) / f"{CODE}.py")
        return saved


class SharedMoeConformerConfig(SavesCode, PretrainedConfig):
    """The encoder's options under `encoder`, and those that transformers wants of every CTC model."""

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
          load_balancing_loss_scale, router_z_loss_scale: weights in the loss, beside CTC's mean over frames.

        Raises:
          ValueError: an impossible encoder.
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


BLANK_ID = 0


@dataclass
class SharedMoeConformerOutput(ModelOutput):
    """The encoder's output."""

    last_hidden_state: Tensor | None = None
    """(N, T', C), a frame each 40 ms."""
    attention_mask: Tensor | None = None
    """1 where a frame is valid, (N, T')."""
    expert_ids: Tensor | None = None
    """Experts of each valid frame, the most probable first, (expert feed-forwards, frames, K); None without experts."""


class SharedMoeConformerPreTrainedModel(SavesCode, PreTrainedModel):
    """The common part of both models."""

    config_class = SharedMoeConformerConfig
    base_model_prefix = "conformer"
    main_input_name = "input_features"
    input_modalities = ("audio",)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill what loading leaves empty: a head for other units, and depths, which no file stores.

        Constructors initialise all other parts.
        """
        if module is getattr(self, "ctc_head", None):
            module.reset_parameters()
        elif isinstance(module, DepthGates) and module.kind == "network":
            module.depth.copy_(torch.linspace(0, 1, len(module.depth))[:, None])


class SharedMoeConformerModel(SharedMoeConformerPreTrainedModel):
    """Only the encoder; `encoder` is the package's own, with routing and chunks."""

    _keys_to_ignore_on_load_unexpected = ["ctc_head"]

    def __init__(self, config: SharedMoeConformerConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config.encoder_config(), num_mel_bins=config.num_mel_bins)
        self.post_init()

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None) -> SharedMoeConformerOutput:
        """Return encoder frames.

        Args:
          input_features: features, (N, T, F).
          attention_mask: 1 where a feature frame is valid, (N, T), with padding on the right; None: all are.
        """
        frames, lens, routing = self.encode(input_features, attention_mask)
        return SharedMoeConformerOutput(
            last_hidden_state=frames,
            attention_mask=_mask(frames, lens),
            expert_ids=None if routing is None else routing.expert_ids,
        )

    def encode(self, input_features: Tensor, attention_mask: Tensor | None) -> EncoderOutput:
        """Return the package's own output for the arguments of `forward`."""
        if attention_mask is None:
            attention_mask = input_features.new_ones(input_features.shape[:2], dtype=torch.int64)
        return self.encoder(input_features, attention_mask.sum(dim=1).long())


class SharedMoeConformerForCTC(SharedMoeConformerPreTrainedModel):
    """Encoder and CTC head."""

    def __init__(self, config: SharedMoeConformerConfig) -> None:
        super().__init__(config)
        self.conformer = SharedMoeConformerModel(config)
        self.ctc_head = Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> CausalLMOutput:
        """Return logits (N, T', V) and, with labels, the loss; padding is certain to be blank.

        Args:
          input_features: features, (N, T, F).
          attention_mask: 1 where a feature frame is valid, (N, T), with padding on the right; None: all are.
          labels: units of each text, (N, U), padded with -100.
        """
        output = self.conformer.encode(input_features, attention_mask)
        logits = self.ctc_head(output.encoder_out)
        padding = _mask(logits, output.encoder_out_lens) == 0
        certain = logits.new_full(logits.shape[-1:], torch.finfo(logits.dtype).min)
        certain[BLANK_ID] = 0.0
        logits = torch.where(padding.unsqueeze(-1), certain, logits)
        loss = None if labels is None else self._loss(logits, labels, output)
        return CausalLMOutput(loss=loss, logits=logits)

    def _loss(self, logits: Tensor, labels: Tensor, output: EncoderOutput) -> Tensor:
        """CTC's mean over frames and the routers' losses, weighed as the package's trainer weighs them."""
        lens, valid = output.encoder_out_lens, labels >= 0
        log_probs = logits.float().log_softmax(dim=-1)
        loss = ctc_loss(log_probs, lens, labels.masked_fill(~valid, BLANK_ID), valid.sum(dim=1)) / lens.sum().clamp(
            min=1
        )
        if output.routing is None:
            return loss
        routers = self.conformer.encoder.router_losses(output.routing)
        return (
            loss
            + self.config.load_balancing_loss_scale * routers.load_balancing_loss.sum()
            + self.config.router_z_loss_scale * routers.router_z_loss.sum()
        )


def _mask(frames: Tensor, lens: Tensor) -> Tensor:
    """1 at the valid ones of (N, T', ...) frames, (N, T'), int64."""
    return (torch.arange(frames.size(1), device=frames.device) < lens.unsqueeze(1)).long()
