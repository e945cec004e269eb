"""The named configs of AISHELL-1: characters as units, and 12 layers of the size that is usual for this corpus."""

from __future__ import annotations

from typing import Any

from shared_moe_conformer.config import Config, DataConfig, EncoderConfig, ModelConfig, TrainingConfig
from shared_moe_conformer.sizes import named_sizes

VOCAB_SIZE = 4233
"""Characters of all transcripts as WeNet counts them, 4,230, and the three special units."""

BASE = Config(
    model=ModelConfig(
        encoder=EncoderConfig(
            encoder_dim=256,
            num_attention_heads=4,
            feed_forward_dim=2048,
            conv_kernel_size=15,
            subsampling_channels=64,
            group_sizes=(6, 6),
            experts_in="second",
            num_experts=3,
            top_k=1,
        ),
        vocab_size=VOCAB_SIZE,
        decoder_dim=512,
        joiner_dim=512,
    ),
    data=DataConfig(
        corpus="aishell",
        language="zh",
        licence="Apache-2.0",
        lang_dir="data/lang_char",
        max_duration=300.0,
        num_buckets=30,
        num_workers=4,
        num_time_masks=10,
        max_time_mask_fraction=0.15,
        num_freq_masks=2,
        max_freq_mask_bins=27,
    ),
    training=TrainingConfig(
        num_epochs=60, learning_rate=1e-3, warmup_steps=5000, loss_warmup_steps=2000, ctc_loss_scale=0.5
    ),
)

SMALL: dict[str, Any] = {
    "encoder_dim": 144,
    "feed_forward_dim": 576,
    "group_sizes": (12,),
    "num_experts": 4,
    "subsampling_channels": 32,
    "decoder_dim": 144,
    "joiner_dim": 144,
}
"""For devices with little memory."""

CONFIGS = named_sizes(BASE, small=SMALL)
