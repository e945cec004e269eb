"""The encoder in icefall's recipes, in place of zipformer or of the older recipes' conformer.

A file in the recipe's folder plugs it in; docs/icefall.md has one.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor, nn

from shared_moe_conformer.config import SUBSAMPLING_FACTOR, Chunking, EncoderConfig, require
from shared_moe_conformer.standalone import FrontEnd, Layers

try:
    from encoder_interface import EncoderInterface  # type: ignore[import-not-found]  # of the recipe's folder
except ImportError:
    EncoderInterface = nn.Module

WHOLE = -1
"""A chunk size of icefall's: the whole utterance."""


class EncoderModel(Layers, EncoderInterface):  # type: ignore[misc]
    """The zipformer recipe's `encoder`; its frames come from a `FrontEnd`, the recipe's `encoder_embed`."""

    def __init__(self, config: EncoderConfig, chunking: Chunking | None = None) -> None:
        """Take the options; chunking: what frames see outside of training."""
        super().__init__(config)
        self.chunking = chunking

    def forward(  # type: ignore[override]
        self, x: Tensor, x_lens: Tensor, src_key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return encoder frames (T', N, C) and the valid ones of each utterance, (N,).

        Args:
          x: the front end's frames, (T', N, C).
          x_lens: the valid ones of each utterance, (N,).
          src_key_padding_mask: True at padding, (N, T'); unused, since `x_lens` says the same.
        """
        frames, lens = super().forward(x.transpose(0, 1), x_lens, self.chunking)
        return frames.transpose(0, 1), lens


class Conformer(EncoderInterface):  # type: ignore[misc, valid-type]
    """The `encoder` of the older recipes (pruned_transducer_stateless 2 to 5): features in, frames out."""

    def __init__(self, config: EncoderConfig, *, num_features: int = 80) -> None:
        super().__init__()
        self.encoder_embed = FrontEnd(config, num_mel_bins=num_features)
        self.layers = Layers(config)

    def forward(self, x: Tensor, x_lens: Tensor, warmup: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return encoder frames (N, T', C) and the valid ones of each utterance, (N,).

        Args:
          x: features, (N, T, F).
          x_lens: valid frames of each utterance, (N,).
          warmup: unused; the layers need none.
        """
        return self.layers(*self.encoder_embed(x, x_lens))


def plug_in(train: ModuleType, config: EncoderConfig) -> None:
    """Let a recipe's `train` module build this encoder.

    Args:
      train: the module that has `get_encoder_model` and, in the zipformer recipe, `get_encoder_embed`.
      config: the encoder; its `encoder_dim` must be the recipe's `--encoder-dim`.

    Raises:
      ValueError: a module of another kind; later, options of the recipe that do not fit the encoder.
    """
    require(
        hasattr(train, "get_encoder_model"), f"{train.__name__} has no get_encoder_model: give a recipe's train module"
    )
    if not hasattr(train, "get_encoder_embed"):
        train.get_encoder_model = lambda params: get_conformer(params, config)  # type: ignore[attr-defined]
        return
    train.get_encoder_embed = lambda params: get_encoder_embed(params, config)  # type: ignore[attr-defined]
    train.get_encoder_model = lambda params: get_encoder_model(params, config)  # type: ignore[attr-defined]


def get_encoder_embed(params: Any, config: EncoderConfig) -> FrontEnd:
    """The zipformer recipe's `encoder_embed`: features (N, T, F) to frames (N, T', C)."""
    return FrontEnd(config, num_mel_bins=params.feature_dim)


def get_encoder_model(params: Any, config: EncoderConfig) -> EncoderModel:
    """The zipformer recipe's `encoder`; options of the recipe that do not fit are refused."""
    _require_fitting(params, config)
    return EncoderModel(config, _chunking(params) if params.causal else None)


def get_conformer(params: Any, config: EncoderConfig) -> Conformer:
    """The older recipes' `encoder`; options of the recipe that do not fit are refused."""
    _require_fitting(params, config)
    return Conformer(config, num_features=params.feature_dim)


def _require_fitting(params: Any, config: EncoderConfig) -> None:
    dim = max(_numbers(params.encoder_dim))
    require(
        dim == config.encoder_dim,
        f"--encoder-dim {params.encoder_dim} is not the encoder's {config.encoder_dim}: give --encoder-dim"
        f" {config.encoder_dim}",
    )
    streams = [f"--{name.replace('_', '-')}" for name in ("causal", "dynamic_chunk_training") if params.get(name)]
    require(
        not streams or any(config.chunk_sizes),
        f"{' '.join(streams)} wants an encoder that is trained in chunks: give its config chunk_sizes, e.g. (0, 8, 16)",
    )


def _chunking(params: Any) -> Chunking | None:
    """The frames that a frame sees outside of training, if --chunk-size is a single one.

    icefall counts it in frames of 20 ms.
    """
    sizes, contexts = _numbers(params.chunk_size), _numbers(params.left_context_frames)
    if len(sizes) > 1 or sizes == [WHOLE]:
        return None
    size, context = (number * 2 // SUBSAMPLING_FACTOR for number in (sizes[0], contexts[0]))
    require(size > 0, f"--chunk-size {params.chunk_size} is less than an encoder frame of 40 ms: give 2 or more")
    return Chunking(size, context if context > 0 else None)


def _numbers(value: Any) -> list[int]:
    """`192,256` of icefall's flags, or a single number."""
    return [int(part) for part in str(value).split(",")]
