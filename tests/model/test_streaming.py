from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared_moe_conformer.config import Chunking, EncoderConfig
from shared_moe_conformer.model.encoder import Encoder, EncoderState
from shared_moe_conformer.model.frames import Frames, visible_frames
from tests.experts import WITH_ALL

CONFIGS = [
    {"experts_in": "both", **WITH_ALL},
    {"experts_in": "none", "merged_sets": 2, "conv_norm": "layer_norm"},
    {"group_sizes": (3,), "pattern": "ABA", "low_rank_delta": 2},
]


def make_encoder(**options: Any) -> Encoder:
    torch.manual_seed(0)
    tiny = {
        "encoder_dim": 16,
        "num_attention_heads": 2,
        "feed_forward_dim": 24,
        "conv_kernel_size": 5,
        "subsampling_channels": 4,
        "group_sizes": (3,),
        "num_experts": 3,
    }
    encoder = Encoder(EncoderConfig(**{**tiny, **options}), num_mel_bins=20).eval()  # type: ignore[arg-type]
    for name, value in encoder.state_dict().items():
        if name.endswith((".up", "running_mean")):
            value.normal_(std=0.3)
    return encoder


ENCODERS = [make_encoder(**options) for options in CONFIGS]


def chunk_of(features: Tensor, start: int, size: int) -> tuple[Tensor, int]:
    """The features of the chunk that begins with an encoder frame, padded, and the number of valid ones."""
    part = features[4 * start : 4 * (start + size) + 3]
    return torch.cat([part, torch.zeros(4 * size + 3 - len(part), part.size(1))]), len(part)


def stream_all(encoder: Encoder, utterances: list[Tensor], delays: list[int], chunking: Chunking) -> list[Tensor]:
    """The encoder frames of utterances that begin `delays` steps late, in batches of those that have a chunk."""
    size, left_context = chunking.chunk_size, chunking.left_context
    assert left_context is not None
    states = [encoder.start(1, left_context=left_context) for _ in utterances]
    frames: list[list[Tensor]] = [[] for _ in utterances]
    for time in range(100):
        starts = [(time - delay) * size for delay in delays]
        ready = [n for n, start in enumerate(starts) if start >= 0 and len(utterances[n]) - 4 * start >= 7]
        if not ready:
            continue
        chunks, lens = zip(*(chunk_of(utterances[n], starts[n], size) for n in ready))
        state = EncoderState(*(torch.cat(parts) for parts in zip(*(states[n] for n in ready))))
        output, state = encoder.step(torch.stack(chunks), torch.tensor(lens), state)
        for i, n in enumerate(ready):
            states[n] = EncoderState(*(part[i : i + 1] for part in state))
            frames[n].append(output.encoder_out[i, : output.encoder_out_lens[i]])
    return [torch.cat(parts) for parts in frames]


@settings(max_examples=40, deadline=None)
@given(
    which=st.integers(0, len(CONFIGS) - 1),
    chunk_size=st.integers(1, 9),
    left_context=st.integers(0, 12),
    streams=st.lists(st.tuples(st.integers(7, 90), st.integers(0, 3)), min_size=1, max_size=3),
)
def test_chunk_after_chunk_is_the_whole_with_a_mask(
    which: int, chunk_size: int, left_context: int, streams: list[tuple[int, int]]
) -> None:
    """Whatever the chunk, the left context, the batch-mates, and wherever the other streams are."""
    encoder, chunking = ENCODERS[which], Chunking(chunk_size, left_context)
    generator = torch.Generator().manual_seed(chunk_size)
    utterances = [torch.randn(length, 20, generator=generator) for length, _ in streams]
    lens = torch.tensor([len(utterance) for utterance in utterances])
    with torch.no_grad():
        whole = encoder(torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True), lens, chunking)
        parts = stream_all(encoder, utterances, [delay for _, delay in streams], chunking)
    for found, expected, length in zip(parts, whole.encoder_out, whole.encoder_out_lens):
        torch.testing.assert_close(found, expected[:length], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_one_chunk_of_the_whole_is_the_encoder_without_chunks(encoder: Encoder) -> None:
    x, x_lens = torch.randn(2, 70, 20), torch.tensor([70, 41])
    with torch.no_grad():
        offline, chunked = encoder(x, x_lens), encoder(x, x_lens, Chunking(40))
    for found, expected, length in zip(chunked.encoder_out, offline.encoder_out, offline.encoder_out_lens):
        torch.testing.assert_close(found[:length], expected[:length], rtol=1e-4, atol=1e-5)


def test_a_frame_sees_its_chunk_and_its_left_context_alone() -> None:
    seen = visible_frames(torch.arange(6), Chunking(2, 1)).int().tolist()
    assert seen == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
    ]
    encoder = ENCODERS[0]
    x = torch.randn(1, 7 + 4 * 11, 20, requires_grad=True)
    encoder(x, torch.tensor([x.size(1)]), Chunking(3)).encoder_out[0, 5, 0].backward()
    assert x.grad is not None and x.grad[0, : 4 * 6 + 3].any(dim=-1).all() and not x.grad[0, 4 * 6 + 3 :].any()


def test_padding_of_chunked_utterances_stays_finite() -> None:
    frames = Frames(torch.tensor([9, 0]), 9, head_dim=2, chunking=Chunking(2, 0))
    assert frames.attended.any(dim=-1).all()
    encoder = ENCODERS[0]
    out = encoder(torch.randn(2, 70, 20), torch.tensor([70, 3]), Chunking(2, 0)).encoder_out
    assert out.isfinite().all()


def test_training_draws_a_chunk_size_for_each_batch() -> None:
    encoder = make_encoder(chunk_sizes=(0, 2, 8), left_contexts=(0, 16), dropout=0.0)
    torch.manual_seed(1)
    drawn = {encoder.drawn_chunking() for _ in range(60)}
    assert drawn == {None, *(Chunking(size, left) for size in (2, 8) for left in (None, 16))}
    encoder.train()
    x, x_lens = torch.randn(1, 90, 20), torch.tensor([90])
    outs = {round(float(encoder(x, x_lens).encoder_out.detach().abs().sum()), 2) for _ in range(12)}
    assert len(outs) > 1
    encoder(x, x_lens).encoder_out.sum().backward()
