"""The named configs of the game's dialogues, `<size>-<language>`: the same sizes for each language."""

from __future__ import annotations

from typing import Any

from shared_moe_conformer.config import Config, DataConfig, EncoderConfig, ModelConfig, TrainingConfig
from shared_moe_conformer.sizes import named_sizes

VOCAB_SIZE = 64
LANGUAGES = ("nl", "cs")


def base(language: str) -> Config:
    """One block for six layers, with three experts in its second feed-forward."""
    return Config(
        model=ModelConfig(
            encoder=EncoderConfig(
                encoder_dim=128,
                num_attention_heads=4,
                feed_forward_dim=512,
                conv_kernel_size=15,
                subsampling_channels=16,
                group_sizes=(6,),
                experts_in="second",
                num_experts=3,
                top_k=1,
                dropout=0.05,
            ),
            vocab_size=VOCAB_SIZE,
            decoder_dim=128,
            joiner_dim=128,
        ),
        data=DataConfig(
            corpus=f"fillets-ng-data-{language}",
            language=language,
            licence="GPL-2.0-only",
            manifest_dir=f"data/{language}/fbank",
            lang_dir=f"data/{language}/lang_bpe_{VOCAB_SIZE}",
            max_duration=15.0,  # many updates in few epochs
            num_time_masks=0,  # in as few updates as these, what is learned is not yet learned by heart
            num_freq_masks=0,
            num_workers=0,  # an epoch is read in seconds; a worker would take a core from training
        ),
        training=TrainingConfig(
            num_epochs=10,
            optimizer="muon",
            learning_rate=1e-3,
            warmup_steps=200,
            loss_warmup_steps=600,
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

CONFIGS = {
    f"{size}-{language}": config
    for language in LANGUAGES
    for size, config in named_sizes(base(language), small=SMALL).items()
}
