"""A tiny recogniser with random weights, sharp enough to find different tokens in different frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.config import EncoderConfig, ModelConfig
from shared_moe_conformer.decoding.beam import ModifiedBeamSearch
from shared_moe_conformer.decoding.ctc import CtcGreedySearch, CtcPrefixBeamSearch
from shared_moe_conformer.decoding.greedy import GreedySearch
from shared_moe_conformer.decoding.hypothesis import Hypothesis, search_utterances
from shared_moe_conformer.decoding.scorers import PrefixScorer
from shared_moe_conformer.model.asr_model import AsrModel

ENCODER_DIM = 8


@pytest.fixture(autouse=True)
def inference() -> object:
    """No gradients, as in decoding."""
    with torch.inference_mode():
        yield


def total(scorer: PrefixScorer, tokens: Sequence[int]) -> float:
    """What a hypothesis of these tokens gets up to the end of its utterance."""
    return scorer._replace(end=scorer.final).sentence_scores([tokens])[0]


def recogniser(vocab_size: int, *, seed: int = 0, sharpness: float = 4.0, context_size: int = 2) -> AsrModel:
    torch.manual_seed(seed)
    encoder = EncoderConfig(
        encoder_dim=ENCODER_DIM,
        num_attention_heads=2,
        feed_forward_dim=8,
        conv_kernel_size=3,
        subsampling_channels=2,
        group_sizes=(1,),
        experts_in="none",
    )
    config = ModelConfig(encoder=encoder, vocab_size=vocab_size, decoder_dim=8, joiner_dim=8, context_size=context_size)
    model = AsrModel(config).eval()
    for head in (model.joiner.output, model.ctc_head, model.joiner.decoder_projection):
        head.weight *= sharpness
    return model


def frames_of(lens: list[int], *, seed: int = 1, dim: int = ENCODER_DIM) -> tuple[torch.Tensor, torch.Tensor]:
    """Random encoder frames, with noise in the padding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lens), max(lens), dim, generator=generator) * 2, torch.tensor(lens)


def greedy_search(model: AsrModel, x: Tensor, lens: Tensor, **options: Any) -> list[Hypothesis]:
    return search_utterances(GreedySearch(model, **options), x, lens)


def modified_beam_search(model: AsrModel, x: Tensor, lens: Tensor, **options: Any) -> list[Hypothesis]:
    return search_utterances(ModifiedBeamSearch(model, **options), x, lens)


def ctc_greedy_search(model: AsrModel, x: Tensor, lens: Tensor) -> list[Hypothesis]:
    return search_utterances(CtcGreedySearch(model), x, lens)


def ctc_prefix_beam_search(model: AsrModel, x: Tensor, lens: Tensor, **options: Any) -> list[Hypothesis]:
    return search_utterances(CtcPrefixBeamSearch(model, **options), x, lens)


@pytest.fixture
def make_model() -> Callable[..., AsrModel]:
    return recogniser


@pytest.fixture
def make_batch() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    return frames_of
