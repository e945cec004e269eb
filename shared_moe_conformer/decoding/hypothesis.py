"""A search: a state machine over encoder frames, which returns a hypothesis for each utterance of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

BLANK_ID = 0
"""The unit that stands for no token."""
State = TypeVar("State")
Found = TypeVar("Found")


class Hypothesis(NamedTuple):
    """The best tokens of one utterance."""

    tokens: list[int]
    """Units, without blanks."""
    frames: list[int]
    """Encoder frame at which each token was found."""
    score: float
    """Log-probability under the search's own model of alignments; -inf if no path was found."""
    words: list[str] | None = None
    """The words, if a graph with a lexicon gave them; None: the text follows from the tokens."""
    confidences: list[float] | None = None
    """Confidence of the search in each token, 0 to 1; None if it gives none."""
    word_frames: list[int] | None = None
    """Encoder frame at which the graph gave each of `words`."""
    word_confidences: list[float] | None = None
    """Confidence in each of `words`; None: the lowest of its tokens."""


class Search(Protocol[State]):
    """A search owns its model and its options; everything about the utterances is in the state.

    Frames may come in chunks of any lengths, which may differ between the utterances of a batch; the hypotheses are the
    same as from one chunk with all frames. No call changes the state that it gets, so `finish` may give a partial
    result before the same state advances.
    """

    def start(self, num_utterances: int) -> State:
        """The state before the first frame."""

    def advance(self, state: State, encoder_out: Tensor, encoder_out_lens: Tensor) -> State:
        """The state after more frames.

        Args:
          encoder_out: the next encoder frames, (N, T, C).
          encoder_out_lens: the number of them that belong to each utterance, (N,), 0 to T.
        """

    def finish(self, state: State) -> list[Hypothesis]:
        """The best hypothesis of each utterance if it ends here."""

    def next_segment(self, state: State) -> State:
        """The state of a segment without tokens that goes on where these utterances are.

        What the model itself needs of the best hypotheses stays: the decoder's context, or whether a token goes on.
        """


def search_utterances(search: Search[State], encoder_out: Tensor, encoder_out_lens: Tensor) -> list[Hypothesis]:
    """The hypotheses of whole utterances.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
    """
    return search.finish(search.advance(search.start(len(encoder_out)), encoder_out, encoder_out_lens))


@dataclass(frozen=True)
class WholeUtteranceSearch(Generic[Found]):
    """A search of lattices. It needs whole utterances, so its state advances once.

    Searches that differ only in `choose` can finish the same state.
    """

    find: Callable[[Tensor, Tensor], Found]
    """Function from encoder frames (N, T, C) and valid frames of each utterance (N,) to all candidates."""
    choose: Callable[[Found], list[Hypothesis]]

    def start(self, num_utterances: int) -> Found | None:
        """Nothing."""
        return None

    def advance(self, state: Found | None, encoder_out: Tensor, encoder_out_lens: Tensor) -> Found:
        """The candidates of the utterances.

        Raises:
          ValueError: the state has advanced before.
        """
        if state is not None:
            raise ValueError("a lattice is searched in whole utterances: advance once, or take another search")
        return self.find(encoder_out, encoder_out_lens)

    def finish(self, state: Found | None) -> list[Hypothesis]:
        """The choice among the candidates.

        Raises:
          ValueError: the state has not advanced.
        """
        if state is None:
            raise ValueError("a lattice is searched in whole utterances: advance first")
        return self.choose(state)

    def next_segment(self, state: Found | None) -> Found | None:
        """Nothing: a graph begins again."""
        return None


class Chunk(NamedTuple):
    """The tokens that were found at each frame of a chunk."""

    tokens: Tensor
    """The token, or blank where there is none, (N, T), or (N, T, S) with up to S tokens a frame."""
    confidences: Tensor
    """Confidence in each token, in the same shape."""
    valid: Tensor
    """True where the frame belongs to the utterance, (N, T)."""


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """One or more chunks, one after the other, as one."""
    return Chunk(*(torch.cat(parts, dim=1) for parts in zip(*chunks)))


def hypotheses(found: Chunk, scores: Sequence[float]) -> list[Hypothesis]:
    """The hypotheses of tokens that were found frame by frame, each with the log-probability of its utterance."""
    tokens, confidences, valid = (part.cpu() for part in found)
    frame = valid.cumsum(dim=1) - 1  # counted in each utterance by itself
    if tokens.dim() == 3:
        frame = frame.unsqueeze(2).expand_as(tokens)
    rows = zip(tokens, frame, confidences, tokens != BLANK_ID, scores, strict=True)
    return [
        Hypothesis(token[there].tolist(), place[there].tolist(), score, confidences=sure[there].tolist())
        for token, place, sure, there, score in rows
    ]


def valid_frames(encoder_out: Tensor, encoder_out_lens: Tensor) -> Tensor:
    """True where a frame of (N, T, C) belongs to its utterance, (N, T)."""
    return torch.arange(encoder_out.size(1), device=encoder_out.device) < encoder_out_lens.unsqueeze(1)


def has_padding(valid: Tensor) -> list[bool]:
    """Whether each frame is padding in some utterance, given where frames are valid, (N, T)."""
    return (~valid.all(dim=0)).tolist()
