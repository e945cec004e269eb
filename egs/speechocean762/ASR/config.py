"""The named configs of speechocean762: one small conformer, unshared, shared, and shared with experts."""

from __future__ import annotations

from typing import Any

from shared_moe_conformer.config import Config, DataConfig, EncoderConfig, ModelConfig, TrainingConfig
from shared_moe_conformer.sizes import named_sizes

VOCAB_SIZE = 128

BASE = Config(
    model=ModelConfig(
        encoder=EncoderConfig(
            encoder_dim=144,
            num_attention_heads=4,
            feed_forward_dim=576,
            conv_kernel_size=15,
            subsampling_channels=36,
            group_sizes=(6,),
            experts_in="second",
            num_experts=3,
            top_k=1,
        ),
        vocab_size=VOCAB_SIZE,
        decoder_dim=144,
        joiner_dim=144,
    ),
    data=DataConfig(
        corpus="speechocean762",
        language="en",
        licence="LicenseRef-speechocean762",
        lang_dir=f"data/lang_bpe_{VOCAB_SIZE}",
        max_duration=30.0,
        num_time_masks=2,
        max_time_mask_fraction=0.1,
        max_freq_mask_bins=10,
    ),
    training=TrainingConfig(
        num_epochs=30,
        optimizer="muon",
        learning_rate=1e-3,
        warmup_steps=300,
        loss_warmup_steps=1000,
        ctc_loss_scale=1.0,
    ),
)

SMALL: dict[str, Any] = {
    "encoder_dim": 96,
    "feed_forward_dim": 256,
    "num_experts": 2,
    "decoder_dim": 96,
    "joiner_dim": 96,
}
"""For devices with little memory."""

CONFIGS = named_sizes(BASE, small=SMALL)
