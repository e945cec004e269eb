"""Words, their spellings in tokens, and L, the transducer from tokens to words.

Files in a lang folder, as in icefall: words.txt ("word id" per line) and lexicon.txt ("word token token .." per line).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.lattice.graphs import Graph, graph_of_arcs
from shared_moe_conformer.lattice.ngram import BACKOFF, BOS, EOS, EPSILON, RESERVED

WORDS_FILE, LEXICON_FILE, TOKENS_FILE = "words.txt", "lexicon.txt", "tokens.txt"


@dataclass(frozen=True)
class Lexicon:
    """The words of a graph, each with one spelling."""

    tokens: list[str]
    """All units of the CTC head, blank first."""
    spellings: dict[str, list[int]]
    """The tokens of each word; words in alphabetical order."""

    def __post_init__(self) -> None:
        for word, spelling in self.spellings.items():
            if word in RESERVED or len(word.split()) != 1:
                raise ValueError(f"{word!r} cannot be a word: remove it from the texts")
            if not spelling or not all(0 < token < len(self.tokens) for token in spelling):
                raise ValueError(f"the word {word!r} is spelled {spelling}: train the tokenizer on these texts")
        if not self.spellings:
            raise ValueError("a lexicon without words: are the transcripts empty?")

    @property
    def words(self) -> list[str]:
        """The word of each output label: epsilon, the words, the back-off symbol, start and end of a sentence."""
        return [EPSILON, *self.spellings, BACKOFF, BOS, EOS]

    @property
    def backoff_token(self) -> int:
        """Input label of the back-off symbol in L; the labels after it disambiguate spellings."""
        return len(self.tokens)

    def transducer(self) -> Graph:
        """L: from the tokens of any sequence of words to the words; a word's first arc gives the word.

        A spelling that equals another, or begins it, ends with a disambiguation symbol, and the back-off symbol passes
        through, so LG can be determinised. Source: Kaldi's L_disambig.
        """
        arcs: list[tuple[int, int, int, int]] = []
        state = 1
        for word, spelling in enumerate(_disambiguated(list(self.spellings.values()), self.backoff_token), start=1):
            states = [0, *range(state, state + len(spelling) - 1), 0]
            given = [word, *[0] * (len(spelling) - 1)]
            arcs += zip(states, states[1:], spelling, given)
            state += len(spelling) - 1
        arcs.append((0, 0, self.backoff_token, 1 + len(self.spellings)))
        return graph_of_arcs(np.array(arcs), np.zeros(len(arcs)), final_state=[0], final_weight=[0.0])

    def save(self, lang_dir: Path) -> None:
        """Write words.txt and lexicon.txt."""
        lines = [
            " ".join([word, *(self.tokens[token] for token in spelling)]) for word, spelling in self.spellings.items()
        ]
        write_whole(lang_dir / LEXICON_FILE, "".join(f"{line}\n" for line in lines))
        write_whole(lang_dir / WORDS_FILE, "".join(f"{word} {index}\n" for index, word in enumerate(self.words)))

    @classmethod
    def load(cls, lang_dir: Path) -> Lexicon:
        """The lexicon of a lang folder.

        Raises:
          FileNotFoundError: it has none.
          ValueError: lexicon.txt has a token that is no unit, or words.txt lists other words.
        """
        paths = [lang_dir / name for name in (TOKENS_FILE, LEXICON_FILE, WORDS_FILE)]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"no lexicon in {path}: run ./prepare.sh first")
        units, spelled, words = [path.read_text(encoding="utf-8").splitlines() for path in paths]
        tokens = [line.rsplit(" ", 1)[0] for line in units]
        numbers = {token: index for index, token in enumerate(tokens)}
        try:
            lexicon = cls(tokens, {w: [numbers[t] for t in spelling] for w, *spelling in map(str.split, spelled)})
        except KeyError as error:
            raise ValueError(
                f"{paths[1]} spells words with {error}, no unit of {paths[0]}: run ./prepare.sh"
            ) from error
        if words != [f"{word} {index}" for index, word in enumerate(lexicon.words)]:
            raise ValueError(f"{paths[2]} does not list the words of {paths[1]}: run ./prepare.sh again")
        return lexicon


def _disambiguated(spellings: Sequence[Sequence[int]], backoff_token: int) -> list[list[int]]:
    """Spellings with disambiguation symbols: none equals another or begins it. Source: Kaldi's add_lex_disambig.pl."""
    times = Counter(map(tuple, spellings))
    beginnings = {tuple(spelling[:length]) for spelling in spellings for length in range(1, len(spelling))}
    used: Counter[tuple[int, ...]] = Counter()
    result = []
    for spelling in map(tuple, spellings):
        ambiguous = times[spelling] > 1 or spelling in beginnings
        used[spelling] += ambiguous
        result.append([*spelling, backoff_token + used[spelling]] if ambiguous else [*spelling])
    return result
