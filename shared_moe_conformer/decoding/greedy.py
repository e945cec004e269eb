"""Greedy search of the transducer, all utterances of a batch at once."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_moe_conformer.decoding.hypothesis import Hypothesis, hypotheses_from_frames
from shared_moe_conformer.decoding.padding import valid_frames
from shared_moe_conformer.model.asr_model import AsrModel


def greedy_search(
    model: AsrModel, encoder_out: Tensor, encoder_out_lens: Tensor, *, max_sym_per_frame: int = 1
) -> list[Hypothesis]:
    """Return the tokens that are likeliest one by one.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
      max_sym_per_frame: tokens after which the search goes on to the next frame without waiting for a blank.

    A token's confidence is the model's probability of it.

    Source: greedy_search_batch of icefall, which emits one token a frame at most.
    """
    encoder_frames = model.joiner.encoder_projection(encoder_out)
    valid = valid_frames(encoder_out, encoder_out_lens)
    blank_id = model.decoder.blank_id
    tokens = torch.full((*valid.shape, max_sym_per_frame), blank_id, device=valid.device)
    scores = torch.zeros(len(valid), device=valid.device)
    posteriors = torch.zeros(tokens.shape, device=valid.device)
    context = torch.tensor(model.decoder.start_context, device=valid.device).repeat(len(valid), 1)
    decoder_frame = model.joiner.decoder_projection(model.decoder.step(context))
    for t in range(valid.size(1)):
        active = valid[:, t]
        for symbol in range(max_sym_per_frame):
            logits = model.joiner(encoder_frames[:, t], decoder_frame).float()
            log_prob, token = logits.log_softmax(dim=-1).max(dim=-1)
            scores += log_prob.where(active, torch.zeros_like(log_prob))
            active = active & (token != blank_id)
            if not active.any():
                break
            tokens[:, t, symbol] = token.where(active, torch.full_like(token, blank_id))
            posteriors[:, t, symbol] = log_prob.exp()
            longer = torch.cat([context[:, 1:], token.unsqueeze(1)], dim=1)
            context = longer.where(active.unsqueeze(1), context)
            decoder_frame = model.joiner.decoder_projection(model.decoder.step(context))
    return hypotheses_from_frames(tokens, scores, blank_id=blank_id, confidences=posteriors)
