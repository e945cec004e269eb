"""Contextual biasing: phrases whose every occurrence in a hypothesis earns a bonus, found token by token.

The phrases form a trie whose nodes know where to go on when the next token does not fit, so that one table look-up
advances every hypothesis of a batch. A hypothesis gets the bonus of each token of a phrase at once, as long as the
phrase may still be completed, and gives it back where it is not.

Source: Aho and Corasick 1975, Efficient string matching; the early bonus is that of icefall's context graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from shared_moe_conformer.config import require
from shared_moe_conformer.decoding.prefix_scorer import MAX_TABLE, PrefixScorer


def read_hotwords(path: Path) -> list[str]:
    """The phrases of a file, one a line; empty lines and those that begin with # are left out.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is no text, or holds no phrase.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no hotwords in {path}: give a text file with one phrase a line")
    try:
        lines = [" ".join(line.split()) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}): give one phrase a line") from error
    phrases = [line for line in lines if line and not line.startswith("#")]
    require(bool(phrases), f"{path} holds no phrase: give one a line, or leave --hotwords-file out")
    return phrases


def hotwords_scorer(
    phrases: Sequence[str],
    *,
    vocab_size: int,
    encode: Callable[[list[str]], list[list[int]]],
    unknown_characters: Callable[[str], list[str]],
) -> PrefixScorer:
    """The automaton of phrases, whose tokens count 1 each.

    Args:
      phrases: in the form of the training texts.
      vocab_size: units, blank included.
      encode: texts to token ids.
      unknown_characters: those of a text that no unit holds.

    Raises:
      ValueError: a phrase without tokens, or one with a character that no unit holds.
    """
    spellings = encode(list(phrases))
    for phrase, spelling in zip(phrases, spellings):
        unknown = unknown_characters(phrase)
        require(
            not unknown,
            f"the hotword {phrase!r} has {' '.join(unknown)}, which no unit of the model holds: write it as the "
            "training texts are written (upper or lower case, no punctuation)",
        )
        require(bool(spelling), f"the hotword {phrase!r} has no tokens: take it out")
    return phrase_scorer(spellings, vocab_size=vocab_size)


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

    A node's early bonus is that of the tokens since the last phrase that ends on the way to it; what it earns for good
    is the length of every phrase that ends with it.
    """
    require(
        len(tries) * vocab_size <= MAX_TABLE,
        f"hotwords of {len(tries)} tokens have too large tables with {vocab_size} units: give fewer",
    )
    next_state = torch.zeros(len(tries), vocab_size, dtype=torch.int64)
    early, earned = [0] * len(tries), list(complete)
    waiting = deque([(0, 0)])  # nodes, shorter beginnings first, and where each goes on when no child fits
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
    next_state[:, 0], score[:, 0] = torch.arange(len(tries)), 0.0
    return PrefixScorer(next_state, score, -held)
