from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from shared_moe_conformer.config import EncoderConfig, ModelConfig


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def encoder_config() -> Callable[..., EncoderConfig]:
    """A tiny encoder config with some options changed."""
    tiny = EncoderConfig(
        encoder_dim=16,
        num_attention_heads=2,
        feed_forward_dim=24,
        conv_kernel_size=5,
        subsampling_channels=4,
        group_sizes=(2, 2),
        num_experts=4,
        dropout=0.0,
    )

    def make(**options: Any) -> EncoderConfig:
        return dataclasses.replace(tiny, **options)

    return make


@pytest.fixture
def model_config(encoder_config: Callable[..., EncoderConfig]) -> Callable[..., ModelConfig]:
    """A tiny model config; the options are the encoder's."""

    def make(**options: Any) -> ModelConfig:
        return ModelConfig(encoder=encoder_config(**options), vocab_size=11, decoder_dim=8, joiner_dim=12)

    return make
