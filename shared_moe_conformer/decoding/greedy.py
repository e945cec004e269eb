"""Greedy search of the transducer, all utterances of a batch at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.decoding.hypothesis import BLANK_ID, Chunk, Hypothesis, hypotheses, joined, valid_frames
from shared_moe_conformer.model.asr_model import AsrModel


class GreedyState(NamedTuple):
    """State of the search of N utterances."""

    context: Tensor
    """The last tokens, which the decoder sees, (N, context_size)."""
    decoder_frame: Tensor
    """The decoder's output after them, projected, (N, J)."""
    score: Tensor
    """Log-probability of the alignment, (N,)."""
    found: tuple[Chunk, ...]
    """Tokens (N, T, S), chunk by chunk."""


@dataclass(frozen=True)
class GreedySearch:
    """Takes the likeliest token or blank at each step; a token's confidence is the model's probability of it.

    Source: greedy_search_batch of icefall, which emits one token a frame at most.
    """

    model: AsrModel
    max_sym_per_frame: int = 1
    """Tokens after which the search moves to the next frame without waiting for a blank."""
    blank_penalty: float = 0.0
    """See `next_token_log_probs`."""

    def start(self, num_utterances: int) -> GreedyState:
        """No token yet."""
        context = start_contexts(self.model, num_utterances)
        score = torch.zeros(num_utterances, device=context.device)
        nothing = torch.zeros(num_utterances, 0, self.max_sym_per_frame, device=context.device)
        chunk = Chunk(nothing.long(), nothing, nothing[:, :, 0].bool())
        return GreedyState(context, projected_decoder_out(self.model, context), score, (chunk,))

    def advance(self, state: GreedyState, encoder_out: Tensor, encoder_out_lens: Tensor) -> GreedyState:
        """Add the likeliest tokens of more frames, (N, T, C)."""
        encoder_frames = self.model.joiner.encoder_projection(encoder_out)
        valid = valid_frames(encoder_out, encoder_out_lens)
        tokens = torch.full((*valid.shape, self.max_sym_per_frame), BLANK_ID, device=valid.device)
        chunk = Chunk(tokens, torch.zeros(tokens.shape, device=valid.device), valid)
        for t, (encoder_frame, active) in enumerate(zip(encoder_frames.unbind(1), valid.unbind(1))):
            state = self._emit(state, encoder_frame, active, chunk, t)
        return state._replace(found=(*state.found, chunk))

    def finish(self, state: GreedyState) -> list[Hypothesis]:
        """The tokens so far."""
        return hypotheses(joined(state.found), state.score.tolist())

    def next_segment(self, state: GreedyState) -> GreedyState:
        """No token yet, after those of the state."""
        begun = self.start(len(state.context))
        return begun._replace(context=state.context, decoder_frame=state.decoder_frame)

    def _emit(self, state: GreedyState, encoder_frame: Tensor, active: Tensor, chunk: Chunk, t: int) -> GreedyState:
        """The state after a frame (N, J) of those utterances that are active, (N,).

        Its tokens and their probabilities are filled into the chunk.
        """
        context, decoder_frame, score, found = state
        for symbol in range(self.max_sym_per_frame):
            log_probs = next_token_log_probs(self.model, encoder_frame, decoder_frame, blank_penalty=self.blank_penalty)
            log_prob, token = log_probs.max(dim=-1)
            score = torch.where(active, score + log_prob, score)
            active = active & (token != BLANK_ID)
            if not active.any():
                break
            chunk.tokens[:, t, symbol] = token.masked_fill(~active, BLANK_ID)
            chunk.confidences[:, t, symbol] = log_prob.exp()
            longer = torch.cat([context[:, 1:], token.unsqueeze(1)], dim=1)
            context = longer.where(active.unsqueeze(1), context)
            decoder_frame = projected_decoder_out(self.model, context)
        return GreedyState(context, decoder_frame, score, found)


def start_contexts(model: AsrModel, num_hypotheses: int) -> Tensor:
    """The contexts of empty hypotheses, (N, context_size)."""
    device = model.joiner.output.weight.device
    return torch.tensor(model.decoder.start_context, device=device).repeat(num_hypotheses, 1)


def projected_decoder_out(model: AsrModel, context: Tensor) -> Tensor:
    """The decoder's output after contexts (N, context_size), projected for the joiner, (N, J)."""
    return model.joiner.decoder_projection(model.decoder.step(context))


def next_token_log_probs(
    model: AsrModel, encoder_frames: Tensor, decoder_frames: Tensor, *, blank_penalty: float
) -> Tensor:
    """Log-probabilities (..., V) of the next token or blank.

    Args:
      encoder_frames, decoder_frames: projected, (..., J), of shapes that broadcast.
      blank_penalty: subtracted from blank's logit (nats); more than 0 means fewer deletions.

    Source of the penalty: --blank-penalty of icefall and of sherpa-onnx.
    """
    logits = model.joiner(encoder_frames, decoder_frames).float()
    if blank_penalty:
        logits[..., BLANK_ID] -= blank_penalty
    return logits.log_softmax(dim=-1)
