"""Beam search of the transducer with at most one token per frame, all utterances and hypotheses at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.decoding.greedy import next_token_log_probs, projected_decoder_out, start_contexts
from shared_moe_conformer.decoding.hypothesis import Hypothesis, has_padding, hypotheses, valid_frames
from shared_moe_conformer.decoding.prefixes import (
    Steps,
    best_extensions,
    extended_hash,
    merge_equal_prefixes,
    path_of,
    where_active,
)
from shared_moe_conformer.decoding.scorers import PrefixScorer
from shared_moe_conformer.model.asr_model import AsrModel


class Beam(NamedTuple):
    """The hypotheses of every utterance; (N, K) each."""

    scores: Tensor
    """Log-probability, what scorers added included; -inf marks an empty place."""
    prefix_hash: Tensor
    num_tokens: Tensor
    """Length, the start context counted."""
    context: Tensor
    """The last tokens, which the decoder sees, (N, K, context_size)."""
    scorer_states: Tensor
    """The state of each of J scorers, (N, K, J)."""


class BeamState(NamedTuple):
    """Where the search of N utterances stands."""

    beam: Beam
    steps: tuple[Steps, ...]
    """The steps that led to the beam, chunk by chunk."""


@dataclass(frozen=True)
class ModifiedBeamSearch:
    """The best of `beam_size` hypotheses kept per utterance; with a beam of 1, what greedy search finds.

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
    scorers: Sequence[PrefixScorer] = ()
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
            scorer_states=zeros.unsqueeze(2).repeat(1, 1, len(self.scorers)),
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
            beam = Beam(*where_active(active, after, beam)) if is_padded else after
            steps.append(step)
        parents, tokens, log_probs = map(torch.stack, zip(*steps))
        chunk = Steps.of_valid(parents, tokens, log_probs, valid, blank_id=self.model.decoder.blank_id)
        return BeamState(beam, (*state.steps, chunk))

    def finish(self, state: BeamState) -> list[Hypothesis]:
        """The hypotheses with the highest score per token."""
        beam = state.beam
        scores = beam.scores.clone()
        for scorer, states in zip(self.scorers, beam.scorer_states.unbind(2)):
            scores += scorer.final[states]
        best = (scores / beam.num_tokens).argmax(dim=1)
        score = scores.gather(1, best.unsqueeze(1)).squeeze(1)
        return hypotheses(path_of(state.steps, best), score.tolist(), blank_id=self.model.decoder.blank_id)

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
        is_longer = tokens != self.model.decoder.blank_id
        prefix_hash = beam.prefix_hash.gather(1, parents)
        prefix_hash = extended_hash(prefix_hash, tokens).where(is_longer, prefix_hash)
        context = _of_parents(beam.context, parents)
        longer = torch.cat([context[:, :, 1:], tokens.unsqueeze(2)], dim=2)
        after = Beam(
            merge_equal_prefixes(scores, prefix_hash),
            prefix_hash,
            beam.num_tokens.gather(1, parents) + is_longer,
            longer.where(is_longer.unsqueeze(2), context),
            self._next_states(_of_parents(beam.scorer_states, parents), tokens),
        )
        return after, parents, tokens, log_probs.flatten(1).gather(1, parents * log_probs.size(2) + tokens)

    def _next_token_log_probs(self, encoder_frame: Tensor, context: Tensor) -> Tensor:
        """Log-probabilities (N, K, V) of one encoder frame (N, J) after contexts (N, K, context_size)."""
        decoder_frames = projected_decoder_out(self.model, context.flatten(0, 1)).view(*context.shape[:2], -1)
        return next_token_log_probs(
            self.model, encoder_frame.unsqueeze(1), decoder_frames, blank_penalty=self.blank_penalty
        )

    def _fused(self, log_probs: Tensor, scorer_states: Tensor) -> Tensor:
        """Log-probabilities (N, K, V) with what the scorers add in their states."""
        for scorer, states in zip(self.scorers, scorer_states.unbind(2)):
            log_probs = log_probs + scorer.score[states]
        return log_probs

    def _next_states(self, scorer_states: Tensor, tokens: Tensor) -> Tensor:
        """The states (N, K, J) of the scorers after one more token, or blank, of each hypothesis."""
        after = scorer_states.clone()
        for j, scorer in enumerate(self.scorers):
            after[:, :, j] = scorer.next_state[scorer_states[:, :, j], tokens]
        return after


def _of_parents(values: Tensor, parents: Tensor) -> Tensor:
    """The values (N, K, ..) of the entries (N, K) that are continued."""
    return values.gather(1, parents.unsqueeze(2).expand(-1, -1, values.size(2)))
