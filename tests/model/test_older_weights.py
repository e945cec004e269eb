"""Weights that were written before the modules were redrawn still load, and compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shared_moe_conformer.config import EncoderConfig, ModelConfig
from shared_moe_conformer.model.asr_model import AsrModel

FILE = Path(__file__).with_name("weights_of_version_0.1.safetensors")
"""Written at commit 3a5f778: weights, features and the CTC log-probabilities of two tiny models."""


@pytest.mark.parametrize(
    ("name", "options"),
    [("individual", {}), ("shared", {"individual_norms": False, "individual_routers": False})],
)
def test_weights_of_version_0_1_compute_what_they_did(name: str, options: dict[str, Any]) -> None:
    encoder = EncoderConfig(
        encoder_dim=8,
        num_attention_heads=2,
        feed_forward_dim=12,
        conv_kernel_size=3,
        subsampling_channels=2,
        group_sizes=(2, 1),
        num_experts=2,
        experts_in="both",
        low_rank_delta=1,
        **options,
    )
    model = AsrModel(ModelConfig(encoder=encoder, vocab_size=5, decoder_dim=4, joiner_dim=4), num_mel_bins=16).eval()
    stored = {key.removeprefix(f"{name}."): value for key, value in load_file(FILE).items() if key.startswith(name)}
    prefix = "model."
    model.load_state_dict({key.removeprefix(prefix): v for key, v in stored.items() if key.startswith(prefix)})
    with torch.no_grad():
        encoder_out, lens, _ = model.encode(stored["x"], stored["x_lens"])
    for utterance, expected, length in zip(model.ctc_log_probs(encoder_out), stored["ctc_log_probs"], lens):
        torch.testing.assert_close(utterance[:length], expected[:length], rtol=1e-4, atol=1e-5)
