"""Decoding graphs: H, the CTC topology; HLG, from frame labels to words; LG, from tokens to words.

L is the lexicon and G the n-gram of a lang folder, where HLG and LG are built once and kept in files.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Literal

import numpy as np

from shared_moe_conformer.lattice.graphs import Graph, WordGraph, graph_of_arcs
from shared_moe_conformer.lattice.lexicon import LEXICON_FILE, TOKENS_FILE, WORDS_FILE, Lexicon

CtcTopology = Literal["auto", "standard", "modified"]

NGRAM_FILE = "G.arpa"
FILES = {
    "standard": "HLG_standard.safetensors",
    "modified": "HLG_modified.safetensors",
    "LG": "LG.safetensors",
}
"""The file of each kind of graph over words: HLG by its CTC topology, and LG."""
FORMAT = "1"
"""Changes whenever the same inputs give another graph, so that older files are stale."""
MODIFIED_FROM_VOCAB_SIZE = 500
"""Vocabulary size from which the standard topology's vocab_size squared arcs cost k2 seconds an utterance."""


def graph_path(lang_dir: Path, kind: str) -> Path:
    """The file of a lang folder's graph: the .npz file of version 0.1 only where there is no other."""
    path = lang_dir / FILES[kind]
    old = path.with_suffix(".npz")
    return old if old.is_file() and not path.is_file() else path


def build_word_graph(lang_dir: Path, kind: str) -> bool:
    """Build a graph of a lang folder, unless one made from the same files is there; return whether it was built.

    Args:
      kind: a key of `FILES`.

    Raises:
      FileNotFoundError: a file of the lang folder is missing.
      ValueError: one is damaged, or the n-gram has a word that the lexicon lacks.
    """
    path, inputs = lang_dir / FILES[kind], inputs_hash(lang_dir, kind)
    if Graph.inputs_of(path) == inputs:
        return False
    # kaldifst and kaldilm are needed only here
    from shared_moe_conformer.lattice.lg import compose_lexicon_and_ngram, compose_topology

    lexicon = Lexicon.load(lang_dir)
    graph = compose_lexicon_and_ngram(lexicon, lang_dir / NGRAM_FILE)
    if kind != "LG":
        graph = compose_topology(ctc_topology(len(lexicon.tokens), modified=kind == "modified"), graph)
    graph.save(path, inputs=inputs)
    return True


def load_word_graph(lang_dir: Path, kind: str) -> WordGraph:
    """A graph of a lang folder.

    Raises:
      FileNotFoundError: it has none of this kind.
      ValueError: it was made from other files than the folder holds now.
    """
    path = graph_path(lang_dir, kind)
    topology = "" if kind == "LG" else f" --ctc-topology {kind}"
    remedy = f"run local/build_graph.py --lang-dir {lang_dir}{topology}"
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


def chosen_topology(ctc_topology: CtcTopology, vocab_size: int) -> CtcTopology:
    """The topology that "auto" stands for."""
    if ctc_topology != "auto":
        return ctc_topology
    return "modified" if vocab_size >= MODIFIED_FROM_VOCAB_SIZE else "standard"


@functools.lru_cache(maxsize=4)  # the same graph each time, so engines can cache it
def ctc_topology(vocab_size: int, *, modified: bool) -> Graph:
    """The transducer from frame labels to tokens over `vocab_size` units, with blank, 0, among them.

    The standard topology demands a blank between equal tokens and has vocab_size squared arcs. The modified one does
    not and has 4 arcs per unit: a run of a token may be one token or several, and all readings have the same weight.

    Source: k2.ctc_topo, whose state numbers these are.
    """
    return _modified_topology(vocab_size) if modified else _standard_topology(vocab_size)


def _standard_topology(vocab_size: int) -> Graph:
    """State v: the last frame was v. An arc gives its label unless that is blank or continues a run."""
    units = np.arange(vocab_size)
    src, dst = np.repeat(units, vocab_size), np.tile(units, vocab_size)
    return _unweighted(src, dst, ilabel=dst, olabel=np.where(src == dst, 0, dst), final_state=units)


def _modified_topology(vocab_size: int) -> Graph:
    """State 0: no run is open. State v > 0: a run of two or more frames v is open."""
    units, tokens = np.arange(vocab_size), np.arange(1, vocab_size)
    nothing = np.zeros_like(tokens)
    return _unweighted(
        src=np.concatenate([np.zeros_like(units), nothing, np.repeat(tokens, 2)]),
        dst=np.concatenate([np.zeros_like(units), tokens, np.stack([tokens, nothing], axis=1).ravel()]),
        ilabel=np.concatenate([units, tokens, np.repeat(tokens, 2)]),
        olabel=np.concatenate([units, tokens, np.repeat(nothing, 2)]),
        final_state=np.zeros(1),
    )


def _unweighted(
    src: np.ndarray, dst: np.ndarray, *, ilabel: np.ndarray, olabel: np.ndarray, final_state: np.ndarray
) -> Graph:
    arcs, final = np.stack([src, dst, ilabel, olabel], axis=1), final_state.tolist()
    return graph_of_arcs(arcs, np.zeros(len(arcs)), final_state=final, final_weight=[0.0] * len(final))
