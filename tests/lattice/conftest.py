"""Posteriors and graphs on which engines are compared."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared_moe_conformer.lattice.decoding_graph import Lexicon
from shared_moe_conformer.lattice.engine import find_lattice, find_lattices, lattice_engine
from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import Beams, Lattice, LatticeEngine, LatticePath
from shared_moe_conformer.lattice.ngram import train_ngram
from shared_moe_conformer.lattice.paths import best_arcs


@pytest.fixture(params=["k2", "embedded"])
def engine(request: pytest.FixtureRequest) -> LatticeEngine:
    """Each engine that is installed."""
    if request.param == "k2":
        pytest.importorskip("k2")
    return lattice_engine(request.param)


def random_graph(*, num_states: int, vocab_size: int, num_arcs: int, seed: int) -> Graph:
    """A random graph, of which two states are final and some may be dead ends."""
    rng = np.random.default_rng(seed)
    final = rng.choice(num_states, size=2, replace=False)
    return Graph(
        src=np.sort(rng.integers(num_states, size=num_arcs)).astype(np.int32),
        dst=rng.integers(num_states, size=num_arcs).astype(np.int32),
        ilabel=rng.integers(vocab_size, size=num_arcs).astype(np.int32),
        olabel=rng.integers(5, size=num_arcs).astype(np.int32),
        weight=rng.normal(size=num_arcs).astype(np.float32),
        final_state=final.astype(np.int32),
        final_weight=rng.normal(size=2).astype(np.float32),
    )


@pytest.fixture
def make_graph():
    return random_graph


def best_paths(
    engine: LatticeEngine, log_probs: torch.Tensor, lens: torch.Tensor, graph: Graph, beams: Beams
) -> list[LatticePath]:
    """What 1best decodes: the best path of the lattice of each utterance."""
    return [lattice.path(best_arcs(lattice)) for lattice in find_lattices(engine, log_probs, lens, graph, beams)]


def path_of_arcs(graph: Graph, arcs: Sequence[int], score: float) -> LatticePath:
    """The path that takes these arcs of the graph, one a frame."""
    given = graph.olabel[list(arcs)]
    frames = given.nonzero()[0]
    return LatticePath(graph.ilabel[list(arcs)].tolist(), given[frames].tolist(), frames.tolist(), score)


def all_paths(graph: Graph, log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """The score of every path from the start to a final state, by its arcs."""
    final = dict(zip(graph.final_state.tolist(), graph.final_weight.tolist()))
    paths = {}
    for arcs in itertools.product(range(len(graph.src)), repeat=len(log_probs)):
        states = [0, *graph.dst[list(arcs)].tolist()]
        if graph.src[list(arcs)].tolist() == states[:-1] and states[-1] in final:
            frames = sum(float(row[graph.ilabel[arc]]) for row, arc in zip(log_probs, arcs))
            paths[arcs] = frames + float(graph.weight[list(arcs)].sum()) + final[states[-1]]
    return paths


def paths_of(lattice: Lattice) -> list[LatticePath]:
    """Every path of a lattice, best first."""
    arcs_of: dict[int, list[int]] = {}
    for arc, state in enumerate(lattice.src.tolist()):
        arcs_of.setdefault(state, []).append(arc)
    ways: list[list[int]] = [[]]
    for _ in range(lattice.num_frames):
        ways = [[*way, arc] for way in ways for arc in arcs_of[int(lattice.dst[way[-1]]) if way else 0]]
    return sorted((lattice.path(np.array(way)) for way in ways if way), key=lambda path: -path.score)


def random_lattice(make_graph, *, seed: int, num_frames: int = 4, beam: float = 100.0) -> Lattice:
    """A lattice of a random graph: all its paths within the beam."""
    graph = make_graph(num_states=4, vocab_size=4, num_arcs=16, seed=seed)
    log_probs = random_log_probs(1, num_frames, 4, seed=seed)[0].numpy()
    lattice = find_lattice(log_probs, graph, Beams(100.0, beam, 1000), max_arcs=10**6)
    assert lattice is not None
    return lattice


def random_log_probs(num_utterances: int, num_frames: int, vocab_size: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(num_utterances, num_frames, vocab_size, generator=generator)).log_softmax(-1)


def peaked_log_probs(
    num_utterances: int, num_frames: int, vocab_size: int, *, seed: int, text_of: Lexicon | None = None
) -> torch.Tensor:
    """Posteriors as speech gives them: one label far ahead, most often blank, tokens in short runs.

    With a lexicon the tokens are those of random words, each followed by a blank; without one they are random.
    """
    generator = torch.Generator().manual_seed(seed)
    if text_of is None:
        labels = torch.randint(1, vocab_size, (num_utterances, num_frames), generator=generator)
        labels[torch.rand(labels.shape, generator=generator) < 0.6] = 0
    else:
        labels = _labels_of_words(text_of, num_utterances, num_frames, seed=seed)
    for t in range(1, num_frames):
        goes_on = torch.rand(num_utterances, generator=generator) < (0.3 if text_of is None else 0.0)
        labels[goes_on, t] = labels[goes_on, t - 1]
    logits = torch.randn(num_utterances, num_frames, vocab_size, generator=generator)
    return logits.scatter_add(2, labels.unsqueeze(2), torch.full((*labels.shape, 1), 12.0)).log_softmax(-1)


def _labels_of_words(lexicon: Lexicon, num_utterances: int, num_frames: int, *, seed: int) -> torch.Tensor:
    rng = random.Random(seed)
    labels = torch.zeros(num_utterances, num_frames, dtype=torch.int64)
    for row in labels:
        frame = 0
        while frame + 2 * len(spelling := rng.choice(list(lexicon.spellings.values()))) <= num_frames:
            for token in spelling:
                row[frame : frame + 2] = torch.tensor([token, 0])
                frame += 2
    return labels


def make_lang_dir(folder: Path, *, num_words: int, vocab_size: int, order: int, seed: int) -> Path:
    """Random words, of which some are spelled alike or as the beginning of others, and an n-gram of random texts."""
    rng = random.Random(seed)
    tokens = ["<blk>", "<sos/eos>", "<unk>", *(f"t{i}" for i in range(3, vocab_size))]
    spellings = {f"W{i:02}": rng.choices(range(3, vocab_size), k=rng.randint(1, 3)) for i in range(num_words)}
    (folder / "tokens.txt").write_text("".join(f"{token} {index}\n" for index, token in enumerate(tokens)))
    Lexicon(tokens, spellings).save(folder)
    texts = [rng.choices(list(spellings), k=rng.randint(1, 5)) for _ in range(3 * num_words)]
    train_ngram([*texts, *([word] for word in spellings)], order).save(folder / "G.arpa")
    return folder


def fst_of(form: Any, final_weight: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> Any:
    """An acceptor of OpenFst with the states and arcs of a graph or a lattice, and costs instead of scores."""
    kaldifst = pytest.importorskip("kaldifst")
    fst = kaldifst.StdVectorFst()
    for _ in range(form.num_states):
        fst.add_state()
    fst.start = 0
    for state, weight in zip(form.final_state.tolist(), final_weight.tolist()):
        fst.set_final(state, -weight)
    for src, dst, label, score in zip(*(column.tolist() for column in (form.src, form.dst, labels, scores))):
        fst.add_arc(src, kaldifst.StdArc(label, label, -score, dst))
    return fst
