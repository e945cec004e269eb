"""Resources of searches, read from a recipe's lang folder as far as the searches that are run need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from shared_moe_conformer.decoding.hotwords import hotwords_scorer, read_hotwords
from shared_moe_conformer.decoding.methods import used
from shared_moe_conformer.decoding.ngram_scorer import ngram_scorer
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.prefix_scorer import PrefixScorer
from shared_moe_conformer.decoding.resources import Resources
from shared_moe_conformer.decoding.searches import label
from shared_moe_conformer.lattice.decoding_graph import load_token_word_graph, load_word_graph
from shared_moe_conformer.lattice.graphs import WordGraph
from shared_moe_conformer.lattice.lexicon import Lexicon
from shared_moe_conformer.lattice.ngram import NgramAutomaton, NgramModel

LOW_ORDER = 2
"""Order of the n-gram that LODR subtracts. Source: Zheng et al. 2022, section 3.4."""


class Units(Protocol):
    """What is needed of a tokenizer."""

    pieces: list[str]
    vocab_size: int

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text."""

    def decode(self, ids: list[int]) -> str:
        """The text of token ids."""

    def unknown_characters(self, text: str) -> list[str]:
        """The characters of a text that no unit holds."""


class Loaded(NamedTuple):
    """Searches and what they need."""

    configs: list[DecodingConfig]
    resources: Resources
    left_out: dict[str, str]
    """Searches whose resources are missing, and why."""


def load_resources(configs: Sequence[DecodingConfig], lang_dir: Path, units: Units) -> Loaded:
    """What the searches need, each part loaded once; of several searches, those that lack a part are left out.

    Args:
      configs: as `resolved` gives them.
      lang_dir: the recipe's lang folder.
      units: the tokenizer.

    Raises:
      FileNotFoundError: the only method needs a file that is not there.
      ValueError: it needs one that is damaged or stale.
    """
    parts: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, config in {name: c for c in configs for name in used(c) if name in _LOADERS}.items():
        try:
            parts[name] = _LOADERS[name](config, lang_dir, units)
        except (FileNotFoundError, ValueError, ImportError) as error:
            if len({c.decoding_method for c in configs}) == 1:
                raise
            problems[name] = " ".join(str(error).split())
    left_out = {label(c): problems[n] for c in configs for n in used(c) if n in problems}
    kept = [config for config in configs if label(config) not in left_out]
    return Loaded(kept, Resources(**parts, to_text=units.decode), left_out)


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


_LOADERS: dict[str, Callable[[DecodingConfig, Path, Units], Any]] = {
    "word_graph": _word_graph,
    "token_word_graph": _token_word_graph,
    "rescoring_lm": _rescoring_lm,
    "token_lm": _token_lm,
    "low_order_lm": _low_order_lm,
    "hotwords": _hotwords,
}
