"""Conformers of the same size under one interface: this package's, the yardstick, and those that registries offer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.plain_conformer import PlainConformer
from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.frames import Frames


class Shape(NamedTuple):
    """Sizes that all have in common."""

    dim: int = 256
    num_layers: int = 12
    num_heads: int = 4
    hidden: int = 1024
    kernel_size: int = 15
    dropout: float = 0.1


class Contender(NamedTuple):
    """A conformer without front end."""

    module: nn.Module
    call: Callable[[Tensor, Tensor], Tensor]
    """From frames (N, T, C) and lengths (N,) to frames."""


def contenders(shape: Shape) -> dict[str, Contender]:
    """By name, the fastest known of the registries' first; peers that are not installed are left out."""
    makers = {
        "torchaudio": _torchaudio,
        "transformers (wav2vec2-conformer, rotary)": _transformers,
        "espnet": _espnet,
    }
    found = {}
    for name, make in makers.items():
        with contextlib.suppress(ImportError):  # it, or something that it needs, is not installed
            found[name] = make(shape)
    found["plain: rotary + SDPA (yardstick)"] = _plain(shape)
    found["ours, full"] = ours(shape, group_sizes=(1,) * shape.num_layers, experts_in="none")
    found["ours, base: 8 shared experts"] = ours(shape, group_sizes=(shape.num_layers,), experts_in="second")
    return found


def padding_after(x: Tensor, lens: Tensor) -> Tensor:
    """True at padding, (N, T)."""
    return torch.arange(x.size(1)) >= lens.unsqueeze(1)


def ours(shape: Shape, **options: object) -> Contender:
    """This package's layers."""
    config = EncoderConfig(
        encoder_dim=shape.dim,
        num_attention_heads=shape.num_heads,
        feed_forward_dim=shape.hidden,
        conv_kernel_size=shape.kernel_size,
        dropout=shape.dropout,
        **options,  # type: ignore[arg-type]
    )
    encoder = Encoder(config, num_mel_bins=80)

    def call(x: Tensor, lens: Tensor) -> Tensor:
        frames = Frames(lens, x.size(1), head_dim=shape.dim // shape.num_heads)
        for layer in encoder.layers():
            x, _ = layer.forward(x, frames)
        return x

    return Contender(encoder.groups, call)


def _plain(shape: Shape) -> Contender:
    module = PlainConformer(
        shape.dim,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        hidden=shape.hidden,
        kernel_size=shape.kernel_size,
        dropout=shape.dropout,
    )
    return Contender(module, lambda x, lens: module(x, padding_after(x, lens)))


def _torchaudio(shape: Shape) -> Contender:
    """Without positions, padding not masked in its convolutions."""
    from torchaudio.models import Conformer

    module = Conformer(
        shape.dim, shape.num_heads, shape.hidden, shape.num_layers, shape.kernel_size, dropout=shape.dropout
    )
    return Contender(module, lambda x, lens: module(x, lens)[0])


def _transformers(shape: Shape) -> Contender:
    """Its layers and rotary positions; its encoder's own first convolution is left out."""
    from transformers import Wav2Vec2ConformerConfig
    from transformers.models.wav2vec2_conformer import modeling_wav2vec2_conformer as source

    config = Wav2Vec2ConformerConfig(
        hidden_size=shape.dim,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        intermediate_size=shape.hidden,
        conv_depthwise_kernel_size=shape.kernel_size,
        position_embeddings_type="rotary",
        hidden_dropout=shape.dropout,
        attention_dropout=0.0,
        activation_dropout=shape.dropout,
        conformer_conv_dropout=shape.dropout,
        layerdrop=0.0,
    )
    module = source.Wav2Vec2ConformerEncoder(config)

    def call(x: Tensor, lens: Tensor) -> Tensor:
        return module(x, attention_mask=(~padding_after(x, lens)).long()).last_hidden_state

    return Contender(module, call)


def _espnet(shape: Shape) -> Contender:
    """With Transformer-XL's relative positions, its default."""
    logging.disable(logging.WARNING)
    try:
        from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
    finally:
        logging.disable(logging.NOTSET)

    module = ConformerEncoder(
        shape.dim,
        output_size=shape.dim,
        attention_heads=shape.num_heads,
        linear_units=shape.hidden,
        num_blocks=shape.num_layers,
        dropout_rate=shape.dropout,
        positional_dropout_rate=shape.dropout,
        input_layer=None,
        macaron_style=True,
        rel_pos_type="latest",
        cnn_module_kernel=shape.kernel_size,
        use_flash_attn=False,
    )
    return Contender(module, lambda x, lens: module(x, lens)[0])
