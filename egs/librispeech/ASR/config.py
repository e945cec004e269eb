"""The named configs of LibriSpeech: `base` and what it is compared with on 960 hours, and `base-100`, .. on 100."""

from __future__ import annotations

from typing import Any

from shared_moe_conformer.config import Config, DataConfig, EncoderConfig, ModelConfig, TrainingConfig, replace_fields
from shared_moe_conformer.sizes import named_sizes

VOCAB_SIZE = 500

BASE = Config(
    model=ModelConfig(
        encoder=EncoderConfig(
            encoder_dim=256,
            num_attention_heads=4,
            feed_forward_dim=2048,
            conv_kernel_size=31,
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
        corpus="librispeech",
        language="en",
        licence="CC-BY-4.0",
        manifest_dir="data/960/fbank",
        lang_dir=f"data/960/lang_bpe_{VOCAB_SIZE}",
        dev_split="dev-clean",
        test_splits=("test-clean", "test-other", "dev-clean", "dev-other"),
        max_duration=300.0,
        num_buckets=30,
        num_workers=4,
        num_time_masks=10,
        max_time_mask_fraction=0.15,
        num_freq_masks=2,
        max_freq_mask_bins=27,
    ),
    training=TrainingConfig(num_epochs=30, learning_rate=1e-3, warmup_steps=10000, loss_warmup_steps=2000),
)

SMALL: dict[str, Any] = {
    "encoder_dim": 144,
    "feed_forward_dim": 576,
    "group_sizes": (12,),
    "num_experts": 4,
    "subsampling_channels": 32,
    "decoder_dim": 256,
    "joiner_dim": 256,
}
"""For devices with little memory."""

HOURS_100: dict[str, Any] = {
    "corpus": "librispeech-100",
    "manifest_dir": "data/100/fbank",
    "lang_dir": f"data/100/lang_bpe_{VOCAB_SIZE}",
    "num_epochs": 60,
    "warmup_steps": 3000,
}

CONFIGS = named_sizes(BASE, small=SMALL)
CONFIGS |= {f"{size}-100": replace_fields(config, HOURS_100) for size, config in CONFIGS.items()}
