"""The named configs of yesno: very small, for a corpus of two words and three minutes."""

from __future__ import annotations

from shared_moe_conformer.sizes import recipe_configs

CONFIGS = recipe_configs(
    hours=0.05,
    corpus="yesno",
    language="he",
    licence="CC-BY-3.0",
    vocab_size=14,
    changes={
        "encoder_dim": 64,
        "feed_forward_dim": 256,
        "subsampling_channels": 8,
        "group_sizes": (12,),
        "num_experts": 4,
        "decoder_dim": 32,
        "joiner_dim": 32,
        "max_duration": 60.0,
        "num_buckets": 2,
        "max_time_mask_fraction": 0.15,
        "max_freq_mask_bins": 20,
        "join_probability": 0.0,
        "silence_probability": 0.0,
        "num_epochs": 30,
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "warmup_steps": 30,
        "loss_warmup_steps": 60,
    },
    own={
        "small": {
            "encoder_dim": 32,
            "feed_forward_dim": 64,
            "group_sizes": (4,),
            "num_experts": 2,
            "decoder_dim": 32,
            "joiner_dim": 32,
        },
    },
)
