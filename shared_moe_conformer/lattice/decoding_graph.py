"""HLG: from frame labels to words, by the CTC topology, a lexicon and an n-gram; and LG, the same from tokens.

Built once, then read from files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import kaldifst
import kaldilm
import numpy as np

from shared_moe_conformer.lattice.arpa import BOS, EOS, NgramModel
from shared_moe_conformer.lattice.graphs import CtcTopology, Graph, WordGraph, graph_of_arcs, over_tokens
from shared_moe_conformer.lattice.lexicon import BACKOFF, LEXICON_FILE, TOKENS_FILE, WORDS_FILE, Lexicon

NGRAM_FILE = "G.arpa"
LG_FILE = "LG.npz"
FORMAT = "1"
"""Changes whenever the same inputs give another graph, so that older files are stale."""

# Costs closer than this are the same. Kaldi's default, 1/1024, would change scores.
DELTA = 1e-5


def graph_path(lang_dir: Path, topology: CtcTopology) -> Path:
    """The file of a lang folder's HLG."""
    return lang_dir / f"HLG_{topology}.npz"


def build_word_graph(lang_dir: Path, topology: CtcTopology) -> bool:
    """Build the HLG of a lang folder unless it is there already and made from the same files; whether it was built.

    Raises:
      FileNotFoundError: a file of the lang folder is missing.
      ValueError: one is damaged, or the n-gram has a word that the lexicon lacks.
    """
    return _build(
        graph_path(lang_dir, topology),
        inputs_hash(lang_dir, topology),
        lambda: over_tokens(_tokens_to_words(lang_dir), modified=topology == "modified"),
    )


def build_token_word_graph(lang_dir: Path) -> bool:
    """Build the LG of a lang folder, as `build_word_graph` does."""
    return _build(lang_dir / LG_FILE, inputs_hash(lang_dir, "LG"), lambda: _tokens_to_words(lang_dir))


def _build(path: Path, inputs: str, make: Callable[[], Graph]) -> bool:
    if path.is_file() and Graph.inputs_of(path) == inputs:
        return False
    make().save(path, inputs=inputs)
    return True


def _tokens_to_words(lang_dir: Path) -> Graph:
    return compose_lexicon_and_ngram(Lexicon.load(lang_dir), lang_dir / NGRAM_FILE)


def load_word_graph(lang_dir: Path, topology: CtcTopology) -> WordGraph:
    """The HLG of a lang folder.

    Raises:
      FileNotFoundError: it has none.
      ValueError: it is stale: made from other files than the folder holds now.
    """
    remedy = f"run local/build_graph.py --lang-dir {lang_dir} --ctc-topology {topology}"
    return _load(graph_path(lang_dir, topology), topology, remedy)


def load_token_word_graph(lang_dir: Path) -> WordGraph:
    """The LG of a lang folder, as `load_word_graph` loads HLG."""
    remedy = f"run local/build_graph.py --lang-dir {lang_dir}"
    return _load(lang_dir / LG_FILE, "LG", remedy)


def _load(path: Path, kind: str, remedy: str) -> WordGraph:
    lang_dir = path.parent
    if not path.is_file():
        raise FileNotFoundError(f"no graph over words in {path}: {remedy}, after ./prepare.sh")
    graph = Graph.load(path)
    if Graph.inputs_of(path) != inputs_hash(lang_dir, kind):
        raise ValueError(f"{path} was built from other files than {lang_dir} holds now: {remedy}")
    words = Lexicon.load(lang_dir).words
    if int(graph.olabel.max()) >= len(words):
        raise ValueError(f"{path} gives words that {lang_dir / WORDS_FILE} lacks: {remedy}")
    return WordGraph(graph, words)


def inputs_hash(lang_dir: Path, kind: str) -> str:
    """SHA-256 of all that decides what a graph over words is.

    Args:
      kind: the CTC topology of HLG, or LG.

    Raises:
      FileNotFoundError: a file of the lang folder is missing.
    """
    result = hashlib.sha256(f"{FORMAT} {kind}".encode())
    for name in (TOKENS_FILE, WORDS_FILE, LEXICON_FILE, NGRAM_FILE):
        path = lang_dir / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, without which there is no graph: run ./prepare.sh first")
        result.update(hashlib.sha256(path.read_bytes()).digest())
    return result.hexdigest()


def compose_lexicon_and_ngram(lexicon: Lexicon, arpa: Path) -> Graph:
    """LG: from tokens to words, weighted by the n-gram; determinised, minimised, and every arc consumes a token.

    Source: Mohri, Pereira and Riley 2008, Speech recognition with weighted finite-state transducers, section 3.
    """
    unknown = sorted(set(NgramModel.load(arpa).words) - lexicon.spellings.keys())
    if unknown:
        raise ValueError(
            f"the n-gram {arpa} has {len(unknown)} words that the lexicon lacks, {unknown[0]!r} first: "
            "make both from the same texts (./prepare.sh)"
        )
    fst = kaldifst.compose(
        _sorted(_fst_of_graph(lexicon.transducer(disambiguated=True)), "olabel"), _sorted(_ngram_fst(lexicon, arpa))
    )
    kaldifst.determinize_star(fst, delta=DELTA)
    kaldifst.minimize_encoded(fst, delta=DELTA)
    return _without_epsilons(fst, is_epsilon=lambda label: label == 0 or label >= lexicon.backoff_token)


def _ngram_fst(lexicon: Lexicon, arpa: Path) -> kaldifst.StdVectorFst:
    """G, whose back-off arcs carry the back-off symbol."""
    text = kaldilm.arpa2fst(
        input_arpa=str(arpa),
        output_fst="",
        bos_symbol=BOS,
        eos_symbol=EOS,
        disambig_symbol=BACKOFF,
        read_symbol_table=str(arpa.parent / WORDS_FILE),
    )
    return kaldifst.compile(text, acceptor=False)


def _sorted(fst: kaldifst.StdVectorFst, by: str = "ilabel") -> kaldifst.StdVectorFst:
    kaldifst.arcsort(fst, sort_type=by)
    return fst


def _fst_of_graph(graph: Graph) -> kaldifst.StdVectorFst:
    """A transducer whose labels are the graph's own; 0 is epsilon on both sides."""
    fst = kaldifst.StdVectorFst()
    for _ in range(graph.num_states):
        fst.add_state()
    fst.start = 0
    for state, weight in zip(graph.final_state.tolist(), graph.final_weight.tolist()):
        fst.set_final(state, -weight)
    columns = (graph.src, graph.dst, graph.ilabel, graph.olabel, graph.weight)
    for src, dst, ilabel, olabel, weight in zip(*(column.tolist() for column in columns)):
        fst.add_arc(src, kaldifst.StdArc(ilabel, olabel, -weight, dst))
    return fst


class _Arc(NamedTuple):
    ilabel: int
    olabel: int
    cost: float
    dst: int


def _without_epsilons(fst: kaldifst.StdVectorFst, *, is_epsilon: Callable[[int], bool]) -> Graph:
    """The same transducer, in which the ways without input that follow an arc have become a part of it.

    Joining them to the arcs before them keeps the n-gram's back-off states; joined to those after, every history would
    get a copy of all words. No arc gets two words: a word is given at the latest by the symbol that ends its spelling.
    """
    outgoing = [
        [_Arc(arc.ilabel, arc.olabel, arc.weight.value, arc.nextstate) for arc in kaldifst.ArcIterator(fst, state)]
        for state in kaldifst.StateIterator(fst)
    ]
    consuming = [[arc for arc in arcs if not is_epsilon(arc.ilabel)] for arcs in outgoing]
    skipping = [[arc for arc in arcs if is_epsilon(arc.ilabel)] for arcs in outgoing]
    rows: dict[tuple[int, int, int, int], float] = {}

    def add(src: int, arc: _Arc, *, cost: float) -> None:
        for (dst, olabel), further in _reached(skipping, arc.dst).items():
            assert not (arc.olabel and olabel)
            key = (src, dst, arc.ilabel, arc.olabel or olabel)
            rows[key] = min(rows.get(key, np.inf), cost + arc.cost + further)

    for src, arcs in enumerate(consuming):
        for arc in arcs:
            add(src, arc, cost=0.0)
    start = len(outgoing)
    for (state, olabel), cost in _reached(skipping, fst.start).items():
        assert not olabel
        for arc in consuming[state]:
            add(start, arc, cost=cost)
    finals = {state: fst.final(state).value for state in range(start)}
    return _connected(rows, {state: cost for state, cost in finals.items() if np.isfinite(cost)}, start=start)


def _reached(skipping: list[list[_Arc]], state: int) -> dict[tuple[int, int], float]:
    """Cheapest ways without input from a state: (state, word given on the way) -> cost."""
    best, waiting = {(state, 0): 0.0}, [(state, 0)]
    while waiting:
        here = waiting.pop()
        for arc in skipping[here[0]]:
            assert not (here[1] and arc.olabel)
            there, cost = (arc.dst, here[1] or arc.olabel), best[here] + arc.cost
            if cost < best.get(there, np.inf):
                best[there] = cost
                waiting.append(there)
    return best


def _connected(rows: dict[tuple[int, int, int, int], float], finals: dict[int, float], *, start: int) -> Graph:
    """The graph of these arcs, without states that no path uses, its start being state 0."""
    fst = kaldifst.StdVectorFst()
    for _ in range(start + 1):
        fst.add_state()
    fst.start = start
    for state, cost in finals.items():
        fst.set_final(state, cost)
    for (src, dst, ilabel, olabel), cost in rows.items():
        fst.add_arc(src, kaldifst.StdArc(ilabel, olabel, cost, dst))
    kaldifst.connect(fst)
    states = [fst.start, *(state for state in kaldifst.StateIterator(fst) if state != fst.start)]
    number = {state: index for index, state in enumerate(states)}
    arcs = [(number[state], arc) for state in states for arc in kaldifst.ArcIterator(fst, state)]
    final = [(number[state], -fst.final(state).value) for state in states if np.isfinite(fst.final(state).value)]
    return graph_of_arcs(
        np.array([(src, number[arc.nextstate], arc.ilabel, arc.olabel) for src, arc in arcs]),
        np.array([-arc.weight.value for _, arc in arcs]),
        final_state=[state for state, _ in final],
        final_weight=[weight for _, weight in final],
    )
