"""Beam search of the transducer with at most one token per frame, all utterances and hypotheses at once."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_moe_conformer.decoding.hypothesis import Hypothesis, hypotheses_from_frames, trace_back
from shared_moe_conformer.decoding.padding import only_blank_in_padding, valid_frames
from shared_moe_conformer.decoding.prefixes import extended_hash, merge_equal_prefixes
from shared_moe_conformer.model.asr_model import AsrModel


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
    (num_utterances, num_frames), device = valid.shape, valid.device
    blank_id = model.decoder.blank_id
    parents = torch.empty(num_frames, num_utterances, beam, dtype=torch.int64, device=device)
    tokens = torch.empty_like(parents)
    scores = torch.full((num_utterances, beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    prefix_hash = torch.zeros_like(scores, dtype=torch.int64)
    num_tokens = torch.full_like(prefix_hash, model.decoder.context_size)
    context = torch.tensor(model.decoder.start_context, device=device).repeat(num_utterances, beam, 1)
    for t in range(num_frames):
        log_probs = _next_token_log_probs(model, encoder_frames[:, t], context)
        log_probs = only_blank_in_padding(log_probs, valid[:, t, None], blank_id=blank_id)
        scores, parents[t], tokens[t] = _best_extensions(scores.unsqueeze(2) + log_probs, beam)
        extended = tokens[t] != blank_id
        prefix_hash = prefix_hash.gather(1, parents[t])
        prefix_hash = extended_hash(prefix_hash, tokens[t]).where(extended, prefix_hash)
        num_tokens = num_tokens.gather(1, parents[t]) + extended
        context = context.gather(1, parents[t].unsqueeze(2).expand_as(context))
        longer = torch.cat([context[:, :, 1:], tokens[t].unsqueeze(2)], dim=2)
        context = longer.where(extended.unsqueeze(2), context)
        scores = merge_equal_prefixes(scores, prefix_hash)
    best = (scores / num_tokens).argmax(dim=1)
    path = trace_back(parents, tokens, best)
    return hypotheses_from_frames(path, scores.gather(1, best.unsqueeze(1)).squeeze(1), blank_id=blank_id)


def _next_token_log_probs(model: AsrModel, encoder_frame: Tensor, context: Tensor) -> Tensor:
    """Log-probabilities (N, K, V) of one encoder frame (N, J) after contexts (N, K, context_size)."""
    decoder_frames = model.joiner.decoder_projection(model.decoder.step(context.flatten(0, 1)))
    logits = model.joiner(encoder_frame.unsqueeze(1), decoder_frames.view(*context.shape[:2], -1))
    return logits.float().log_softmax(dim=-1)


def _best_extensions(scores: Tensor, beam: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `beam` best of scores (N, K, V), best first: their scores, beam entries and tokens, each (N, beam)."""
    best, index = scores.flatten(1).topk(beam, dim=1)
    return best, index.div(scores.size(2), rounding_mode="floor"), index % scores.size(2)
