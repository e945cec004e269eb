"""The two engines over the same graphs: `1best` of 256 utterances, in text and in score.

On a trained model's posteriors `./decode.py --decoding-method 1best --lattice-engine all` compares them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shared_moe_conformer.lattice.decoding_graph import Lexicon, ctc_topology
from shared_moe_conformer.lattice.engine import lattice_engine
from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import Beams

from .conftest import best_paths, make_lang_dir, peaked_log_probs, random_log_probs

pytest.importorskip("k2")

USUAL = Beams(search_beam=15.0, output_beam=8.0, max_active=7000)
WIDE = Beams(search_beam=40.0, output_beam=8.0, max_active=8000)
NUM_UTTERANCES = 256


def compare(log_probs: torch.Tensor, graph: Graph, beams: Beams) -> None:
    """Texts must agree on 99 % of the utterances, and where they do scores to 1e-3."""
    lens = torch.randint(10, log_probs.size(1) + 1, (len(log_probs),), generator=torch.Generator().manual_seed(0))
    paths = [best_paths(lattice_engine(name), log_probs, lens, graph, beams) for name in ("k2", "embedded")]
    same = [one for one in zip(*paths) if one[0].output_labels == one[1].output_labels]
    assert len(same) >= 0.99 * NUM_UTTERANCES
    assert [ours.score for ours, _ in same] == pytest.approx([theirs.score for _, theirs in same], abs=1e-3)
    assert sum(bool(ours.output_labels) for ours, _ in same) > 0.9 * NUM_UTTERANCES


def word_graph(folder: Path, *, num_words: int, vocab_size: int, topology) -> Graph:
    pytest.importorskip("kaldifst")
    from shared_moe_conformer.lattice.decoding_graph import build_word_graph, load_word_graph

    make_lang_dir(folder, num_words=num_words, vocab_size=vocab_size, order=2, seed=1)
    build_word_graph(folder, topology)
    return load_word_graph(folder, topology).graph


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [50, 500])
def test_peaked_posteriors_over_the_topology(vocab_size: int) -> None:
    compare(
        peaked_log_probs(NUM_UTTERANCES, 50, vocab_size, seed=4),
        ctc_topology(vocab_size, modified=vocab_size >= 500),
        USUAL,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("vocab_size", "topology"), [(50, "standard"), (500, "modified")])
def test_peaked_posteriors_over_words(tmp_path: Path, vocab_size: int, topology) -> None:
    graph = word_graph(tmp_path, num_words=60, vocab_size=vocab_size, topology=topology)
    compare(peaked_log_probs(NUM_UTTERANCES, 30, vocab_size, seed=5, text_of=Lexicon.load(tmp_path)), graph, USUAL)


@pytest.mark.slow
def test_random_posteriors_over_few_words_with_a_wide_beam(tmp_path: Path) -> None:
    """Over many words or with narrow beams each engine makes search errors of its own."""
    graph = word_graph(tmp_path, num_words=12, vocab_size=8, topology="standard")
    compare(random_log_probs(NUM_UTTERANCES, 30, 8, seed=6), graph, WIDE)
