"""Scores that a beam adds to those of its model: n-grams over tokens, and hotwords.

Both are tables, one look-up in which advances every hypothesis of a batch; `neural_lm` has networks. The score of a
hypothesis depends only on its tokens, so hypotheses whose tokens have become equal have equal ones.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from shared_moe_conformer.config import require
from shared_moe_conformer.decoding.hypothesis import BLANK_ID
from shared_moe_conformer.lattice.ngram import BOS, EOS, Ngram, NgramModel
from shared_moe_conformer.text import counted, shown

if TYPE_CHECKING:
    from shared_moe_conformer.data.tokenizer import Tokenizer

MAX_TABLE = 1 << 26
"""Entries of an automaton's tables at most, 12 bytes each: 0.8 GB."""


class PrefixScorer(NamedTuple):
    """A deterministic automaton over tokens, complete: every state has a score and a successor for every token.

    State 0 is the start. A blank changes neither state nor score.
    """

    next_state: Tensor
    """State after each token, (S, V), int64."""
    score: Tensor
    """Nats that each token adds to the hypothesis's log-probability, (S, V)."""
    final: Tensor
    """Nats that the end of the utterance adds in each state, (S,)."""
    end: Tensor
    """Nats that the end of a sentence adds in each state where sentences are scored, (S,)."""

    def scaled(self, scale: float) -> PrefixScorer:
        """The automaton whose scores count this many times."""
        return PrefixScorer(self.next_state, scale * self.score, scale * self.final, scale * self.end)

    def to(self, device: torch.device) -> PrefixScorer:
        """The automaton on a device."""
        return PrefixScorer(*(table.to(device) for table in self))

    def start(self, num_utterances: int, beam_size: int) -> tuple[Tensor, ...]:
        """The first state, (N, K)."""
        return (torch.zeros(num_utterances, beam_size, dtype=torch.int64, device=self.score.device),)

    def token_scores(self, state: Sequence[Tensor]) -> Tensor:
        """See `Scorer`."""
        return self.score[state[0]]

    def advanced(self, state: Sequence[Tensor], parents: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        """See `Scorer`."""
        return (self.next_state[of_parents(state[0], parents), tokens],)

    def final_scores(self, state: Sequence[Tensor]) -> Tensor:
        """See `Scorer`."""
        return self.final[state[0]]

    def sentence_scores(self, sentences: Sequence[Sequence[int]]) -> list[float]:
        """See `Scorer`."""
        scores = []
        for tokens in sentences:
            state, score = 0, 0.0
            for token in tokens:
                score += float(self.score[state, token])
                state = int(self.next_state[state, token])
            scores.append(score + float(self.end[state]))
        return scores


def of_parents(values: Tensor, parents: Tensor) -> Tensor:
    """The values (N, K, ..) of the entries (N, K) that are continued."""
    return values[torch.arange(len(values), device=values.device).unsqueeze(1), parents]


class Scorer(Protocol):
    """Adds to the log-probability of a hypothesis what depends only on its tokens.

    Its state of the hypotheses of N utterances, K each, is a tuple of tensors (N, K, ..). A blank changes neither state
    nor score.
    """

    def scaled(self, scale: float) -> Scorer:
        """The scorer whose scores count this many times."""

    def to(self, device: torch.device) -> Scorer:
        """The scorer on a device."""

    def start(self, num_utterances: int, beam_size: int) -> tuple[Tensor, ...]:
        """The state of empty hypotheses."""

    def token_scores(self, state: Sequence[Tensor]) -> Tensor:
        """Nats that each token adds, (N, K, V)."""

    def advanced(self, state: Sequence[Tensor], parents: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        """The state of hypotheses that each continue one of these, (N, K), by one token, or blank, (N, K)."""

    def final_scores(self, state: Sequence[Tensor]) -> Tensor:
        """Nats that the end of the utterance adds, (N, K)."""

    def sentence_scores(self, sentences: Sequence[Sequence[int]]) -> list[float]:
        """Nats of each whole sentence, with its end where the scorer is a language model."""


def ngram_scorer(model: NgramModel, tokens: Sequence[str]) -> PrefixScorer:
    """The n-gram as an automaton whose states are histories, the first one being the start of a sentence.

    A history's row is its back-off weight plus the row of the longest shorter history, except where the n-gram has the
    history with the token itself. That is the definition of back-off, so scores are exact.

    Args:
      tokens: the string of each token id, blank first.

    Raises:
      ValueError: the n-gram lacks a token, or its tables would be too large.
    """
    unknown = [token for token in tokens[1:] if (token,) not in model.log_probs]
    lacking = counted(len(unknown), "token")
    require(not unknown, f"the n-gram over tokens lacks {lacking}, {unknown[:1]} first: train it again")
    histories = _histories(model)
    require(
        len(histories) * len(tokens) <= MAX_TABLE,
        f"an n-gram of {len(histories)} histories of {len(tokens)} tokens is too large for tables: train a lower order",
    )
    number = {history: index for index, history in enumerate(histories)}
    score = np.zeros((len(histories), len(tokens)))
    next_state = np.zeros(score.shape, dtype=np.int64)
    ids = {token: index for index, token in enumerate(tokens) if index > 0}
    end = np.zeros(len(histories))
    followers = _followers(model, {*ids, EOS})
    for history in sorted(histories, key=len):
        row = number[history]
        if history:
            shorter = number[_longest_known(history[1:], number)]
            score[row] = score[shorter] + model.backoffs.get(history, 0.0)
            end[row] = end[shorter] + model.backoffs.get(history, 0.0)
            next_state[row] = next_state[shorter]
        for token, log_prob in followers.get(history, ()):
            if token == EOS:
                end[row] = log_prob
                continue
            score[row, ids[token]] = log_prob
            next_state[row, ids[token]] = number[_longest_known((*history, token), number)]
    score[:, BLANK_ID], next_state[:, BLANK_ID] = 0.0, np.arange(len(histories))
    tables = (torch.from_numpy(table).float() for table in (score, np.zeros(len(histories)), end))
    return PrefixScorer(torch.from_numpy(next_state), *tables)


def _histories(model: NgramModel) -> list[Ngram]:
    """The histories on which the next token's probability can depend."""
    found = {ngram[:-1] for ngram in model.log_probs} | {h for h, weight in model.backoffs.items() if weight}
    return [(BOS,), *sorted((found | {()}) - {(BOS,)})]


def _followers(model: NgramModel, ids: Collection[str]) -> dict[Ngram, list[tuple[str, float]]]:
    """The tokens that the n-gram knows after each history, and their log-probabilities."""
    result: dict[Ngram, list[tuple[str, float]]] = {}
    for ngram, log_prob in model.log_probs.items():
        if ngram[-1] in ids:
            result.setdefault(ngram[:-1], []).append((ngram[-1], log_prob))
    return result


def _longest_known(history: Ngram, known: Collection[Ngram]) -> Ngram:
    """The longest end of a history that is known."""
    while history not in known:
        history = history[1:]
    return history


def read_hotwords(path: Path) -> list[str]:
    """The phrases of a file, one a line; empty lines and those that begin with # are left out.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is not text, or holds no phrase.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no hotwords in {path}: give a text file with one phrase a line")
    content = path.read_bytes()
    try:
        lines = [" ".join(line.split()) for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path} line {number} is not UTF-8 text: save the file in that encoding") from error
    phrases = [line for line in lines if line and not line.startswith("#")]
    require(bool(phrases), f"{path} holds no phrase: give one a line, or leave --hotwords-file out")
    return phrases


def hotwords_scorer(phrases: Sequence[str], tokenizer: Tokenizer) -> PrefixScorer:
    """The automaton of phrases, whose tokens count 1 each.

    Args:
      phrases: in the case of the training texts; they are read in Unicode's form NFC.
      tokenizer: spells them in the model's units.

    Raises:
      ValueError: a phrase without tokens, or one with a character that no unit holds.
    """
    phrases = [unicodedata.normalize("NFC", phrase) for phrase in phrases]
    spellings = tokenizer.encode(phrases)
    for phrase, spelling in zip(phrases, spellings):
        unknown = tokenizer.unknown_characters(phrase)
        require(
            not unknown,
            f"the hotword {phrase!r} has {', '.join(map(shown, unknown))}, which no unit of the model holds: write it "
            "as the training texts are written (upper or lower case, no punctuation)",
        )
        require(bool(spelling), f"the hotword {phrase!r} has no tokens: take it out")
    return phrase_scorer(spellings, vocab_size=tokenizer.vocab_size)


def phrase_scorer(phrases: Iterable[Sequence[int]], *, vocab_size: int) -> PrefixScorer:
    """The automaton that adds to a token sequence the length of each occurrence of each phrase, overlapping ones too.

    Until its end is known the sum is larger: see the module. Its states are the phrases' beginnings.
    """
    tries: list[dict[int, int]] = [{}]
    complete = [0]  # tokens of the phrase that ends at each node
    for phrase in {tuple(phrase): None for phrase in phrases}:
        node = 0
        for token in phrase:
            if token not in tries[node]:
                tries[node][token] = len(tries)
                tries.append({})
                complete.append(0)
            node = tries[node][token]
        complete[node] = len(phrase)
    return _tables(tries, complete, vocab_size=vocab_size)


def _tables(tries: list[dict[int, int]], complete: list[int], *, vocab_size: int) -> PrefixScorer:
    """The automaton of a trie. Source: Aho and Corasick 1975, algorithms 3 and 4.

    A node's early bonus is that of the tokens since the last phrase that ends on the way to it; the length
    of every phrase that ends with it is its own for good.
    """
    require(
        len(tries) * vocab_size <= MAX_TABLE,
        f"the tables of hotwords with {len(tries)} tokens of {vocab_size} units are too large: give fewer",
    )
    next_state = torch.zeros(len(tries), vocab_size, dtype=torch.int64)
    early, earned = [0] * len(tries), list(complete)
    waiting = deque([(0, 0)])  # nodes, shorter beginnings first, and where each continues when no child fits
    while waiting:
        node, shorter = waiting.popleft()
        next_state[node] = next_state[shorter]
        for token, child in tries[node].items():
            fallback = int(next_state[shorter, token]) if node else 0
            earned[child] += earned[fallback]
            early[child] = 0 if complete[child] else early[node] + 1
            waiting.append((child, fallback))
        for token, child in tries[node].items():
            next_state[node, token] = child
    held = torch.tensor(early, dtype=torch.float32)
    score = held[next_state] - held.unsqueeze(1) + torch.tensor(earned, dtype=torch.float32)[next_state]
    next_state[:, BLANK_ID], score[:, BLANK_ID] = torch.arange(len(tries)), 0.0
    return PrefixScorer(next_state, score, -held, end=-held)
