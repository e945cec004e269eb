"""A released model's weights, from safetensors into the model that its config describes."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from shared_moe_conformer.config import Config, require
from shared_moe_conformer.model.asr_model import AsrModel

MAX_LAYERS = 1000
"""Most layers of an encoder. Layers with shared norms and routers store nothing, so the weights do not bound them."""


def load_model(config: Config, path: Path, *, config_path: Path) -> AsrModel:
    """The model of a config with the weights of a safetensors file, in evaluation mode.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the model is impossible, the file is damaged, or its weights are another model's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: get the model again")
    weights = read_weights(path)
    require_possible(config, num_values=sum(value.numel() for value in weights.values()), path=config_path)
    try:
        model = AsrModel(config.model, num_mel_bins=config.features.num_mel_bins)
    except (TypeError, ValueError, RuntimeError, MemoryError, OverflowError, ZeroDivisionError) as error:
        reason = (str(error).splitlines() or ["not enough memory"])[0]
        raise ValueError(f"{config_path} describes a model that cannot be built here: {reason}") from error
    copy_weights(model, weights, source=path)
    return model.eval()


def require_possible(config: Config, *, num_values: int, path: Path) -> None:
    """Refuse a config with a tensor larger than all weights together, before memory is taken for it.

    Args:
      config: from a file that anybody may have written.
      num_values: numbers in all weights together.
    """
    try:
        model, encoder = config.model, config.model.encoder
        sizes = [
            len(encoder.block_sizes) * encoder.merged_sets * encoder.encoder_dim**2,
            encoder.encoder_dim * max(encoder.feed_forward_dim, *encoder.block_feed_forward_dims, 0),
            encoder.encoder_dim * encoder.conv_kernel_size,
            encoder.encoder_dim * encoder.subsampling_channels * (config.features.num_mel_bins // 4 - 1),
            encoder.subsampling_channels**2,
            model.vocab_size * max(model.decoder_dim, model.joiner_dim, encoder.encoder_dim),
            model.decoder_dim * model.context_size,
            model.joiner_dim * max(model.decoder_dim, encoder.encoder_dim),
        ]
        if encoder.experts_in != "none":
            expert_dim = encoder.expert_dim or encoder.feed_forward_dim
            sizes.append(encoder.encoder_dim * max(encoder.num_experts * expert_dim, encoder.common_expert_dim))
        if encoder.low_rank_delta:
            sizes.append(encoder.num_layers * encoder.low_rank_delta * encoder.encoder_dim)
        possible = min(sizes) > 0 and max(sizes) <= num_values and encoder.num_layers <= MAX_LAYERS
    except TypeError as error:
        raise ValueError(f"{path} describes a model that cannot be built here: {error}") from error
    require(possible, f"{path} describes a model that cannot be built here: not one of the weights beside it")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
      ValueError: the file is damaged, or something else.
    """
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as safetensors ({reason}): get the model again") from error


def copy_weights(model: nn.Module, weights: dict[str, Tensor], *, source: Path) -> None:
    """Copy tensors into a model.

    Raises:
      ValueError: they are not the model's; the message names the first wrong one and its source.
    """
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        there, wanted = (_described(part, name) for part in (weights, expected))
        require(there == wanted, f"{source}: {name!r} is {there}, but {wanted} in the model of config.json")
    model.load_state_dict(weights)


def contiguous(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model as safetensors stores it."""
    return {name: value.contiguous() for name, value in model.state_dict().items()}


def _described(weights: dict[str, Tensor], name: str) -> str:
    if name not in weights:
        return "missing"
    kind = "float" if weights[name].is_floating_point() else "integer"
    return f"{kind} {tuple(weights[name].shape)}"
