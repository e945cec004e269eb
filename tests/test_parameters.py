from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.parameters import count_parameters
from tests.experts import WITH_ALL


def test_unique_counts_are_what_the_model_stores(model_config: Any) -> None:
    config = model_config(experts_in="both")
    stored = sum(parameter.numel() for parameter in AsrModel(config, num_mel_bins=20).parameters())
    counts = count_parameters(config, num_mel_bins=20)
    assert counts["total"].unique == stored == sum(counts[part].unique for part in counts if part != "total")


@pytest.mark.parametrize("individual", [True, False])
def test_unrolled_is_what_the_unshared_model_stores(model_config: Any, individual: bool) -> None:
    config = model_config(individual_norms=individual, individual_routers=individual)
    alone = dataclasses.replace(config, encoder=config.encoder.unshared())
    unrolled = count_parameters(config, num_mel_bins=20)["encoder"].unrolled
    assert unrolled == count_parameters(alone, num_mel_bins=20)["encoder"].unique


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_active_leaves_out_the_experts_that_are_not_chosen(model_config: Any, top_k: int) -> None:
    counts = count_parameters(model_config(top_k=top_k), num_mel_bins=20)["encoder"]
    expert = 16 * 24 + 24 + 24 * 16 + 16
    assert counts.unrolled - counts.active == 4 * (4 - top_k) * expert


def test_active_holds_the_common_expert_and_the_norm_of_every_layer(model_config: Any) -> None:
    """Four layers, whose second feed-forward has 4 experts of 5 channels, two of them active, and a common one of 7."""
    dense = count_parameters(model_config(experts_in="none"), num_mel_bins=20)["encoder"]
    counts = count_parameters(model_config(**WITH_ALL), num_mel_bins=20)["encoder"]
    sizes = {hidden: 2 * 16 * hidden + hidden + 16 for hidden in (5, 7, 24)}
    own = 2 * sizes[5] + sizes[7] + 2 * 16 + 4 * 16  # experts, norm, router
    assert counts.active - dense.active == 4 * (own - sizes[24])
    assert counts.unrolled - counts.active == 4 * 2 * sizes[5]


def test_unique_counts_follow_the_formula_of_the_readme(encoder_config: Any, model_config: Any) -> None:
    """Per group: attention 4C^2 + 4C, convolution 3C^2 + (k + 4)C, each feed-forward 2CH + C + H (times E where it
    carries experts); per layer: six norms of 2C and a router of CE."""
    config = encoder_config()
    c, h, e, k = config.encoder_dim, config.feed_forward_dim, config.num_experts, config.conv_kernel_size
    feed_forward = 2 * c * h + c + h
    group = 4 * c * c + 4 * c + 3 * c * c + (k + 4) * c + feed_forward * (1 + e)
    layer = 6 * 2 * c + c * e
    s = config.subsampling_channels
    front_end = 10 * s + 10 * s + s * s + s + s * 4 * c + c
    expected = front_end + 2 * group + 4 * layer
    assert count_parameters(model_config(), num_mel_bins=20)["encoder"].unique == expected
