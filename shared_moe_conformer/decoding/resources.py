"""Graphs, language models and hotwords: everything that searches need besides a model and options.

They are read from a recipe's lang folder, or from a bundle, as far as the searches that are run need them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.scorers import PrefixScorer, hotwords_scorer, ngram_scorer, read_hotwords
from shared_moe_conformer.lattice.decoding_graph import load_token_word_graph, load_word_graph
from shared_moe_conformer.lattice.graphs import WordGraph
from shared_moe_conformer.lattice.lexicon import Lexicon
from shared_moe_conformer.lattice.ngram import NgramAutomaton, NgramModel

LOW_ORDER = 2
"""Order of the n-gram that LODR subtracts. Source: Zheng et al. 2022, section 3.4."""

Part = Literal[
    "word_graph", "token_word_graph", "token_lm", "low_order_lm", "rescoring_lm", "hotwords", "to_text", "transcripts"
]
Given = TypeVar("Given")


@dataclass(frozen=True, eq=False)
class Resources:
    """Everything that some method uses; None: not loaded, since no method that is run needs it."""

    word_graph: WordGraph | None = None
    """HLG: from frame labels to words."""
    token_word_graph: WordGraph | None = None
    """LG: from tokens to words."""
    token_lm: PrefixScorer | None = None
    """Language model over tokens."""
    low_order_lm: PrefixScorer | None = None
    """A low-order language model of the training texts over tokens, which LODR subtracts."""
    rescoring_lm: NgramAutomaton | None = None
    """A stronger n-gram over the words of HLG than HLG's own."""
    hotwords: PrefixScorer | None = None
    """Phrases that are more likely than the model believes, each token counting 1."""
    to_text: Callable[[list[int]], str] | None = None
    """Token ids to text."""
    transcripts: Sequence[str] | None = None
    """The transcript of each utterance of the batch, for oracle methods alone."""


NOTHING = Resources()

MISSING: dict[Part, str] = {
    "token_lm": "no language model over tokens: run ./prepare.sh, which trains it (local/train_ngram.py)",
    "low_order_lm": "no 2-gram over tokens: run ./prepare.sh, which trains it (local/train_ngram.py)",
    "word_graph": "no HLG to search: run ./prepare.sh, which builds it, or decode with --graph H",
    "token_word_graph": "no LG to search: run ./prepare.sh, which builds it (local/build_graph.py)",
    "rescoring_lm": "no n-gram to rescore with: run ./prepare.sh, which trains it (local/train_ngram.py)",
    "transcripts": "no transcripts to choose by: an oracle can decode test sets only (./decode.py)",
    "to_text": "no texts of tokens to compare with transcripts: give to_text",
}
"""The message where a method needs a part that is not given. Hotwords are never needed."""


def given(part: Given | None, name: Part) -> Given:
    """The part of some resources, which must be there.

    Raises:
      ValueError: it is not.
    """
    if part is None:
        raise ValueError(MISSING[name])
    return part


class Units(Protocol):
    """The methods of a tokenizer that are used here."""

    pieces: list[str]
    vocab_size: int

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text."""

    def decode(self, ids: list[int]) -> str:
        """The text of token ids."""

    def unknown_characters(self, text: str) -> list[str]:
        """The characters of a text that no unit holds."""


def token_ngram_path(lang_dir: Path, order: int) -> Path:
    """The n-gram over tokens of a lang folder."""
    return lang_dir / f"token_{order}gram.arpa"


def _word_graph(config: DecodingConfig, lang_dir: Path, units: Units) -> WordGraph:
    return load_word_graph(lang_dir, config.ctc_topology)


def _token_word_graph(config: DecodingConfig, lang_dir: Path, units: Units) -> WordGraph:
    return load_token_word_graph(lang_dir)


def _rescoring_lm(config: DecodingConfig, lang_dir: Path, units: Units) -> NgramAutomaton:
    path = lang_dir / config.rescoring_ngram
    if not path.is_file():
        raise FileNotFoundError(
            f"no n-gram to rescore with in {path}: run local/train_ngram.py --order 4 --name {path.name} "
            f"--lang-dir {lang_dir}, after ./prepare.sh"
        )
    return NgramAutomaton(NgramModel.load(path), Lexicon.load(lang_dir).words, backoff=config.backoff)


def _token_lm(config: DecodingConfig, lang_dir: Path, units: Units) -> PrefixScorer:
    return _ngram(lang_dir, config.lm_order, units)


def _low_order_lm(config: DecodingConfig, lang_dir: Path, units: Units) -> PrefixScorer:
    return _ngram(lang_dir, LOW_ORDER, units)


def _ngram(lang_dir: Path, order: int, units: Units) -> PrefixScorer:
    path = token_ngram_path(lang_dir, order)
    if not path.is_file():
        raise FileNotFoundError(
            f"no n-gram over tokens in {path}: run local/train_ngram.py --unit token --order {order} "
            f"--lang-dir {lang_dir}, after ./prepare.sh"
        )
    return ngram_scorer(NgramModel.load(path), units.pieces)


def _hotwords(config: DecodingConfig, lang_dir: Path, units: Units) -> PrefixScorer | None:
    phrases = with_phrases(config).hotwords
    return spelled_hotwords(phrases, units) if phrases else None


def with_phrases(config: DecodingConfig) -> DecodingConfig:
    """The search with the phrases of its file of hotwords, as that is now, among its own.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it holds no phrase.
    """
    if not config.hotwords_file:
        return config
    phrases = read_hotwords(Path(config.hotwords_file))
    return replace(config, hotwords=(*config.hotwords, *phrases), hotwords_file="")


def spelled_hotwords(phrases: Sequence[str], units: Units) -> PrefixScorer:
    """The automaton of phrases in a tokenizer's units.

    Raises:
      ValueError: a phrase that the units cannot spell.
    """
    return hotwords_scorer(
        phrases, vocab_size=units.vocab_size, encode=units.encode, unknown_characters=units.unknown_characters
    )


LOADERS: dict[Part, Callable[[DecodingConfig, Path, Units], Any]] = {
    "word_graph": _word_graph,
    "token_word_graph": _token_word_graph,
    "rescoring_lm": _rescoring_lm,
    "token_lm": _token_lm,
    "low_order_lm": _low_order_lm,
    "hotwords": _hotwords,
}
"""How each part that is read from a folder is loaded."""
