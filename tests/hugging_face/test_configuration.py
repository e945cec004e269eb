from __future__ import annotations

from pathlib import Path

import pytest


def test_options_survive_a_file_and_missing_ones_are_defaults(tmp_path: Path) -> None:
    from transformers import AutoConfig

    from shared_moe_conformer.hugging_face import SharedMoeConformerConfig

    config = SharedMoeConformerConfig({"encoder_dim": 64, "group_sizes": [2, 1]}, vocab_size=30, sampling_rate=8000)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert again.encoder_config() == config.encoder_config()
    assert (again.hidden_size, again.num_hidden_layers, again.inputs_to_logits_ratio) == (64, 3, 320)
    assert (again.vocab_size, again.pad_token_id, again.num_attention_heads) == (30, 0, 4)


def test_an_encoder_that_cannot_be_is_refused() -> None:
    from shared_moe_conformer.hugging_face import SharedMoeConformerConfig

    with pytest.raises(ValueError, match="EncoderConfig has no option depth"):
        SharedMoeConformerConfig({"depth": 3})
    with pytest.raises(ValueError, match="conv_kernel_size is 4"):
        SharedMoeConformerConfig({"conv_kernel_size": 4})
