"""The named configs of yesno: very small, for a corpus of two words and three minutes."""

from __future__ import annotations

from typing import Any

from shared_moe_conformer.config import Config, DataConfig, EncoderConfig, ModelConfig, TrainingConfig
from shared_moe_conformer.sizes import named_sizes

VOCAB_SIZE = 14

BASE = Config(
    model=ModelConfig(
        encoder=EncoderConfig(
            encoder_dim=64,
            num_attention_heads=4,
            feed_forward_dim=256,
            conv_kernel_size=15,
            subsampling_channels=8,
            group_sizes=(12,),
            experts_in="second",
            num_experts=4,
            top_k=1,
        ),
        vocab_size=VOCAB_SIZE,
        decoder_dim=32,
        joiner_dim=32,
    ),
    data=DataConfig(
        corpus="yesno",
        language="he",
        licence="CC-BY-3.0",
        lang_dir=f"data/lang_bpe_{VOCAB_SIZE}",
        max_duration=60.0,
        num_buckets=2,
        num_workers=0,  # an epoch is read in a moment; a worker would take a core from training
    ),
    training=TrainingConfig(
        num_epochs=30, learning_rate=2e-3, warmup_steps=30, loss_warmup_steps=60, ctc_loss_scale=1.0
    ),
)

SMALL: dict[str, Any] = {"encoder_dim": 32, "feed_forward_dim": 64, "group_sizes": (4,), "num_experts": 2}
"""For devices with little memory."""

CONFIGS = named_sizes(BASE, small=SMALL)
