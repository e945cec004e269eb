from __future__ import annotations

from typing import Any

import pytest

from shared_moe_conformer.config import EncoderConfig, ModelConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 9, "num_experts": 8}, "top_k is 9 of num_experts 8"),
        ({"top_k": 0}, "1 <= top_k"),
        ({"group_sizes": ()}, "group_sizes"),
        ({"group_sizes": (6, 0)}, "group_sizes"),
        ({"encoder_dim": 100, "num_attention_heads": 3}, "encoder_dim 100"),
        ({"conv_kernel_size": 4}, "odd"),
        ({"experts_in": "third"}, "none, first, second, both"),
        ({"dropout": 1.0}, "dropout"),
        ({"balancing_bias_rate": -0.1}, "balancing_bias_rate"),
        ({"gate_scale": 0.0}, "gate_scale is 0.0: give a positive number"),
        ({"expert_dim": -1}, "expert_dim is -1: give 0 or more"),
        ({"router_gates": "relu"}, "softmax, sigmoid"),
        ({"low_rank_delta": 300}, "0 to encoder_dim, 256"),
        ({"group_sizes": (4,), "pattern": "BABA"}, "pattern is BABA: give capital letters, A first"),
        ({"group_sizes": (4,), "mixing_pattern": "aabb"}, "mixing_pattern is aabb: give capital letters"),
        ({"group_sizes": (4,), "pattern": "ABA"}, "pattern ABA has 3 layers, group_sizes 4"),
        ({"group_sizes": (2, 2), "pattern": "ABAB"}, "both say which layers share"),
        ({"group_sizes": (2, 2), "block_feed_forward_dims": (8,)}, "one positive number for each of 2 blocks"),
        ({"group_sizes": (4,), "pattern": "ABAB", "expert_blocks": "C"}, "expert_blocks is C: give letters of A to B"),
        ({"merged_sets": 0}, "merged_sets is 0"),
        ({"merged_sets": 2, "merged_parts": ("norms",)}, "merged_parts is norms: give parts of feed_forward1"),
        ({"merged_sets": 2, "low_rank_delta": 4}, "give one of them"),
        ({"depths": (3, 5), "group_sizes": (6,)}, "from 1 to 6, the whole depth among them"),
        ({"depths": (3, 6), "group_sizes": (6,)}, "depths with experts"),
        ({"chunk_sizes": (8, -1)}, "chunk_sizes is"),
        ({"chunk_sizes": (0, 8), "loudness_norm": True}, "loudness_norm needs whole utterances"),
        ({"chunk_sizes": (8,), "left_contexts": ()}, "chunk_sizes without left_contexts"),
    ],
)
def test_an_encoder_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**options)


def test_more_layers_than_letters_cannot_be_unshared_with_experts_in_some() -> None:
    assert len(EncoderConfig(group_sizes=(15, 15)).unshared().group_sizes) == 30
    with pytest.raises(ValueError, match="30 layers cannot be unshared with expert_blocks"):
        EncoderConfig(group_sizes=(15, 15), expert_blocks="B").unshared()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 1}, "vocab_size"),
        ({"transducer_backend": "cuda"}, "auto, k2, torch"),
        ({"decoder_dim": 0}, "decoder_dim is 0"),
        ({"joiner_dim": 0}, "joiner_dim is 0"),
    ],
)
def test_networks_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)
