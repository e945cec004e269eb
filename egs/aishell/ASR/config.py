"""The named configs of AISHELL-1: characters as units, and 12 layers of the size that is usual for this corpus."""

from __future__ import annotations

from shared_moe_conformer.sizes import recipe_configs

VOCAB_SIZE = 4233
"""Characters of all transcripts as WeNet counts them, 4,230, and the three special units."""

CONFIGS = recipe_configs(
    hours=150,
    corpus="aishell",
    language="zh",
    licence="Apache-2.0",
    lang_dir="data/lang_char",
    vocab_size=VOCAB_SIZE,
    changes={
        "conv_kernel_size": 15,
        "warmup_steps": 5000,
        "ctc_loss_scale": 0.5,
    },
    own={"small": {"decoder_dim": 144, "joiner_dim": 144}},
)
