"""Searches over the CTC head's posteriors, all utterances of a batch at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.decoding.hypothesis import Hypothesis, hypotheses_from_frames, trace_back
from shared_moe_conformer.decoding.padding import only_blank_in_padding, valid_frames
from shared_moe_conformer.decoding.prefixes import best_extensions, extended_hash
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

    Their confidences are `peak_posteriors`.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
    """
    valid = valid_frames(encoder_out, encoder_out_lens)
    posteriors = only_blank_in_padding(model.ctc_log_probs(encoder_out), valid)
    log_probs, labels = posteriors.max(dim=-1)
    path = collapse(labels)
    return hypotheses_from_frames(
        path, log_probs.sum(dim=1), blank_id=BLANK_ID, confidences=peak_posteriors(posteriors, path)
    )


def peak_posteriors(log_probs: Tensor, path: Tensor) -> Tensor:
    """How sure the CTC head is of each token of a path: its highest posterior until the next token begins, (N, T).

    Args:
      log_probs: of the CTC head, (N, T, V).
      path: the token that begins at each frame, blank where none does, (N, T).

    Source of posteriors as confidences: Laptev and Ginsburg 2022, Fast entropy-based methods of word-level confidence
    estimation for end-to-end automatic speech recognition (arXiv 2212.08703), the maximum probability.
    """
    frame = torch.arange(path.size(1), device=path.device).expand_as(path)
    begin = frame.where(path != BLANK_ID, torch.zeros_like(path)).cummax(dim=1).values  # of each frame's token
    posterior = log_probs.gather(2, path.gather(1, begin).unsqueeze(2)).squeeze(2).exp()
    # Read from the end, each token's beginning outweighs all posteriors of the next token's.
    highest = (posterior.double() - 2 * begin).flip(1).cummax(dim=1).values.flip(1) + 2 * begin
    return highest.to(posterior.dtype)


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

    @property
    def total(self) -> Tensor:
        """Log-probability of all alignments of the prefix; -inf marks an empty place."""
        return torch.logaddexp(self.ending_in_blank, self.ending_in_token)


def ctc_prefix_beam_search(
    model: AsrModel, encoder_out: Tensor, encoder_out_lens: Tensor, *, beam_size: int = 4
) -> list[Hypothesis]:
    """Return the likeliest token sequence, each one's alignments summed, among `beam_size` prefixes kept per utterance.

    With a beam that holds every prefix the sum is exact. A token's frame is the one at which the likeliest way
    into its prefix begins; its confidence is `peak_posteriors`.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).

    Source: Hannun et al. 2014, First-pass large vocabulary continuous speech recognition using bi-directional
    recurrent DNNs, algorithm 1 (arXiv 1408.2873), without its language model.
    """
    valid = valid_frames(encoder_out, encoder_out_lens)
    log_probs = only_blank_in_padding(model.ctc_log_probs(encoder_out), valid)
    parents = torch.empty(valid.size(1), len(valid), beam_size, dtype=torch.int64, device=valid.device)
    tokens = torch.empty_like(parents)
    prefixes = _empty_prefixes(len(valid), beam_size, valid.device)
    for t in range(valid.size(1)):
        prefixes, parents[t], tokens[t] = _advance(prefixes, log_probs[:, t])
    scores, best = prefixes.total.max(dim=1)
    path = trace_back(parents, tokens, best)
    return hypotheses_from_frames(path, scores, blank_id=BLANK_ID, confidences=peak_posteriors(log_probs, path))


def _empty_prefixes(num_utterances: int, beam_size: int, device: torch.device) -> Prefixes:
    """One empty prefix per utterance, in a beam whose other places are empty."""
    impossible = torch.full((num_utterances, beam_size), -torch.inf, device=device)
    blank = impossible.clone()
    blank[:, 0] = 0.0
    zeros = torch.zeros_like(blank, dtype=torch.int64)
    return _with_empty_places_marked(Prefixes(blank, impossible, zeros + BLANK_ID, zeros, zeros - 1))


def _advance(prefixes: Prefixes, log_probs: Tensor) -> tuple[Prefixes, Tensor, Tensor]:
    """The beam after one more frame of log-probabilities (N, V).

    Returns:
      the beam; for the way back, the entry that each of its entries came from, and the token that it added or blank,
      each (N, K).
    """
    blank = prefixes.total + log_probs[:, BLANK_ID, None]
    repeated = prefixes.ending_in_token + log_probs.gather(1, prefixes.last_token)
    arriving, source, candidates = _move_to_existing(prefixes, _extensions(prefixes, log_probs))
    token = torch.logaddexp(repeated, arriving)
    candidates[:, :, BLANK_ID] = torch.logaddexp(blank, token)  # the prefix as it is
    scores, entry, added = best_extensions(candidates, prefixes.last_token.size(1))

    is_new = added != BLANK_ID
    last_token, before = prefixes.last_token.gather(1, entry), prefixes.prefix_hash.gather(1, entry)
    after = Prefixes(
        ending_in_blank=blank.gather(1, entry).masked_fill(is_new, -torch.inf),
        ending_in_token=scores.where(is_new, token.gather(1, entry)),
        last_token=added.where(is_new, last_token),
        prefix_hash=extended_hash(before, added).where(is_new, before),
        parent_hash=before.where(is_new, prefixes.parent_hash.gather(1, entry)),
    )
    # A prefix that its parent reached anew has its last token here, if that is the likelier way.
    is_renewed = (arriving > torch.logaddexp(blank, repeated)).gather(1, entry) & ~is_new
    parents = source.gather(1, entry).where(is_renewed, entry)
    return _with_empty_places_marked(after), parents, last_token.where(is_renewed, added)


def _extensions(prefixes: Prefixes, log_probs: Tensor) -> Tensor:
    """Log-probabilities (N, K, V) of each prefix with each token added; what stands at blank means nothing.

    A token like the prefix's last one needs a blank in between.
    """
    extended = prefixes.total.unsqueeze(2) + log_probs.unsqueeze(1)
    after_blank = prefixes.ending_in_blank + log_probs.gather(1, prefixes.last_token)
    return extended.scatter(2, prefixes.last_token.unsqueeze(2), after_blank.unsqueeze(2))


def _move_to_existing(prefixes: Prefixes, extended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take out the extensions that are prefixes of the beam already.

    Returns:
      the log-probability that arrives at each prefix from its parent, (N, K); that parent's entry, (N, K);
      the extensions (N, K, V) with -inf for those.
    """
    is_parent = prefixes.parent_hash.unsqueeze(1) == prefixes.prefix_hash.unsqueeze(2)  # (N, parent, child)
    last = prefixes.last_token.unsqueeze(1).expand_as(is_parent)
    nothing = extended.new_tensor(-torch.inf)
    arriving, source = extended.gather(2, last).where(is_parent, nothing).max(dim=1)
    is_moved = torch.zeros_like(extended).scatter_add_(2, last, is_parent.to(extended.dtype)) > 0
    return arriving, source, extended.masked_fill(is_moved, -torch.inf)


def _with_empty_places_marked(prefixes: Prefixes) -> Prefixes:
    """Give empty places hashes of their own, so that none is mistaken for a prefix's parent or child."""
    empty = prefixes.total == -torch.inf
    place = torch.arange(empty.size(1), device=empty.device).expand_as(empty)
    return prefixes._replace(
        prefix_hash=(-3 - 2 * place).where(empty, prefixes.prefix_hash),
        parent_hash=(-2 - 2 * place).where(empty, prefixes.parent_hash),
    )
