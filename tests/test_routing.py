from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import EncoderConfig, replace_fields, subsampled_length
from shared_moe_conformer.data.augment import Example
from shared_moe_conformer.data.batch import AsrBatch, collate
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.moe import Router
from shared_moe_conformer.routing import (
    Layer,
    expert_layers,
    frames_per_expert,
    transcribe_with_experts,
)
from shared_moe_conformer.speech.recognition import Samples
from tests.conftest import TINY


def test_layers_are_named_by_depth_group_and_feed_forward() -> None:
    config = EncoderConfig(group_sizes=(2, 1), experts_in="second")
    assert expert_layers(config) == [Layer(1, 1, "second"), Layer(2, 1, "second"), Layer(3, 2, "second")]
    both = expert_layers(EncoderConfig(group_sizes=(1, 1), experts_in="both"))
    assert [(layer.layer, layer.feed_forward) for layer in both] == [
        (1, "first"),
        (1, "second"),
        (2, "first"),
        (2, "second"),
    ]
    assert expert_layers(EncoderConfig(experts_in="none")) == []


def test_the_experts_are_those_that_the_routers_rank_first(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    chosen: list[torch.Tensor] = []
    routers = [module for module in tiny_bundle.model.modules() if isinstance(module, Router)]
    hooks = [
        router.register_forward_hook(lambda module, args, logits: chosen.append(logits.argmax(dim=-1)))
        for router in routers
    ]
    _, (segment,) = transcribe_with_experts(tiny_bundle, Samples(tones, 16000))
    for hook in hooks:
        hook.remove()
    assert segment.start == 0.0
    assert segment.expert_ids.shape[0] == len(expert_layers(tiny_bundle.config.model.encoder)) == len(chosen)
    assert torch.equal(segment.expert_ids[..., 0], torch.stack(chosen))
    assert len(segment.expert_ids.unique()) > 1


def test_a_long_recording_has_the_segments_of_its_transcript_in_order(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    pause = np.zeros(16000, dtype=np.float32)
    recording = Samples(np.concatenate([pause, np.tile(tones, 7), pause, np.tile(tones, 10)]), 16000)
    transcript, segments = transcribe_with_experts(tiny_bundle, recording)
    assert transcript == next(tiny_bundle.transcribe_many([recording]))
    assert [segment.start for segment in segments] == pytest.approx([0.0, 15.8], abs=0.02)
    frames = sum(segment.expert_ids.size(1) for segment in segments)
    assert frames == pytest.approx(36 * 25, abs=4)


def test_a_model_without_experts_has_none(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    config = replace_fields(TINY, {"experts_in": "none"})
    bundle = dataclasses.replace(tiny_bundle, config=config, model=AsrModel(config.model).eval())
    assert transcribe_with_experts(bundle, Samples(tones, 16000))[1] == []


def test_what_is_no_audio_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("not audio")
    with pytest.raises(ValueError, match="cannot be read as audio"):
        transcribe_with_experts(tiny_bundle, tmp_path / "a.wav")


LENS = [[40, 55], [31]]


def batches() -> list[AsrBatch]:
    torch.manual_seed(1)
    return [collate([Example(torch.randn(n, 80), [3], "a", "A") for n in lens]) for lens in LENS]


def model(**changes: object) -> AsrModel:
    torch.manual_seed(0)
    return AsrModel(replace_fields(TINY, changes).model).eval()


def test_every_valid_frame_is_counted_once_in_each_layer() -> None:
    counts = frames_per_expert(model(), batches())
    assert counts.shape == (3, 3)
    assert counts.sum(dim=1).tolist() == [sum(subsampled_length(n) for lens in LENS for n in lens)] * 3


def test_a_frame_counts_for_each_of_its_experts() -> None:
    once, twice = (frames_per_expert(model(top_k=k), batches()).sum() for k in (1, 2))
    assert twice == 2 * once


def test_a_model_without_experts_or_a_set_without_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="no experts"):
        frames_per_expert(model(experts_in="none"), batches())
    with pytest.raises(ValueError, match="no batch"):
        frames_per_expert(model(), [])
