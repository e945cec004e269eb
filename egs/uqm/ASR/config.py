"""The named configs of uqm: eight layers of 192 channels, unshared, shared, and shared with experts."""

from __future__ import annotations

from typing import Any

from shared_moe_conformer.config import Config, DataConfig, EncoderConfig, FeatureConfig, ModelConfig, TrainingConfig
from shared_moe_conformer.sizes import named_sizes

VOCAB_SIZE = 256
SAMPLING_RATE = 11000
"""Nothing is recorded above 5.5 kHz. The recordings have 11,025 Hz, at which 10 ms are not a whole number of
samples: Kaldi's features would be off by half a second in the longest ones."""

BASE = Config(
    features=FeatureConfig(sampling_rate=SAMPLING_RATE),
    model=ModelConfig(
        encoder=EncoderConfig(
            encoder_dim=192,
            num_attention_heads=4,
            feed_forward_dim=768,
            conv_kernel_size=15,
            subsampling_channels=48,
            group_sizes=(8,),
            experts_in="second",
            num_experts=4,
            top_k=1,
        ),
        vocab_size=VOCAB_SIZE,
        decoder_dim=192,
        joiner_dim=192,
    ),
    data=DataConfig(
        corpus="uqm",
        language="en",
        licence="CC-BY-NC-SA-2.5",
        lang_dir=f"data/lang_bpe_{VOCAB_SIZE}",
        test_splits=("test", "test-new-voices"),
        max_duration=60.0,
        num_time_masks=2,
        max_time_mask_fraction=0.1,
        max_freq_mask_bins=15,
    ),
    training=TrainingConfig(
        num_epochs=10,
        optimizer="muon",
        learning_rate=1e-3,
        warmup_steps=500,
        loss_warmup_steps=2000,
        ctc_loss_scale=1.0,
    ),
)

SMALL: dict[str, Any] = {
    "encoder_dim": 128,
    "feed_forward_dim": 512,
    "num_experts": 3,
    "subsampling_channels": 32,
    "decoder_dim": 128,
    "joiner_dim": 128,
}
"""For devices with little memory."""

CONFIGS = named_sizes(BASE, small=SMALL)
