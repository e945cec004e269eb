"""Everything that a search gets besides a model: its options, and graphs, language models and hotwords.

Graphs, language models and hotwords are read from a recipe's lang folder or a bundle, if a search needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from shared_moe_conformer.config import Chunking, require, require_choices, require_least, require_positive
from shared_moe_conformer.decoding.neural_lm import NeuralScorer, load_neural_lm, neural_lm_path
from shared_moe_conformer.decoding.scorers import PrefixScorer, Scorer, hotwords_scorer, ngram_scorer, read_hotwords
from shared_moe_conformer.lattice.decoding_graph import CtcTopology, Lexicon, load_word_graph
from shared_moe_conformer.lattice.graphs import WordGraph
from shared_moe_conformer.lattice.ngram import Backoff, NgramAutomaton, NgramModel

if TYPE_CHECKING:
    from shared_moe_conformer.data.tokenizer import Tokenizer

GraphName = Literal["H", "HLG"]
LmType = Literal["ngram", "rnn", "transformer"]
EngineChoice = Literal["auto", "k2", "embedded", "all"]
DecodingMethod = Literal[
    "greedy_search",
    "modified_beam_search",
    "modified_beam_search_lm_shallow_fusion",
    "modified_beam_search_LODR",
    "modified_beam_search_lm_rescore",
    "modified_beam_search_lm_rescore_LODR",
    "fast_beam_search",
    "fast_beam_search_nbest",
    "fast_beam_search_nbest_LG",
    "fast_beam_search_nbest_oracle",
    "ctc_greedy_search",
    "ctc_prefix_beam_search",
    "1best",
    "nbest",
    "nbest_rescoring",
    "nbest_lm_rescore",
    "nbest_transducer_rescoring",
    "whole_lattice_rescoring",
    "nbest_oracle",
    "all",
]


# k2 counts arcs in 32 bits (max_active x batch x 4 must stay below 2**31), and flat posteriors of an untrained model
# activate every state.
MAX_ACTIVE_LIMIT = 10_000


@dataclass(frozen=True)
class DecodingConfig:
    """The search for tokens in encoder frames."""

    decoding_method: DecodingMethod = "greedy_search"
    """The search; all: every search that can run here, and a table that compares them."""
    chunk_size: int = 0
    """All methods: decode as if streaming, in chunks of this many encoder frames of 40 ms (16: 640 ms); 0: offline."""
    left_context_frames: int = 64
    """With chunk_size: encoder frames before its chunk that a frame attends to; 0: all."""
    max_sym_per_frame: int = 1
    """greedy_search: most tokens in one frame."""
    blank_penalty: float = 0.0
    """greedy_search, modified and fast beam searches: nats subtracted from blank's logit; above 0: fewer deletions."""
    beam_size: int = 4
    """modified_beam_search.., ctc_prefix_beam_search: hypotheses kept per utterance."""
    lm_type: LmType = "ngram"
    """.._lm_shallow_fusion, .._LODR, .._lm_rescore..: the LM over tokens in the lang folder: an n-gram, or a neural one
    by ./train_lm.py."""
    lm_order: int = 3
    """With --lm-type ngram: length of its longest n-grams, in tokens."""
    lm_scale: float = 0.3
    """modified_beam_search_lm_shallow_fusion, modified_beam_search_LODR: factor of the LM's log-probabilities."""
    lm_scales: tuple[float, ...] = (0.5, 1.0, 1.5)
    """Rescoring methods: scales of the LM's, or the transducer's, log-probabilities, each with its own results."""
    rescoring_ngram: str = "G_4_gram.arpa"
    """nbest_rescoring, whole_lattice_rescoring: the n-gram over words, a file of the lang folder."""
    backoff: Backoff = "exact"
    """Rescoring: exact: the scores of the ARPA file; epsilon: backing off is always allowed, as in icefall's G."""
    lodr_scale: float = 0.1
    """.._LODR: factor of the 2-gram's log-probabilities, which are subtracted; icefall's --ngram-lm-scale, negated."""
    hotwords: tuple[str, ...] = ()
    """modified_beam_search..: phrases that get a bonus, written like the training texts; empty: none."""
    hotwords_file: str = ""
    """File with more hotwords, one per line; icefall's --context-file; empty: none."""
    hotwords_score: float = 1.5
    """Bonus (nats) for each token of a hotword; icefall's --context-score."""
    graph: GraphName = "HLG"
    """1best, nbest, nbest_lm_rescore, nbest_transducer_rescoring, nbest_oracle: HLG: the lang folder's lexicon and
    n-gram; H: the CTC topology."""
    hlg_scale: float = 1.0
    """Lattices over HLG: factor of the graph's log-probabilities."""
    lattice_engine: EngineChoice = "auto"
    """Lattices: the engine that searches; auto: k2 if installed, otherwise embedded, this package's own; all: both."""
    ctc_topology: CtcTopology = "auto"
    """Lattices: standard has vocab_size squared arcs, modified 4 per unit; auto: modified from 500 units on."""
    search_beam: float = 20.0
    """Lattices: partial paths this much (nats) worse than a frame's best are dropped."""
    output_beam: float = 8.0
    """Lattices: paths this much (nats) worse than the utterance's best are dropped."""
    max_active: int = 7000
    """Lattices: most states kept in a frame; icefall's max_active_states."""
    beam: float = 20.0
    """fast_beam_search..: states this much (nats) worse than a frame's best are dropped."""
    max_contexts: int = 8
    """fast_beam_search..: most contexts of an utterance in a frame; the joiner is computed for each."""
    max_states: int = 64
    """fast_beam_search..: most pairs of a state and a context kept for an utterance in a frame."""
    num_paths: int = 200
    """n-best methods: most sequences in the list; fast_beam_search_nbest..: paths that are drawn."""
    nbest_scale: float = 0.5
    """fast_beam_search_nbest..: factor of log-probabilities when paths are drawn; a smaller one varies them more."""
    ngram_lm_scale: float = 0.01
    """fast_beam_search_nbest_LG: factor of the log-probabilities of LG."""

    @property
    def chunking(self) -> Chunking | None:
        """The frames that each encoder frame may see; None: all."""
        return Chunking(self.chunk_size, self.left_context_frames or None) if self.chunk_size else None

    def __post_init__(self) -> None:
        require_choices(self)
        require_least(self, 1, "max_sym_per_frame", "beam_size", "lm_order", "max_contexts", "max_states", "num_paths")
        require_least(self, 0, "chunk_size", "left_context_frames", "lm_scale", "lodr_scale", "hotwords_score")
        require_least(self, 0, "ngram_lm_scale")
        require_positive(self, "search_beam", "output_beam", "beam", "hlg_scale", "nbest_scale")
        require(
            bool(self.lm_scales) and min(self.lm_scales) >= 0,
            f"lm_scales is {self.lm_scales}: give one or more numbers from 0",
        )
        for name, value in [*vars(self).items(), ("lm_scales", max(self.lm_scales))]:
            finite = not isinstance(value, float) or math.isfinite(value)
            require(finite, f"{name} is {value}: give a finite number")
        require(
            2 <= self.max_active <= MAX_ACTIVE_LIMIT,
            f"max_active is {self.max_active}: give 2 to {MAX_ACTIVE_LIMIT} states",
        )


LOW_ORDER = 2
"""Order of the n-gram that LODR subtracts. Source: Zheng et al. 2022, section 3.4."""
Part = Literal[
    "word_graph", "token_word_graph", "token_lm", "low_order_lm", "rescoring_lm", "hotwords", "to_text", "transcripts"
]
Given = TypeVar("Given")


@dataclass(frozen=True, eq=False)
class Resources:
    """Graphs, models and texts that methods use; None: not loaded, because no chosen method needs it."""

    word_graph: WordGraph | None = None
    """HLG: from frame labels to words."""
    token_word_graph: WordGraph | None = None
    """LG: from tokens to words."""
    token_lm: Scorer | None = None
    """Language model over tokens."""
    low_order_lm: PrefixScorer | None = None
    """The low-order language model of the training texts over tokens that LODR subtracts."""
    rescoring_lm: NgramAutomaton | None = None
    """A stronger n-gram over the words of HLG than HLG's own."""
    hotwords: PrefixScorer | None = None
    """Phrases that are more likely than the model believes; each token counts 1."""
    to_text: Callable[[list[int]], str] | None = None
    """Token ids to text."""
    transcripts: Sequence[str] | None = None
    """The transcript of each utterance of the batch, only for oracle methods."""


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
"""The messages about parts that a method needs and that are missing. No method needs hotwords."""


def given(part: Given | None, name: Part) -> Given:
    """A part of the resources that a method needs.

    Raises:
      ValueError: it is missing.
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


def _token_lm(config: DecodingConfig, lang_dir: Path, tokenizer: Tokenizer) -> Scorer:
    if config.lm_type == "ngram":
        return _token_ngram(config.lm_order, lang_dir, tokenizer)
    return NeuralScorer(load_neural_lm(neural_lm_path(lang_dir, config.lm_type), tokenizer.pieces))


def _hotwords(config: DecodingConfig, tokenizer: Tokenizer) -> PrefixScorer | None:
    phrases = with_phrases(config).hotwords
    return hotwords_scorer(phrases, tokenizer) if phrases else None


def with_phrases(config: DecodingConfig) -> DecodingConfig:
    """The search with the present phrases of its hotwords file added to its own.

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
    "token_lm": _token_lm,
    "low_order_lm": lambda config, lang_dir, tokenizer: _token_ngram(LOW_ORDER, lang_dir, tokenizer),
    "hotwords": lambda config, lang_dir, tokenizer: _hotwords(config, tokenizer),
}
"""The function that loads each part that is read from a folder."""
