"""Searches over the CTC head's posteriors, all utterances of a batch at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.decoding.hypothesis import Hypothesis, hypotheses_from_frames, trace_back
from shared_moe_conformer.decoding.padding import only_blank_in_padding, valid_frames
from shared_moe_conformer.decoding.prefixes import extended_hash
from shared_moe_conformer.model.asr_model import AsrModel

BLANK_ID = 0


def collapse(labels: Tensor) -> Tensor:
    """Frame labels (N, T) in which only the first frame of each run of a token keeps it; the others become blank.

    Source: Graves et al. 2006, Connectionist temporal classification, section 3.1.
    """
    before = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=BLANK_ID)
    return labels.where(labels != before, torch.full_like(labels, BLANK_ID))


def ctc_greedy_search(model: AsrModel, encoder_out: Tensor, encoder_out_lens: Tensor) -> list[Hypothesis]:
    """Return the tokens of the best path, which takes the likeliest label of each frame.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
    """
    valid = valid_frames(encoder_out, encoder_out_lens)
    log_probs, labels = model.ctc_log_probs(encoder_out).max(dim=-1)
    labels = labels.where(valid, torch.full_like(labels, BLANK_ID))
    scores = log_probs.where(valid, torch.zeros_like(log_probs)).sum(dim=1)
    return hypotheses_from_frames(collapse(labels), scores, blank_id=BLANK_ID)


class Prefixes(NamedTuple):
    """The beam of every utterance; each tensor (N, K)."""

    ending_in_blank: Tensor
    """Log-probability of the alignments of the prefix whose last frame is blank."""
    ending_in_token: Tensor
    """Log-probability of the alignments of the prefix whose last frame is its last token."""
    last_token: Tensor
    """Last token; blank for the empty prefix."""
    prefix_hash: Tensor
    parent_hash: Tensor
    """Hash of the prefix without its last token."""


def ctc_prefix_beam_search(
    model: AsrModel, encoder_out: Tensor, encoder_out_lens: Tensor, *, beam: int = 4
) -> list[Hypothesis]:
    """Return the likeliest token sequence, each one's alignments summed, among `beam` prefixes kept per utterance.

    With a beam that holds every prefix the sum is exact. A token's frame is the one at which the likeliest way
    into its prefix begins.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).

    Source: Hannun et al. 2014, First-pass large vocabulary continuous speech recognition using bi-directional
    recurrent DNNs, algorithm 1 (arXiv 1408.2873), without its language model.
    """
    valid = valid_frames(encoder_out, encoder_out_lens)
    log_probs = only_blank_in_padding(model.ctc_log_probs(encoder_out), valid)
    parents = torch.empty(valid.size(1), len(valid), beam, dtype=torch.int64, device=valid.device)
    tokens = torch.empty_like(parents)
    prefixes = _empty_prefixes(len(valid), beam, valid.device)
    for t in range(valid.size(1)):
        prefixes, parents[t], tokens[t] = _advance(prefixes, log_probs[:, t])
    scores, best = torch.logaddexp(prefixes.ending_in_blank, prefixes.ending_in_token).max(dim=1)
    return hypotheses_from_frames(trace_back(parents, tokens, best), scores, blank_id=BLANK_ID)


def _empty_prefixes(num_utterances: int, beam: int, device: torch.device) -> Prefixes:
    """One empty prefix per utterance, in a beam whose other entries are dead."""
    impossible = torch.full((num_utterances, beam), -torch.inf, device=device)
    blank = impossible.clone()
    blank[:, 0] = 0.0
    zeros = torch.zeros_like(blank, dtype=torch.int64)
    return _mark_dead(Prefixes(blank, impossible, zeros + BLANK_ID, zeros, zeros - 1))


def _advance(prefixes: Prefixes, log_probs: Tensor) -> tuple[Prefixes, Tensor, Tensor]:
    """The beam after one more frame of log-probabilities (N, V), the entries it came from, and the tokens it added."""
    beam = prefixes.last_token.size(1)
    total = torch.logaddexp(prefixes.ending_in_blank, prefixes.ending_in_token)
    blank = total + log_probs[:, BLANK_ID, None]
    repeat = prefixes.ending_in_token + log_probs.gather(1, prefixes.last_token)
    extended = _extensions(prefixes, total, log_probs)
    arriving, source, extended = _move_to_existing(prefixes, extended)
    token = torch.logaddexp(repeat, arriving)

    stay = torch.logaddexp(blank, token)
    _, index = torch.cat([stay, extended.flatten(1)], dim=1).topk(beam, dim=1)
    is_stay = index < beam
    kept = index.clamp(max=beam - 1)
    new_entry = (index - beam).clamp(min=0)
    vocab_size = log_probs.size(1)
    entry = kept.where(is_stay, new_entry.div(vocab_size, rounding_mode="floor"))
    added = (new_entry % vocab_size).masked_fill(is_stay, BLANK_ID)

    impossible = torch.full_like(stay, -torch.inf)
    before = prefixes.prefix_hash.gather(1, entry)
    after = Prefixes(
        ending_in_blank=blank.gather(1, kept).where(is_stay, impossible),
        ending_in_token=token.gather(1, kept).where(is_stay, extended.flatten(1).gather(1, new_entry)),
        last_token=prefixes.last_token.gather(1, entry).where(is_stay, added),
        prefix_hash=before.where(is_stay, extended_hash(before, added)),
        parent_hash=prefixes.parent_hash.gather(1, entry).where(is_stay, before),
    )
    # The way back of a prefix that others reached anew goes through them where that is the likelier way.
    detour = is_stay & (arriving > torch.logaddexp(blank, repeat)).gather(1, kept)
    parents = source.gather(1, kept).where(detour, entry)
    tokens = prefixes.last_token.gather(1, kept).where(detour, added)
    return _mark_dead(after), parents, tokens


def _extensions(prefixes: Prefixes, total: Tensor, log_probs: Tensor) -> Tensor:
    """Log-probabilities (N, K, V) of each prefix with each token added; -inf for blank, which adds nothing.

    A token like the prefix's last one needs a blank in between.
    """
    extended = total.unsqueeze(2) + log_probs.unsqueeze(1)
    last = prefixes.last_token.unsqueeze(2)
    after_blank = prefixes.ending_in_blank.unsqueeze(2) + log_probs.gather(1, prefixes.last_token).unsqueeze(2)
    extended.scatter_(2, last, after_blank)
    extended[:, :, BLANK_ID] = -torch.inf
    return extended


def _move_to_existing(prefixes: Prefixes, extended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take out the extensions that are prefixes of the beam already.

    Returns:
      the log-probability that arrives at each prefix from its parent, (N, K); that parent's entry, (N, K);
      the extensions (N, K, V) with -inf for those.
    """
    is_parent = prefixes.parent_hash.unsqueeze(1) == prefixes.prefix_hash.unsqueeze(2)  # (N, parent, child)
    last = prefixes.last_token.unsqueeze(1).expand_as(is_parent)
    impossible = extended.new_tensor(-torch.inf)
    arriving, source = extended.gather(2, last).where(is_parent, impossible).max(dim=1)
    moved = torch.zeros_like(extended).scatter_add_(2, last, is_parent.to(extended.dtype)) > 0
    return arriving, source, extended.masked_fill(moved, -torch.inf)


def _mark_dead(prefixes: Prefixes) -> Prefixes:
    """Give impossible entries hashes of their own, so that none is mistaken for a living one's parent or child."""
    dead = (prefixes.ending_in_blank == -torch.inf) & (prefixes.ending_in_token == -torch.inf)
    entry = torch.arange(dead.size(1), device=dead.device).expand_as(dead)
    return prefixes._replace(
        prefix_hash=(-3 - 2 * entry).where(dead, prefixes.prefix_hash),
        parent_hash=(-2 - 2 * entry).where(dead, prefixes.parent_hash),
    )
