"""What searches need besides the model, its frames and their options: graphs, language models, hotwords."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared_moe_conformer.decoding.prefix_scorer import PrefixScorer
from shared_moe_conformer.lattice.graphs import WordGraph
from shared_moe_conformer.lattice.ngram import NgramAutomaton


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
    """What was said in each utterance of the batch; for oracle methods alone."""


NOTHING = Resources()

MISSING = {
    "token_lm": "no language model over tokens: run ./prepare.sh, which trains it (local/train_ngram.py)",
    "low_order_lm": "no 2-gram over tokens: run ./prepare.sh, which trains it (local/train_ngram.py)",
    "word_graph": "no HLG to search: run ./prepare.sh, which builds it, or decode with --graph H",
    "token_word_graph": "no LG to search: run ./prepare.sh, which builds it (local/build_graph.py)",
    "rescoring_lm": "no n-gram to rescore with: run ./prepare.sh, which trains it (local/train_ngram.py)",
    "transcripts": "no transcripts to choose by: an oracle can decode test sets only (./decode.py)",
    "to_text": "no texts of tokens to compare with transcripts: give to_text",
}
"""What to say where a method uses a part that is not given; without hotwords there are none."""
