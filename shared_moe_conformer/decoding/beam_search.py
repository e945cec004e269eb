"""Beam search of the transducer with at most one token per frame, all utterances and hypotheses at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.decoding.hypothesis import Hypothesis, hypotheses_from_frames, trace_back
from shared_moe_conformer.decoding.padding import only_blank_in_padding, valid_frames
from shared_moe_conformer.decoding.prefixes import best_extensions, extended_hash, merge_equal_prefixes
from shared_moe_conformer.model.asr_model import AsrModel


class Beam(NamedTuple):
    """The hypotheses of every utterance; (N, K) each."""

    scores: Tensor
    """Log-probability; -inf marks an empty place."""
    prefix_hash: Tensor
    num_tokens: Tensor
    """Length, the start context counted."""
    context: Tensor
    """What the decoder sees of the tokens, (N, K, context_size)."""


def modified_beam_search(
    model: AsrModel, encoder_out: Tensor, encoder_out_lens: Tensor, *, beam: int = 4
) -> list[Hypothesis]:
    """Return the best of `beam` hypotheses kept per utterance; with a beam of 1, what greedy search finds.

    Each frame adds one token or a blank to each hypothesis. Hypotheses whose tokens have become equal are merged: their
    probabilities add up, and the likelier one's frames stay. The best of the last frame is the one with the highest
    log-probability per token, the start context counted, as in icefall.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).

    Source: modified_beam_search of icefall.
    """
    encoder_frames = model.joiner.encoder_projection(encoder_out)
    valid = valid_frames(encoder_out, encoder_out_lens)
    blank_id = model.decoder.blank_id
    parents = torch.empty(valid.size(1), len(valid), beam, dtype=torch.int64, device=valid.device)
    tokens = torch.empty_like(parents)
    hyps = _empty_beam(model, len(valid), beam, valid.device)
    for t in range(valid.size(1)):
        log_probs = _next_token_log_probs(model, encoder_frames[:, t], hyps.context)
        log_probs = only_blank_in_padding(log_probs, valid[:, t, None], blank_id=blank_id)
        scores, parents[t], tokens[t] = best_extensions(hyps.scores.unsqueeze(2) + log_probs, beam)
        hyps = _extended(hyps, scores, parents[t], tokens[t], blank_id=blank_id)
    best = (hyps.scores / hyps.num_tokens).argmax(dim=1)
    path = trace_back(parents, tokens, best)
    return hypotheses_from_frames(path, hyps.scores.gather(1, best.unsqueeze(1)).squeeze(1), blank_id=blank_id)


def _empty_beam(model: AsrModel, num_utterances: int, beam: int, device: torch.device) -> Beam:
    """One empty hypothesis per utterance."""
    scores = torch.full((num_utterances, beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    zeros = torch.zeros_like(scores, dtype=torch.int64)
    context = torch.tensor(model.decoder.start_context, device=device).repeat(num_utterances, beam, 1)
    return Beam(scores, zeros, zeros + model.decoder.context_size, context)


def _next_token_log_probs(model: AsrModel, encoder_frame: Tensor, context: Tensor) -> Tensor:
    """Log-probabilities (N, K, V) of one encoder frame (N, J) after contexts (N, K, context_size)."""
    decoder_frames = model.joiner.decoder_projection(model.decoder.step(context.flatten(0, 1)))
    logits = model.joiner(encoder_frame.unsqueeze(1), decoder_frames.view(*context.shape[:2], -1))
    return logits.float().log_softmax(dim=-1)


def _extended(beam: Beam, scores: Tensor, parents: Tensor, tokens: Tensor, *, blank_id: int) -> Beam:
    """The beam whose entries are these parents with these tokens (or blanks), each (N, K), equal ones merged."""
    is_longer = tokens != blank_id
    prefix_hash = beam.prefix_hash.gather(1, parents)
    prefix_hash = extended_hash(prefix_hash, tokens).where(is_longer, prefix_hash)
    context = beam.context.gather(1, parents.unsqueeze(2).expand_as(beam.context))
    longer = torch.cat([context[:, :, 1:], tokens.unsqueeze(2)], dim=2)
    return Beam(
        merge_equal_prefixes(scores, prefix_hash),
        prefix_hash,
        beam.num_tokens.gather(1, parents) + is_longer,
        longer.where(is_longer.unsqueeze(2), context),
    )
