"""An n-gram over tokens as tables, back-off resolved: one look-up scores every next token of every hypothesis."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from shared_moe_conformer.config import require
from shared_moe_conformer.decoding.prefix_scorer import MAX_TABLE, PrefixScorer
from shared_moe_conformer.lattice.ngram import BOS, Ngram, NgramModel
from shared_moe_conformer.text import counted


def ngram_scorer(model: NgramModel, tokens: Sequence[str]) -> PrefixScorer:
    """The n-gram as an automaton whose states are histories, the first one being the start of a sentence.

    A history's row is its back-off weight plus the row of the longest shorter history, except where the n-gram has the
    history with the token itself. That is the definition of back-off, so scores are exact.

    Args:
      model: an n-gram of token strings.
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
        f"an n-gram of {len(histories)} histories of {len(tokens)} tokens has too large tables: train a lower order",
    )
    number = {history: index for index, history in enumerate(histories)}
    score = np.zeros((len(histories), len(tokens)))
    next_state = np.zeros(score.shape, dtype=np.int64)
    ids = {token: index for index, token in enumerate(tokens) if index > 0}
    followers = _followers(model, ids)
    for history in sorted(histories, key=len):
        row = number[history]
        if history:
            shorter = number[_longest_known(history[1:], number)]
            score[row] = score[shorter] + model.backoffs.get(history, 0.0)
            next_state[row] = next_state[shorter]
        for token, log_prob in followers.get(history, ()):
            score[row, ids[token]] = log_prob
            next_state[row, ids[token]] = number[_longest_known((*history, token), number)]
    score[:, 0], next_state[:, 0] = 0.0, np.arange(len(histories))
    return PrefixScorer(torch.from_numpy(next_state), torch.from_numpy(score).float(), torch.zeros(len(histories)))


def _histories(model: NgramModel) -> list[Ngram]:
    """Everything that the next token's probability can depend on."""
    found = {ngram[:-1] for ngram in model.log_probs} | {(), (BOS,)}
    return [(BOS,), *sorted(found - {(BOS,)})]


def _followers(model: NgramModel, ids: Collection[str]) -> dict[Ngram, list[tuple[str, float]]]:
    """The tokens that the n-gram knows after each history, and their log-probabilities."""
    result: dict[Ngram, list[tuple[str, float]]] = {}
    for ngram, log_prob in model.log_probs.items():
        if ngram[-1] in ids:
            result.setdefault(ngram[:-1], []).append((ngram[-1], log_prob))
    return result


def _longest_known(history: Ngram, known: Collection[Ngram]) -> Ngram:
    """The history, without as many of its first tokens as it takes."""
    while history not in known:
        history = history[1:]
    return history
