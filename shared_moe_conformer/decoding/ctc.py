"""Searches over the CTC head's posteriors, all utterances of a batch at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared_moe_conformer.decoding.beam import Steps, best_extensions, extended_hash, path_of, where_active
from shared_moe_conformer.decoding.hypothesis import (
    BLANK_ID,
    Chunk,
    Hypothesis,
    has_padding,
    hypotheses,
    joined,
    valid_frames,
)
from shared_moe_conformer.model.asr_model import AsrModel


def collapse(labels: Tensor) -> Tensor:
    """Frame labels (N, T) in which only the first frame of each run of a token keeps it; the others become blank.

    Source: Graves et al. 2006, Connectionist temporal classification, section 3.1.
    """
    before = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=BLANK_ID)
    return labels.where(labels != before, torch.full_like(labels, BLANK_ID))


class CtcGreedyState(NamedTuple):
    """State of the search of N utterances."""

    label: Tensor
    """The last frame's label, (N,)."""
    token: Tensor
    """The last token, (N,); blank where there is none."""
    found: tuple[Chunk, ...]
    """Each token at its first frame, and at every frame the log-probability of the last token."""
    log_probs: tuple[Tensor, ...]
    """Log-probability of each frame's label, 0 in padding, (N, T), chunk by chunk."""


@dataclass(frozen=True)
class CtcGreedySearch:
    """Takes the likeliest label of each frame; the confidences are `peaks`."""

    model: AsrModel

    def start(self, num_utterances: int) -> CtcGreedyState:
        """No label yet."""
        label = torch.full((num_utterances,), BLANK_ID, device=self.model.ctc_head.weight.device)
        nothing = torch.zeros(num_utterances, 0, device=label.device)
        return CtcGreedyState(label, label, (Chunk(nothing.long(), nothing, nothing.bool()),), (nothing,))

    def advance(self, state: CtcGreedyState, encoder_out: Tensor, encoder_out_lens: Tensor) -> CtcGreedyState:
        """Take the likeliest labels of more frames, (N, T, C)."""
        log_probs = self.model.ctc_log_probs(encoder_out)
        valid = valid_frames(encoder_out, encoder_out_lens)
        best, labels = log_probs.max(dim=-1)
        with_last = torch.cat([state.label.unsqueeze(1), labels], dim=1)
        begins = collapse(with_last)[:, 1:].masked_fill(~valid, BLANK_ID)
        tokens = latest(torch.cat([state.token.unsqueeze(1), begins], dim=1))
        last = log_probs.gather(2, tokens[:, 1:].unsqueeze(2)).squeeze(2).masked_fill(~valid, -torch.inf)
        label = with_last.gather(1, encoder_out_lens.unsqueeze(1)).squeeze(1)
        found = (*state.found, Chunk(begins, last, valid))
        return CtcGreedyState(label, tokens[:, -1], found, (*state.log_probs, best.masked_fill(~valid, 0.0)))

    def finish(self, state: CtcGreedyState) -> list[Hypothesis]:
        """The tokens so far."""
        found = joined(state.found)
        # fsum rounds once, so that neither chunks nor padding change a sum.
        scores = [math.fsum(row) for row in torch.cat(state.log_probs, dim=1).tolist()]
        return hypotheses(found._replace(confidences=peaks(found.confidences.exp(), found.tokens)), scores)

    def next_segment(self, state: CtcGreedyState) -> CtcGreedyState:
        """No token yet; the last frame's label may go on, and is no second token then."""
        return self.start(len(state.label))._replace(label=state.label)


def latest(tokens: Tensor) -> Tensor:
    """The last token at or before each frame, blank where there is none, given where tokens begin, (N, T)."""
    frame = torch.arange(tokens.size(1), device=tokens.device).expand_as(tokens)
    return tokens.gather(1, frame.where(tokens != BLANK_ID, torch.zeros_like(frame)).cummax(dim=1).values)


def peaks(posteriors: Tensor, path: Tensor) -> Tensor:
    """Confidence of the CTC head in each token: its highest posterior from its first frame to the next token's, (N, T).

    Args:
      posteriors: of the last token at each frame, (N, T).
      path: the token that begins at each frame, blank where none does, (N, T).

    Source of posteriors as confidences: Laptev and Ginsburg 2022, Fast entropy-based methods of word-level confidence
    estimation for end-to-end automatic speech recognition (arXiv 2212.08703), the maximum probability.
    """
    highest = np.zeros(path.shape, dtype=np.float32)
    for row, posterior, tokens in zip(highest, posteriors.cpu().numpy(), path.cpu().numpy()):
        begins = np.flatnonzero(tokens != BLANK_ID)
        row[begins] = np.maximum.reduceat(posterior, begins)
    return torch.from_numpy(highest)


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


class CtcPrefixState(NamedTuple):
    """State of the search of N utterances."""

    prefixes: Prefixes
    steps: tuple[Steps, ...]
    """The steps that led to them, chunk by chunk, with the log-probability of each prefix's last token."""


@dataclass(frozen=True)
class CtcPrefixBeamSearch:
    """Finds the likeliest token sequence, summed over alignments, among `beam_size` prefixes kept per utterance.

    With a beam that holds every prefix the sum is exact. A token's frame is the one at which the likeliest way
    into its prefix begins; the confidences are `peaks`.

    Source: Hannun et al. 2014, First-pass large vocabulary continuous speech recognition using bi-directional
    recurrent DNNs, algorithm 1 (arXiv 1408.2873), without its language model.
    """

    model: AsrModel
    beam_size: int = 4

    def start(self, num_utterances: int) -> CtcPrefixState:
        """One empty prefix per utterance, in a beam whose other places are empty."""
        impossible = torch.full((num_utterances, self.beam_size), -torch.inf, device=self.model.ctc_head.weight.device)
        blank = impossible.clone()
        blank[:, 0] = 0.0
        zeros = torch.zeros_like(blank, dtype=torch.int64)
        prefixes = _with_empty_places_marked(Prefixes(blank, impossible, zeros + BLANK_ID, zeros, zeros - 1))
        return CtcPrefixState(prefixes, (Steps.none(num_utterances, self.beam_size, zeros.device),))

    def advance(self, state: CtcPrefixState, encoder_out: Tensor, encoder_out_lens: Tensor) -> CtcPrefixState:
        """Extend the prefixes by more frames, (N, T, C)."""
        if not encoder_out.size(1):
            return state
        log_probs = self.model.ctc_log_probs(encoder_out).transpose(0, 1)
        valid = valid_frames(encoder_out, encoder_out_lens)
        prefixes, steps = state.prefixes, []
        for frame, active, is_padded in zip(log_probs, valid.unbind(1), has_padding(valid)):
            after, parents, tokens = _extended(prefixes, frame)
            prefixes = Prefixes(*where_active(active, after, prefixes)) if is_padded else after
            steps.append((parents, tokens, after.last_token))
        parents, tokens, last_tokens = map(torch.stack, zip(*steps))
        chunk = Steps.of_valid(parents, tokens, log_probs.gather(2, last_tokens), valid)
        return CtcPrefixState(prefixes, (*state.steps, chunk))

    def finish(self, state: CtcPrefixState) -> list[Hypothesis]:
        """The likeliest prefixes."""
        scores, best = state.prefixes.total.max(dim=1)
        found = path_of(state.steps, best)
        found = found._replace(confidences=peaks(found.confidences.masked_fill(~found.valid, 0.0), found.tokens))
        return hypotheses(found, scores.tolist())

    def next_segment(self, state: CtcPrefixState) -> CtcPrefixState:
        """One empty prefix per utterance; the likeliest one's last token may go on, and is no second token then."""
        total, best = state.prefixes.total.max(dim=1, keepdim=True)
        prefixes, steps = self.start(len(best))
        blank, token, last_token = (part.gather(1, best) for part in state.prefixes[:3])
        prefixes.ending_in_blank[:, :1], prefixes.ending_in_token[:, :1] = blank - total, token - total
        prefixes.last_token[:, :1] = last_token
        return CtcPrefixState(prefixes, steps)


def _extended(prefixes: Prefixes, log_probs: Tensor) -> tuple[Prefixes, Tensor, Tensor]:
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
    # Where its parent's extension is the likelier way to a prefix, the prefix's last token begins at this frame.
    is_renewed = (arriving > torch.logaddexp(blank, repeated)).gather(1, entry) & ~is_new
    parents = source.gather(1, entry).where(is_renewed, entry)
    return _with_empty_places_marked(after), parents, last_token.where(is_renewed, added)


def _extensions(prefixes: Prefixes, log_probs: Tensor) -> Tensor:
    """Log-probabilities (N, K, V) of each prefix with each token added; the values at blank mean nothing.

    A token like the prefix's last one needs a blank in between.
    """
    extended = prefixes.total.unsqueeze(2) + log_probs.unsqueeze(1)
    after_blank = prefixes.ending_in_blank + log_probs.gather(1, prefixes.last_token)
    return extended.scatter_(2, prefixes.last_token.unsqueeze(2), after_blank.unsqueeze(2))


def _move_to_existing(prefixes: Prefixes, extended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take out the extensions that are prefixes of the beam already.

    Returns:
      the log-probability that arrives at each prefix from its parent, (N, K); that parent's entry, (N, K);
      the extensions (N, K, V) with -inf for those, and for blank.
    """
    is_parent = prefixes.parent_hash.unsqueeze(1) == prefixes.prefix_hash.unsqueeze(2)  # (N, parent, child)
    last = prefixes.last_token.unsqueeze(1).expand_as(is_parent)
    nothing = extended.new_tensor(-torch.inf)
    arriving, source = extended.gather(2, last).where(is_parent, nothing).max(dim=1)
    moved = last.where(is_parent, torch.full_like(last, BLANK_ID))
    return arriving, source, extended.scatter(2, moved, -torch.inf)


def _with_empty_places_marked(prefixes: Prefixes) -> Prefixes:
    """Give empty places hashes of their own, so that none is mistaken for a prefix's parent or child."""
    empty = prefixes.total == -torch.inf
    place = torch.arange(empty.size(1), device=empty.device).expand_as(empty)
    return prefixes._replace(
        prefix_hash=(-3 - 2 * place).where(empty, prefixes.prefix_hash),
        parent_hash=(-2 - 2 * place).where(empty, prefixes.parent_hash),
    )
