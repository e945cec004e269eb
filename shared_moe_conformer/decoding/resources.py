"""Graphs, language models and hotwords: everything that searches need besides a model and options.

They are read from a recipe's lang folder, or from a bundle, as far as the searches that are run need them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.scorers import PrefixScorer, hotwords_scorer, ngram_scorer, read_hotwords
from shared_moe_conformer.lattice.composition import NgramAutomaton
from shared_moe_conformer.lattice.decoding_graph import load_word_graph
from shared_moe_conformer.lattice.graphs import WordGraph
from shared_moe_conformer.lattice.lexicon import Lexicon
from shared_moe_conformer.lattice.ngram import NgramModel

if TYPE_CHECKING:
    from shared_moe_conformer.data.tokenizer import Tokenizer

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


def token_ngram_path(lang_dir: Path, order: int) -> Path:
    """The n-gram over tokens of a lang folder."""
    return lang_dir / f"token_{order}gram.arpa"


def _rescoring_lm(config: DecodingConfig, lang_dir: Path) -> NgramAutomaton:
    path = lang_dir / config.rescoring_ngram
    if not path.is_file():
        raise FileNotFoundError(
            f"no n-gram to rescore with in {path}: run local/train_ngram.py --order 4 --name {path.name} "
            f"--lang-dir {lang_dir}, after ./prepare.sh"
        )
    return NgramAutomaton(NgramModel.load(path), Lexicon.load(lang_dir).words, backoff=config.backoff)


def _token_ngram(order: int, lang_dir: Path, tokenizer: Tokenizer) -> PrefixScorer:
    path = token_ngram_path(lang_dir, order)
    if not path.is_file():
        raise FileNotFoundError(
            f"no n-gram over tokens in {path}: run local/train_ngram.py --unit token --order {order} "
            f"--lang-dir {lang_dir}, after ./prepare.sh"
        )
    return ngram_scorer(NgramModel.load(path), tokenizer.pieces)


def _hotwords(config: DecodingConfig, tokenizer: Tokenizer) -> PrefixScorer | None:
    phrases = with_phrases(config).hotwords
    return hotwords_scorer(phrases, tokenizer) if phrases else None


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


LOADERS: dict[Part, Callable[[DecodingConfig, Path, Tokenizer], Any]] = {
    "word_graph": lambda config, lang_dir, tokenizer: load_word_graph(lang_dir, config.ctc_topology),
    "token_word_graph": lambda config, lang_dir, tokenizer: load_word_graph(lang_dir, "LG"),
    "rescoring_lm": lambda config, lang_dir, tokenizer: _rescoring_lm(config, lang_dir),
    "token_lm": lambda config, lang_dir, tokenizer: _token_ngram(config.lm_order, lang_dir, tokenizer),
    "low_order_lm": lambda config, lang_dir, tokenizer: _token_ngram(LOW_ORDER, lang_dir, tokenizer),
    "hotwords": lambda config, lang_dir, tokenizer: _hotwords(config, tokenizer),
}
"""The function that loads each part that is read from a folder."""
