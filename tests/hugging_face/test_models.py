from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import subsampled_length, to_dict
from shared_moe_conformer.loss.per_frame import ctc_loss
from shared_moe_conformer.model.encoder import Encoder
from tests.conftest import TINY


@pytest.fixture
def batch(tiny_bundle: Bundle, tones: np.ndarray) -> tuple[Tensor, Tensor]:
    """Features and mask of three recordings; the last is too short for an encoder frame."""
    features = [tiny_bundle.features(tones[:end], 16000) for end in (32000, 20000, 800)]
    x = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    return x, torch.tensor([[int(t < len(part)) for t in range(x.size(1))] for part in features])


def test_the_encoder_alone_gives_the_packages_frames(
    tiny_folder: Path, tiny_bundle: Bundle, batch: tuple[Tensor, Tensor]
) -> None:
    from transformers import AutoModel

    model, (x, mask) = AutoModel.from_pretrained(tiny_folder, trust_remote_code=True), batch
    assert not model.training
    with torch.no_grad():
        output = model(x, mask)
        frames, lens, routing = tiny_bundle.model.encode(x, mask.sum(dim=1))
    assert output.attention_mask.sum(dim=1).tolist() == lens.tolist() == [49, 30, 0]
    torch.testing.assert_close(output.last_hidden_state, frames, atol=1e-5, rtol=0)
    assert routing is not None and torch.equal(output.expert_ids, routing.expert_ids)
    assert type(model.encoder) is Encoder


def test_in_bfloat16_no_frame_is_lost_without_a_mask(tiny_folder: Path) -> None:
    """bfloat16 cannot hold 1,027, the number of frames, and would make 1,024 of it."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_folder, trust_remote_code=True).bfloat16()
    output = model(torch.randn(1, 1027, 80, dtype=torch.bfloat16))
    assert output.last_hidden_state.dtype == torch.bfloat16
    assert output.attention_mask.sum() == subsampled_length(1027)


def test_logits_are_those_of_the_ctc_head_and_padding_is_blank(
    tiny_folder: Path, tiny_bundle: Bundle, batch: tuple[Tensor, Tensor]
) -> None:
    from transformers import AutoModelForCTC

    model, (x, mask) = AutoModelForCTC.from_pretrained(tiny_folder, trust_remote_code=True), batch
    with torch.no_grad():
        logits = model(x, mask).logits
        frames = tiny_bundle.model.encode(x, mask.sum(dim=1)).encoder_out
        alone = model(x[1:2, : int(mask[1].sum())]).logits
    log_probs = tiny_bundle.model.ctc_log_probs(frames)
    torch.testing.assert_close(logits[0].log_softmax(dim=-1), log_probs[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[1, :30], alone[0], atol=1e-4, rtol=1e-3)
    assert not logits[1, 30:].argmax(dim=-1).any() and not logits[2].argmax(dim=-1).any()
    assert logits[1, :30].argmax(dim=-1).any()


def test_the_loss_is_ctcs_mean_over_frames_beside_the_routers_and_reaches_all_weights(
    tiny_folder: Path, tiny_bundle: Bundle, batch: tuple[Tensor, Tensor]
) -> None:
    from transformers import AutoModelForCTC

    x, mask = batch[0][:2], batch[1][:2]
    labels = torch.tensor([[5, 6, 6], [7, -100, -100]])
    model = AutoModelForCTC.from_pretrained(tiny_folder, trust_remote_code=True)
    loss = model(x, mask, labels=labels).loss
    frames, lens, routing = tiny_bundle.model.encode(x, mask.sum(dim=1))
    assert routing is not None
    routers = tiny_bundle.model.encoder.router_losses(routing)
    own = ctc_loss(tiny_bundle.model.ctc_log_probs(frames), lens, labels.clamp(min=0), torch.tensor([3, 1])) / 79
    own = own + 0.01 * routers.load_balancing_loss.sum() + 0.001 * routers.router_z_loss.sum()
    torch.testing.assert_close(loss, own)
    model.train()
    model(x, mask, labels=labels).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_a_head_for_other_units_begins_at_random(tiny_folder: Path) -> None:
    from transformers import AutoModelForCTC

    options = {"trust_remote_code": True, "vocab_size": 50, "ignore_mismatched_sizes": True}
    weight = AutoModelForCTC.from_pretrained(tiny_folder, **options).ctc_head.weight
    assert weight.shape == (50, 16) and 0.05 < weight.std().item() < 0.25  # uniform, up to 1/sqrt(16)


def test_gates_by_a_network_find_their_depths_again(tmp_path: Path) -> None:
    from shared_moe_conformer.hugging_face import SharedMoeConformerConfig, SharedMoeConformerModel

    encoder = dataclasses.replace(TINY.model.encoder, merged_sets=2, merge_gates="network", experts_in="none")
    model = SharedMoeConformerModel(SharedMoeConformerConfig(to_dict(encoder))).eval()
    for name, weight in model.named_parameters():
        if name.endswith("gates.output.weight"):
            torch.nn.init.normal_(weight)
    model.save_pretrained(tmp_path)
    x = torch.randn(1, 60, 80)
    again = SharedMoeConformerModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again(x).last_hidden_state, model(x).last_hidden_state)
    assert again(x).expert_ids is None
    assert {name for name, _ in again.named_buffers() if name.endswith("depth")}


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
