"""Beam search of the transducer with at most one token per frame, all utterances and hypotheses at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.decoding.hypothesis import Hypothesis, hypotheses_from_frames, trace_back
from shared_moe_conformer.decoding.padding import only_blank_in_padding, valid_frames
from shared_moe_conformer.decoding.prefix_scorer import PrefixScorer
from shared_moe_conformer.decoding.prefixes import best_extensions, extended_hash, merge_equal_prefixes
from shared_moe_conformer.model.asr_model import AsrModel


class Beam(NamedTuple):
    """The hypotheses of every utterance; (N, K) each."""

    scores: Tensor
    """Log-probability, what scorers added included; -inf marks an empty place."""
    prefix_hash: Tensor
    num_tokens: Tensor
    """Length, the start context counted."""
    context: Tensor
    """What the decoder sees of the tokens, (N, K, context_size)."""
    states: tuple[Tensor, ...]
    """The state of each scorer."""


class Steps(NamedTuple):
    """What each beam entry did at each frame, (T, N, K) each."""

    parents: Tensor
    """The entry of the frame before that it continues."""
    tokens: Tensor
    """The token that it added, or blank."""
    posteriors: Tensor
    """The model's probability of that."""


def modified_beam_search(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    beam_size: int = 4,
    hotwords: PrefixScorer | None = None,
    hotwords_score: float = 1.5,
) -> list[Hypothesis]:
    """Return the best of `beam_size` hypotheses kept per utterance; with a beam of 1, what greedy search finds.

    Each frame adds one token or a blank to each hypothesis. Hypotheses whose tokens have become equal are merged: their
    probabilities add up, and the likelier one's frames stay. The best of the last frame is the one with the highest
    log-probability per token, the start context counted, as in icefall.

    A token's confidence is the model's probability of it at its frame, after the tokens before it.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
      hotwords: phrases that get a bonus (`hotwords.py`).
      hotwords_score: the bonus (nats) for each token of a phrase.

    Source: modified_beam_search of icefall.
    """
    scorers = _scaled([(hotwords, hotwords_score)], encoder_out.device)
    return _search(model, encoder_out, encoder_out_lens, beam_size=beam_size, scorers=scorers)


def modified_beam_search_lm_shallow_fusion(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    token_lm: PrefixScorer,
    beam_size: int = 4,
    lm_scale: float = 0.3,
    hotwords: PrefixScorer | None = None,
    hotwords_score: float = 1.5,
) -> list[Hypothesis]:
    """Return what `modified_beam_search` finds when each token also gets its scaled log-probability by an LM.

    The LM takes part in the choice of every frame's hypotheses; the end of a sentence is not scored, as in icefall.

    Args:
      token_lm: the language model over tokens.
      lm_scale: what its log-probabilities are multiplied by.

    Source: Kannan et al. 2018, An analysis of incorporating an external language model into a sequence-to-sequence
    model (arXiv 1712.01996), section 2.2; modified_beam_search_lm_shallow_fusion of icefall.
    """
    fused = [(token_lm, lm_scale), (hotwords, hotwords_score)]
    return _search(
        model, encoder_out, encoder_out_lens, beam_size=beam_size, scorers=_scaled(fused, encoder_out.device)
    )


def modified_beam_search_lodr(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    token_lm: PrefixScorer,
    low_order_lm: PrefixScorer,
    beam_size: int = 4,
    lm_scale: float = 0.3,
    lodr_scale: float = 0.1,
    hotwords: PrefixScorer | None = None,
    hotwords_score: float = 1.5,
) -> list[Hypothesis]:
    """Return what shallow fusion finds when a low-order LM of the training texts is subtracted.

    That LM stands for what the transducer has learned of its training texts, which the other one should replace.

    Args:
      low_order_lm: a 2-gram over tokens.
      lodr_scale: what its log-probabilities are multiplied by before they are subtracted.

    Source: Zheng et al. 2022, An empirical study of language model integration for transducer based speech recognition
    (arXiv 2203.16776), section 3.4; modified_beam_search_LODR of icefall.
    """
    fused = [(token_lm, lm_scale), (low_order_lm, -lodr_scale), (hotwords, hotwords_score)]
    return _search(
        model, encoder_out, encoder_out_lens, beam_size=beam_size, scorers=_scaled(fused, encoder_out.device)
    )


def _scaled(scorers: Sequence[tuple[PrefixScorer | None, float]], device: torch.device) -> list[PrefixScorer]:
    """Those that are there and count, on the device."""
    return [scorer.to(device).scaled(scale) for scorer, scale in scorers if scorer is not None and scale != 0]


def _search(
    model: AsrModel, encoder_out: Tensor, encoder_out_lens: Tensor, *, beam_size: int, scorers: Sequence[PrefixScorer]
) -> list[Hypothesis]:
    encoder_frames = model.joiner.encoder_projection(encoder_out)
    valid = valid_frames(encoder_out, encoder_out_lens)
    blank_id = model.decoder.blank_id
    steps = _no_steps(valid, beam_size)
    hyps = _empty_beam(model, len(valid), beam_size, valid.device, num_scorers=len(scorers))
    for t in range(valid.size(1)):
        log_probs = _next_token_log_probs(model, encoder_frames[:, t], hyps.context)
        scores = only_blank_in_padding(_fused(log_probs, hyps.states, scorers), valid[:, t, None], blank_id=blank_id)
        scores, parents, tokens = best_extensions(hyps.scores.unsqueeze(2) + scores, beam_size)
        steps.parents[t], steps.tokens[t] = parents, tokens
        steps.posteriors[t] = log_probs.flatten(1).gather(1, parents * log_probs.size(2) + tokens)
        hyps = _extended(hyps, scores, parents, tokens, scorers, blank_id=blank_id)
    scores = hyps.scores + sum(scorer.final[state] for scorer, state in zip(scorers, hyps.states))
    return _best(scores, hyps.num_tokens, steps, blank_id=blank_id)


def _no_steps(valid: Tensor, beam_size: int) -> Steps:
    shape = (valid.size(1), len(valid), beam_size)
    parents = torch.empty(shape, dtype=torch.int64, device=valid.device)
    return Steps(parents, torch.empty_like(parents), torch.empty(shape, device=valid.device))


def _empty_beam(
    model: AsrModel, num_utterances: int, beam_size: int, device: torch.device, *, num_scorers: int
) -> Beam:
    """One empty hypothesis per utterance."""
    scores = torch.full((num_utterances, beam_size), -torch.inf, device=device)
    scores[:, 0] = 0.0
    zeros = torch.zeros_like(scores, dtype=torch.int64)
    context = torch.tensor(model.decoder.start_context, device=device).repeat(num_utterances, beam_size, 1)
    return Beam(scores, zeros, zeros + model.decoder.context_size, context, (zeros,) * num_scorers)


def _next_token_log_probs(model: AsrModel, encoder_frame: Tensor, context: Tensor) -> Tensor:
    """Log-probabilities (N, K, V) of one encoder frame (N, J) after contexts (N, K, context_size)."""
    decoder_frames = model.joiner.decoder_projection(model.decoder.step(context.flatten(0, 1)))
    logits = model.joiner(encoder_frame.unsqueeze(1), decoder_frames.view(*context.shape[:2], -1))
    return logits.float().log_softmax(dim=-1)


def _fused(log_probs: Tensor, states: tuple[Tensor, ...], scorers: Sequence[PrefixScorer]) -> Tensor:
    """Log-probabilities (N, K, V) with what the scorers add in their states."""
    for scorer, state in zip(scorers, states):
        log_probs = log_probs + scorer.score[state]
    return log_probs


def _extended(
    beam: Beam, scores: Tensor, parents: Tensor, tokens: Tensor, scorers: Sequence[PrefixScorer], *, blank_id: int
) -> Beam:
    """The beam whose entries are these parents with these tokens (or blanks), each (N, K), equal ones merged."""
    is_longer = tokens != blank_id
    prefix_hash = beam.prefix_hash.gather(1, parents)
    prefix_hash = extended_hash(prefix_hash, tokens).where(is_longer, prefix_hash)
    context = beam.context.gather(1, parents.unsqueeze(2).expand_as(beam.context))
    longer = torch.cat([context[:, :, 1:], tokens.unsqueeze(2)], dim=2)
    states = (scorer.next_state[state.gather(1, parents), tokens] for scorer, state in zip(scorers, beam.states))
    return Beam(
        merge_equal_prefixes(scores, prefix_hash),
        prefix_hash,
        beam.num_tokens.gather(1, parents) + is_longer,
        longer.where(is_longer.unsqueeze(2), context),
        tuple(states),
    )


def _best(scores: Tensor, num_tokens: Tensor, steps: Steps, *, blank_id: int) -> list[Hypothesis]:
    """The hypotheses with the highest score per token."""
    best = (scores / num_tokens).argmax(dim=1)
    path = trace_back(steps.parents, steps.tokens, best)
    posteriors = trace_back(steps.parents, steps.posteriors, best).exp()
    score = scores.gather(1, best.unsqueeze(1)).squeeze(1)
    return hypotheses_from_frames(path, score, blank_id=blank_id, confidences=posteriors)
