"""Beam search of the transducer, and the tools of every batched beam: extensions, hashes of prefixes, paths back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.decoding.greedy import next_token_log_probs, projected_decoder_out, start_contexts
from shared_moe_conformer.decoding.hypothesis import BLANK_ID, Chunk, Hypothesis, has_padding, hypotheses, valid_frames
from shared_moe_conformer.decoding.scorers import Scorer, of_parents
from shared_moe_conformer.model.asr_model import AsrModel

_STATE_FACTOR, _TOKEN_FACTOR = (odd - (1 << 64) for odd in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9))
"""64-bit constants with well-mixed bits. Source: SplitMix64, Steele et al. 2014."""


class Beam(NamedTuple):
    """The hypotheses of every utterance; (N, K) each."""

    scores: Tensor
    """Log-probability, with the scores of scorers; -inf marks an empty place."""
    prefix_hash: Tensor
    num_tokens: Tensor
    """Length, the start context counted."""
    context: Tensor
    """The last tokens, which the decoder sees, (N, K, context_size)."""
    scorer_states: tuple[tuple[Tensor, ...], ...]
    """The state of each scorer, tensors (N, K, ..)."""


class BeamState(NamedTuple):
    """State of the search of N utterances."""

    beam: Beam
    steps: tuple[Steps, ...]
    """The steps that led to the beam, chunk by chunk."""


@dataclass(frozen=True)
class ModifiedBeamSearch:
    """Keeps `beam_size` hypotheses per utterance and finds the best; a beam of 1 finds what greedy search finds.

    Each frame adds one token or a blank to each hypothesis. Hypotheses whose tokens have become equal are merged: their
    probabilities add up, and the frames of the likelier one are kept. The best hypothesis is the one with the highest
    log-probability per token, the start context counted, as in icefall. A token's confidence is the model's probability
    of it at its frame, after the tokens before it.

    Source: modified_beam_search of icefall, and with scorers its .._lm_shallow_fusion and .._LODR: Kannan et al. 2018,
    An analysis of incorporating an external language model into a sequence-to-sequence model (arXiv 1712.01996),
    section 2.2; Zheng et al. 2022, An empirical study of language model integration for transducer based speech
    recognition (arXiv 2203.16776), section 3.4. As in icefall, no LM scores the end of a sentence.
    """

    model: AsrModel
    beam_size: int = 4
    blank_penalty: float = 0.0
    """See `next_token_log_probs`."""
    scorers: Sequence[Scorer] = ()
    """Language models and hotwords, scaled and on the model's device: each token also gets their scores."""

    def start(self, num_utterances: int) -> BeamState:
        """One empty hypothesis per utterance."""
        context = start_contexts(self.model, num_utterances)
        scores = torch.full((num_utterances, self.beam_size), -torch.inf, device=context.device)
        scores[:, 0] = 0.0
        zeros = torch.zeros_like(scores, dtype=torch.int64)
        beam = Beam(
            scores,
            prefix_hash=zeros,
            num_tokens=zeros + self.model.decoder.context_size,
            context=context.unsqueeze(1).repeat(1, self.beam_size, 1),
            scorer_states=tuple(scorer.start(*scores.shape) for scorer in self.scorers),
        )
        return BeamState(beam, (Steps.none(num_utterances, self.beam_size, context.device),))

    def advance(self, state: BeamState, encoder_out: Tensor, encoder_out_lens: Tensor) -> BeamState:
        """Extend the hypotheses by more frames, (N, T, C)."""
        if not encoder_out.size(1):
            return state
        encoder_frames = self.model.joiner.encoder_projection(encoder_out)
        valid = valid_frames(encoder_out, encoder_out_lens)
        beam, steps = state.beam, []
        for frame, active, is_padded in zip(encoder_frames.unbind(1), valid.unbind(1), has_padding(valid)):
            after, *step = self._extended(beam, frame)
            beam = _beams_where(active, after, beam) if is_padded else after
            steps.append(step)
        parents, tokens, log_probs = map(torch.stack, zip(*steps))
        chunk = Steps.of_valid(parents, tokens, log_probs, valid)
        return BeamState(beam, (*state.steps, chunk))

    def finish(self, state: BeamState) -> list[Hypothesis]:
        """The hypotheses with the highest score per token."""
        scores, best = self._best(state.beam)
        score = scores.gather(1, best.unsqueeze(1)).squeeze(1)
        return hypotheses(path_of(state.steps, best), score.tolist())

    def next_segment(self, state: BeamState) -> BeamState:
        """One empty hypothesis per utterance, after the tokens of its best one; scorers begin again."""
        _, best = self._best(state.beam)
        beam, steps = self.start(len(best))
        context = of_parents(state.beam.context, best.unsqueeze(1)).expand_as(beam.context)
        return BeamState(beam._replace(context=context), steps)

    def n_best(self, state: BeamState) -> list[list[Hypothesis]]:
        """All hypotheses of each utterance, in no order."""
        scores = self._final_scores(state.beam)
        places = [torch.full_like(scores[:, 0], k, dtype=torch.int64) for k in range(scores.size(1))]
        at_each = [
            hypotheses(path_of(state.steps, place), score.tolist()) for place, score in zip(places, scores.unbind(1))
        ]
        return [[hyp for hyp in of_one if hyp.score > -math.inf] for of_one in zip(*at_each)]

    def _best(self, beam: Beam) -> tuple[Tensor, Tensor]:
        """The final scores (N, K), and the entry with the highest score per token, (N,)."""
        scores = self._final_scores(beam)
        return scores, (scores / beam.num_tokens).argmax(dim=1)

    def _final_scores(self, beam: Beam) -> Tensor:
        """The scores (N, K) with those of the end of the utterance."""
        scores = beam.scores
        for scorer, state in zip(self.scorers, beam.scorer_states):
            scores = scores + scorer.final_scores(state)
        return scores

    def _extended(self, beam: Beam, encoder_frame: Tensor) -> tuple[Beam, Tensor, Tensor, Tensor]:
        """The beam after one more frame (N, J), equal hypotheses merged.

        Returns:
          the beam; the entry that each of its entries continues, the token that it adds or blank, and the model's
          log-probability of that, each (N, K).
        """
        log_probs = self._next_token_log_probs(encoder_frame, beam.context)
        scores, parents, tokens = best_extensions(
            beam.scores.unsqueeze(2) + self._fused(log_probs, beam.scorer_states), self.beam_size
        )
        is_longer = tokens != BLANK_ID
        prefix_hash = beam.prefix_hash.gather(1, parents)
        prefix_hash = extended_hash(prefix_hash, tokens).where(is_longer, prefix_hash)
        context = of_parents(beam.context, parents)
        longer = torch.cat([context[:, :, 1:], tokens.unsqueeze(2)], dim=2)
        after = Beam(
            merge_equal_prefixes(scores, prefix_hash),
            prefix_hash,
            beam.num_tokens.gather(1, parents) + is_longer,
            longer.where(is_longer.unsqueeze(2), context),
            tuple(scorer.advanced(state, parents, tokens) for scorer, state in zip(self.scorers, beam.scorer_states)),
        )
        return after, parents, tokens, log_probs.flatten(1).gather(1, parents * log_probs.size(2) + tokens)

    def _next_token_log_probs(self, encoder_frame: Tensor, context: Tensor) -> Tensor:
        """Log-probabilities (N, K, V) of one encoder frame (N, J) after contexts (N, K, context_size)."""
        decoder_frames = projected_decoder_out(self.model, context.flatten(0, 1)).unflatten(0, context.shape[:2])
        return next_token_log_probs(
            self.model, encoder_frame.unsqueeze(1), decoder_frames, blank_penalty=self.blank_penalty
        )

    def _fused(self, log_probs: Tensor, scorer_states: Sequence[Sequence[Tensor]]) -> Tensor:
        """Log-probabilities (N, K, V) with what the scorers add in their states."""
        for scorer, state in zip(self.scorers, scorer_states):
            log_probs = log_probs + scorer.token_scores(state)
        return log_probs


@dataclass(frozen=True)
class RescoredBeamSearch:
    """Lets language models choose at the end among the hypotheses of a beam that does not know them.

    The best hypothesis is the one with the highest sum of scores per token, the start context counted, so that at scale
    0 it is that of the beam. icefall compares sums that are not divided; sherpa-onnx divides, as here.

    Source: modified_beam_search_lm_rescore and .._lm_rescore_LODR of icefall; OfflineLM::ComputeLMScore of sherpa-onnx.
    """

    search: ModifiedBeamSearch
    lms: Sequence[Scorer]
    """Scaled and on the model's device; each sentence gets their scores, and its end, too."""

    def start(self, num_utterances: int) -> BeamState:
        """One empty hypothesis per utterance."""
        return self.search.start(num_utterances)

    def advance(self, state: BeamState, encoder_out: Tensor, encoder_out_lens: Tensor) -> BeamState:
        """Extend the hypotheses by more frames, (N, T, C)."""
        return self.search.advance(state, encoder_out, encoder_out_lens)

    def finish(self, state: BeamState) -> list[Hypothesis]:
        """The hypotheses that the language models choose."""
        lists = self.search.n_best(state)
        sentences = [hyp.tokens for hyps in lists for hyp in hyps]
        of_each = [lm.sentence_scores(sentences) for lm in self.lms]
        added = map(sum, zip(*of_each)) if of_each else itertools.repeat(0.0)
        rescored = [[hyp._replace(score=hyp.score + next(added)) for hyp in hyps] for hyps in lists]
        context_size = self.search.model.decoder.context_size
        return [max(hyps, key=lambda hyp: hyp.score / (len(hyp.tokens) + context_size)) for hyps in rescored]

    def next_segment(self, state: BeamState) -> BeamState:
        """One empty hypothesis per utterance, after the tokens of the beam's best one."""
        return self.search.next_segment(state)


def best_extensions(scores: Tensor, beam_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `beam_size` best, best first: their scores, the entries that they extend, and the tokens, each (N, K).

    Args:
      scores: log-probability of each beam entry with each token added, (N, K, V).
    """
    best, index = scores.flatten(1).topk(beam_size, dim=1)
    return best, index.div(scores.size(2), rounding_mode="floor"), index % scores.size(2)


def extended_hash(prefix_hash: Tensor, token: Tensor) -> Tensor:
    """The hashes of prefixes, each with one token added; both int64, of shapes that broadcast.

    Two different sequences of a beam have the same hash with a probability of about 2**-64.
    """
    mixed = prefix_hash * _STATE_FACTOR + (token + 1) * _TOKEN_FACTOR
    return mixed ^ (mixed >> 31)


def merge_equal_prefixes(scores: Tensor, prefix_hash: Tensor) -> Tensor:
    """Scores in which the first of several equal prefixes has their summed probability, and the others -inf.

    Args:
      scores: log-probability of each beam entry, best first, (N, K).
      prefix_hash: (N, K).
    """
    same = prefix_hash.unsqueeze(2) == prefix_hash.unsqueeze(1)
    nothing = scores.new_tensor(-torch.inf)
    total = scores.unsqueeze(1).where(same, nothing).logsumexp(dim=2)
    repeated = same.tril(diagonal=-1).any(dim=2)
    return nothing.where(repeated, total)


class Steps(NamedTuple):
    """The origin of each beam entry at each frame of a chunk; (T, N, K), except `valid`."""

    parents: Tensor
    """The entry of the frame before that it continues."""
    tokens: Tensor
    """The token that it added, or blank."""
    log_probs: Tensor
    """The model's log-probability of that, or of the entry's last token; 0 in padding."""
    valid: Tensor
    """True where the frame belongs to the utterance, (N, T)."""

    @classmethod
    def none(cls, num_utterances: int, beam_size: int, device: torch.device) -> Steps:
        """The steps of a chunk without frames."""
        nothing = torch.zeros(0, num_utterances, beam_size, device=device)
        return cls(nothing.long(), nothing.long(), nothing, nothing[:, :, 0].t().bool())

    @classmethod
    def of_valid(cls, parents: Tensor, tokens: Tensor, log_probs: Tensor, valid: Tensor) -> Steps:
        """The given steps, except that every entry continues itself by a blank in padding."""
        padding = ~valid.t().unsqueeze(2)
        itself = torch.arange(parents.size(2), device=parents.device).expand_as(parents)
        return cls(
            itself.where(padding, parents),
            tokens.masked_fill(padding, BLANK_ID),
            log_probs.masked_fill(padding, 0.0),
            valid,
        )


def where_active(active: Tensor, after: Sequence[Tensor], before: Sequence[Tensor]) -> list[Tensor]:
    """Beams (N, K, ..) after a frame for the utterances that have it, (N,), and those before it for the others."""
    return [new.where(active.view(-1, *[1] * (new.dim() - 1)), old) for new, old in zip(after, before)]


def _beams_where(active: Tensor, after: Beam, before: Beam) -> Beam:
    """See `where_active`."""
    (*new, new_states), (*old, old_states) = after, before
    states = (tuple(where_active(active, *parts)) for parts in zip(new_states, old_states))
    scores, prefix_hash, num_tokens, context = where_active(active, new, old)
    return Beam(scores, prefix_hash, num_tokens, context, tuple(states))


def path_of(steps: Sequence[Steps], best: Tensor) -> Chunk:
    """The path to one beam entry of each utterance, (N,), through the steps of one or more chunks.

    Its confidences are the probabilities of its steps.
    """
    parents, tokens, log_probs = (torch.cat(parts) for parts in list(zip(*steps))[:3])
    valid = torch.cat([chunk.valid for chunk in steps], dim=1)
    return Chunk(trace_back(parents, tokens, best), trace_back(parents, log_probs, best).exp(), valid)


def trace_back(parents: Tensor, values: Tensor, best: Tensor) -> Tensor:
    """The values along the path to one beam entry per utterance, (N, T).

    Args:
      parents: beam entry of the frame before that each entry continues, (T, N, K).
      values: one of each entry at its frame, such as the token that it added, (T, N, K).
      best: beam entry after the last frame, (N,).
    """
    path = torch.empty(values.shape[:2], dtype=values.dtype, device=values.device)
    entry = best.unsqueeze(1)
    for t in reversed(range(len(values))):
        path[t] = values[t].gather(1, entry).squeeze(1)
        entry = parents[t].gather(1, entry)
    return path.t()
