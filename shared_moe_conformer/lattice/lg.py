"""LG, a lexicon composed with an n-gram, and HLG, a CTC topology composed with that, by kaldifst and kaldilm."""

from __future__ import annotations

from pathlib import Path

import kaldifst
import kaldilm
import numpy as np

from shared_moe_conformer.lattice.graphs import Graph, graph_of_arcs
from shared_moe_conformer.lattice.lattice import reached, spans
from shared_moe_conformer.lattice.ngram import BACKOFF, BOS, EOS

# Costs closer than this count as equal. Kaldi's default, 1/1024, would change scores.
DELTA = 1e-5

ARC = np.dtype([("src", "i4"), ("dst", "i4"), ("ilabel", "i4"), ("olabel", "i4"), ("cost", "f8")])


def compose_lexicon_and_ngram(lexicon: Graph, arpa: Path, *, words: Path, backoff_token: int) -> Graph:
    """LG: from tokens to words, weighted by the n-gram, determinised and minimised; every arc consumes a token.

    Args:
      lexicon: L, whose output labels are those of the file `words`.
      arpa: the n-gram, G.
      words: words.txt.
      backoff_token: L's input label of the back-off symbol; labels after it disambiguate spellings.

    Source: Mohri, Pereira and Riley 2008, Speech recognition with weighted finite-state transducers, section 3.
    """
    fst = kaldifst.compose(_sorted(_fst_of_graph(lexicon), "olabel"), _sorted(_ngram_fst(arpa, words)))
    kaldifst.determinize_star(fst, delta=DELTA)
    kaldifst.minimize_encoded(fst, delta=DELTA)
    return _without_epsilons(fst, first_epsilon=backoff_token)


def compose_topology(topology: Graph, tokens: Graph) -> Graph:
    """The CTC topology composed with a graph over tokens, such as LG: a graph over frame labels.

    Args:
      tokens: a graph whose arcs each consume a token, never blank.
    """
    fst = kaldifst.compose(_sorted(_fst_of_graph(topology), "olabel"), _sorted(_fst_of_graph(tokens)))
    return _connected(_arcs_of(fst), _final_costs(fst), start=fst.start)


def _ngram_fst(arpa: Path, words: Path) -> kaldifst.StdVectorFst:
    """G, with the back-off symbol on its back-off arcs."""
    text = kaldilm.arpa2fst(
        input_arpa=str(arpa),
        output_fst="",
        bos_symbol=BOS,
        eos_symbol=EOS,
        disambig_symbol=BACKOFF,
        read_symbol_table=str(words),
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


def _arcs_of(fst: kaldifst.StdVectorFst) -> np.ndarray:
    rows = (
        (state, arc.nextstate, arc.ilabel, arc.olabel, arc.weight.value)
        for state in kaldifst.StateIterator(fst)
        for arc in kaldifst.ArcIterator(fst, state)
    )
    return np.fromiter(rows, dtype=ARC)


def _final_costs(fst: kaldifst.StdVectorFst) -> np.ndarray:
    """Cost of ending in each state; infinite where nothing may end."""
    return np.array([fst.final(state).value for state in kaldifst.StateIterator(fst)])


def _without_epsilons(fst: kaldifst.StdVectorFst, *, first_epsilon: int) -> Graph:
    """The same transducer without epsilon inputs: each arc is joined with the epsilon paths that follow it.

    Joining them to the arcs before keeps the n-gram's back-off states; joined to the arcs after, every history would
    get a copy of all words. No arc gets two words, since the symbol that ends a spelling comes with or after its word.

    Args:
      first_epsilon: arcs with this input label or a higher one, or with 0, consume nothing.
    """
    arcs = _arcs_of(fst)
    is_silent = (arcs["ilabel"] == 0) | (arcs["ilabel"] >= first_epsilon)
    silent, consuming = arcs[is_silent], arcs[~is_silent]
    silent["ilabel"] = 0
    costs = _final_costs(fst)
    ways = _silent_paths(silent, len(costs))
    at_start = ways[ways["src"] == fst.start]
    at_start["src"] = len(costs)  # a new start that no arc enters
    whole = _joined(np.concatenate([consuming, _joined(at_start, consuming)]), ways)
    return _connected(_cheapest(whole), np.append(costs, np.inf), start=len(costs))


def _silent_paths(silent: np.ndarray, num_states: int) -> np.ndarray:
    """The cheapest epsilon paths between states, each as one arc; the empty path of each state is among them.

    Such arcs form no cycle: back-off arcs lead to shorter histories, and the others end a word.
    """
    longer = np.zeros(num_states, dtype=ARC)
    longer["src"] = longer["dst"] = np.arange(num_states)
    ways = [longer]
    while len(longer):
        longer = _cheapest(_joined(longer, silent))
        ways.append(longer)
    return _cheapest(np.concatenate(ways))


def _joined(arcs: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Each arc joined with each of the arcs that follow it."""
    following = following[np.argsort(following["src"], kind="stable")]
    first = np.searchsorted(following["src"], arcs["dst"])
    end = np.searchsorted(following["src"], arcs["dst"], side="right")
    result, rest = np.repeat(arcs, end - first), following[spans(first, end)]
    for label in ("ilabel", "olabel"):
        assert not (result[label] * rest[label]).any(), "only one of the two may have a label"
        result[label] += rest[label]
    result["dst"] = rest["dst"]
    result["cost"] += rest["cost"]
    return result


def _cheapest(arcs: np.ndarray) -> np.ndarray:
    """The cheapest of the arcs that differ in nothing but their costs."""
    arcs = arcs[np.lexsort([arcs[name] for name in ("cost", "olabel", "ilabel", "dst", "src")])]
    labels = arcs[["src", "dst", "ilabel", "olabel"]]
    return arcs[np.append(True, labels[1:] != labels[:-1])[: len(arcs)]]


def _connected(arcs: np.ndarray, final_costs: np.ndarray, *, start: int) -> Graph:
    """The graph of these arcs, without states that no path uses; the start becomes state 0.

    Args:
      final_costs: cost of ending in each state; infinite where nothing may end.
    """
    final = np.flatnonzero(np.isfinite(final_costs))
    used = reached(arcs["src"], arcs["dst"], np.array([start]), len(final_costs))
    used &= reached(arcs["dst"], arcs["src"], final, len(final_costs))
    number = np.cumsum(used)  # from 1 on, without the start, which becomes 0
    number[start:] -= 1
    number[start] = 0
    arcs, final = arcs[used[arcs["src"]] & used[arcs["dst"]]], final[used[final]]
    return graph_of_arcs(
        np.stack([number[arcs["src"]], number[arcs["dst"]], arcs["ilabel"], arcs["olabel"]], axis=1),
        -arcs["cost"],
        final_state=number[final].tolist(),
        final_weight=(-final_costs[final]).tolist(),
    )
