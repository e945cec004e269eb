"""Graphs over words in a lang folder, built once: HLG from frame labels to words, and LG from tokens to words.

H is the CTC topology, L the lexicon, G the n-gram.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from shared_moe_conformer.lattice.graphs import Graph, WordGraph
from shared_moe_conformer.lattice.lexicon import LEXICON_FILE, TOKENS_FILE, WORDS_FILE, Lexicon
from shared_moe_conformer.lattice.topology import CtcTopology, over_tokens

NGRAM_FILE = "G.arpa"
FILES = {
    "standard": "HLG_standard.safetensors",
    "modified": "HLG_modified.safetensors",
    "LG": "LG.safetensors",
}
"""The file of each kind of graph: HLG by its CTC topology, and LG."""
FORMAT = "1"
"""Changes whenever the same inputs give another graph, so that older files are stale."""


def graph_path(lang_dir: Path, kind: str) -> Path:
    """The file of a lang folder's graph: the .npz file of version 0.1 only where there is no other."""
    path = lang_dir / FILES[kind]
    old = path.with_suffix(".npz")
    return old if old.is_file() and not path.is_file() else path


def build_word_graph(lang_dir: Path, topology: CtcTopology) -> bool:
    """Build the HLG of a lang folder, unless one made from the same files is there; return whether it was built.

    Raises:
      FileNotFoundError: a file of the lang folder is missing.
      ValueError: one is damaged, or the n-gram has a word that the lexicon lacks.
    """
    return _build(lang_dir, topology, lambda: over_tokens(_tokens_to_words(lang_dir), modified=topology == "modified"))


def build_token_word_graph(lang_dir: Path) -> bool:
    """Build the LG of a lang folder, as `build_word_graph` does."""
    return _build(lang_dir, "LG", lambda: _tokens_to_words(lang_dir))


def _build(lang_dir: Path, kind: str, make: Callable[[], Graph]) -> bool:
    path, inputs = lang_dir / FILES[kind], inputs_hash(lang_dir, kind)
    if Graph.inputs_of(path) == inputs:
        return False
    make().save(path, inputs=inputs)
    return True


def _tokens_to_words(lang_dir: Path) -> Graph:
    from shared_moe_conformer.lattice.lg import compose_lexicon_and_ngram  # kaldifst and kaldilm are needed only here

    return compose_lexicon_and_ngram(Lexicon.load(lang_dir), lang_dir / NGRAM_FILE)


def load_word_graph(lang_dir: Path, topology: CtcTopology) -> WordGraph:
    """The HLG of a lang folder.

    Raises:
      FileNotFoundError: it has none.
      ValueError: it was made from other files than the folder holds now.
    """
    remedy = f"run local/build_graph.py --lang-dir {lang_dir} --ctc-topology {topology}"
    return _load(lang_dir, topology, remedy)


def load_token_word_graph(lang_dir: Path) -> WordGraph:
    """The LG of a lang folder, as `load_word_graph` loads HLG."""
    remedy = f"run local/build_graph.py --lang-dir {lang_dir}"
    return _load(lang_dir, "LG", remedy)


def _load(lang_dir: Path, kind: str, remedy: str) -> WordGraph:
    path = graph_path(lang_dir, kind)
    if not path.is_file():
        raise FileNotFoundError(f"no graph over words in {path}: {remedy}, after ./prepare.sh")
    graph = Graph.load(path)
    if Graph.inputs_of(path) != inputs_hash(lang_dir, kind):
        raise ValueError(f"{path} was built from other files than {lang_dir} holds now: {remedy}")
    words = Lexicon.load(lang_dir).words
    if int(graph.olabel.max()) >= len(words):
        raise ValueError(f"{path} has words that {lang_dir / WORDS_FILE} lacks: {remedy}")
    return WordGraph(graph, words)


def inputs_hash(lang_dir: Path, kind: str) -> str:
    """SHA-256 of everything that a graph over words depends on.

    Raises:
      FileNotFoundError: a file of the lang folder is missing.
    """
    result = hashlib.sha256(f"{FORMAT} {kind}".encode())
    for name in (TOKENS_FILE, WORDS_FILE, LEXICON_FILE, NGRAM_FILE):
        path = lang_dir / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, and graphs are made from it: run ./prepare.sh first")
        result.update(hashlib.sha256(path.read_bytes()).digest())
    return result.hexdigest()
