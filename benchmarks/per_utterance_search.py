"""The yardstick: searches as icefall writes them for one utterance at a time, a hypothesis at a time in Python.

Source: greedy_search and modified_beam_search of icefall's pruned_transducer_stateless recipes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.model.asr_model import AsrModel


class Partial(NamedTuple):
    """A hypothesis, the start context included."""

    tokens: tuple[int, ...]
    log_prob: float


def greedy_search(model: AsrModel, encoder_out: Tensor) -> list[int]:
    """Tokens of one utterance (T, C): at most one a frame."""
    size = model.decoder.context_size
    tokens = list(model.decoder.start_context)
    decoder_frame = _decoder_frame(model, [tuple(tokens)])
    for frame in model.joiner.encoder_projection(encoder_out):
        token = int(model.joiner(frame.unsqueeze(0), decoder_frame).argmax())
        if token != model.decoder.blank_id:
            tokens.append(token)
            decoder_frame = _decoder_frame(model, [tuple(tokens)])
    return tokens[size:]


def modified_beam_search(model: AsrModel, encoder_out: Tensor, *, beam: int) -> list[int]:
    """Tokens of one utterance (T, C): hypotheses with equal tokens are added, the best per token wins."""
    beams = {tuple(model.decoder.start_context): 0.0}
    for frame in model.joiner.encoder_projection(encoder_out):
        hyps = [Partial(tokens, log_prob) for tokens, log_prob in beams.items()]
        logits = model.joiner(frame.unsqueeze(0), _decoder_frame(model, [hyp.tokens for hyp in hyps]))
        log_probs = logits.log_softmax(-1) + torch.tensor([[hyp.log_prob] for hyp in hyps])
        best = log_probs.flatten().topk(beam)
        beams = {}
        for log_prob, place in zip(best.values.tolist(), best.indices.tolist()):
            parent, token = divmod(place, log_probs.size(1))
            tokens = hyps[parent].tokens + ((token,) if token != model.decoder.blank_id else ())
            beams[tokens] = _log_add(beams[tokens], log_prob) if tokens in beams else log_prob
    best_tokens = max(beams, key=lambda tokens: beams[tokens] / len(tokens))
    return list(best_tokens[model.decoder.context_size :])


def _decoder_frame(model: AsrModel, hyps: list[tuple[int, ...]]) -> Tensor:
    context = torch.tensor([tokens[-model.decoder.context_size :] for tokens in hyps])
    return model.joiner.decoder_projection(model.decoder.step(context))


def _log_add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))
