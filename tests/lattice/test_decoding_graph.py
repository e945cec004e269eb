"""Files of graphs over words: built once, refused when stale."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

pytest.importorskip("kaldifst")

from shared_moe_conformer.lattice.decoding_graph import (
    NGRAM_FILE,
    build_token_word_graph,
    build_word_graph,
    graph_path,
    load_token_word_graph,
    load_word_graph,
)
from shared_moe_conformer.lattice.kneser_ney import train_ngram
from shared_moe_conformer.lattice.lexicon import Lexicon
from shared_moe_conformer.lattice.lg import compose_lexicon_and_ngram
from shared_moe_conformer.lattice.ngram import NgramModel
from shared_moe_conformer.lattice.search import Beams

from .conftest import best_paths, make_lang_dir
from .test_lg import best_scores


@pytest.fixture
def lang_dir(tmp_path: Path) -> Path:
    return make_lang_dir(tmp_path, num_words=12, vocab_size=8, order=3, seed=0)


def test_the_graph_is_built_once_and_refused_when_stale(lang_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="HLG_standard.safetensors"):
        load_word_graph(lang_dir, "standard")
    assert build_word_graph(lang_dir, "standard")
    assert not build_word_graph(lang_dir, "standard")
    before = load_word_graph(lang_dir, "standard").graph
    model = NgramModel.load(lang_dir / NGRAM_FILE)
    train_ngram([[word] for word in model.words], 1).save(lang_dir / NGRAM_FILE)
    with pytest.raises(ValueError, match="built from other files"):
        load_word_graph(lang_dir, "standard")
    assert build_word_graph(lang_dir, "standard")
    assert len(load_word_graph(lang_dir, "standard").graph.src) < len(before.src)


def test_graphs_of_another_tokens_txt_are_refused(lang_dir: Path) -> None:
    """As many units, of which two have changed places: nothing but the inputs' hash can tell."""
    assert build_word_graph(lang_dir, "modified") and build_token_word_graph(lang_dir)
    units = (lang_dir / "tokens.txt").read_text()
    (lang_dir / "tokens.txt").write_text(units.replace("t3 3", "t4 3").replace("t4 4", "t3 4"))
    for load in (lambda: load_word_graph(lang_dir, "modified"), lambda: load_token_word_graph(lang_dir)):
        with pytest.raises(ValueError, match="was built from other files than .* holds now: run local/build_graph.py"):
            load()
    assert build_word_graph(lang_dir, "modified")
    load_word_graph(lang_dir, "modified")


def test_lg_is_built_beside_it(lang_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="LG.safetensors: run local/build_graph.py"):
        load_token_word_graph(lang_dir)
    assert build_token_word_graph(lang_dir) and not build_token_word_graph(lang_dir)
    loaded, words = load_token_word_graph(lang_dir)
    lexicon = Lexicon.load(lang_dir)
    composed = compose_lexicon_and_ngram(lexicon, lang_dir / NGRAM_FILE)
    assert words == lexicon.words and (loaded.weight == composed.weight).all() and loaded.ilabel.min() > 0


def test_a_damaged_graph_is_built_again(lang_dir: Path) -> None:
    graph_path(lang_dir, "standard").write_bytes(b"{}")
    with pytest.raises(ValueError, match="is not a graph"):
        load_word_graph(lang_dir, "standard")
    assert build_word_graph(lang_dir, "standard")


def test_a_word_that_the_lexicon_lacks_is_named(lang_dir: Path) -> None:
    train_ngram([["STRANGER"]], 2).save(lang_dir / NGRAM_FILE)
    with pytest.raises(ValueError, match="'STRANGER'"):
        build_word_graph(lang_dir, "standard")
    (lang_dir / NGRAM_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="G.arpa is missing"):
        build_word_graph(lang_dir, "standard")


@pytest.mark.parametrize("topology", ["standard", "modified"])
def test_engines_find_the_words_of_sure_posteriors(engine, lang_dir: Path, topology) -> None:
    """Each token for one or two frames, then a blank: the words are the n-gram's reading, at its score."""
    build_word_graph(lang_dir, topology)
    graph, words = load_word_graph(lang_dir, topology)
    lexicon, model = Lexicon.load(lang_dir), NgramModel.load(lang_dir / NGRAM_FILE)
    said = random.Random(2).choices(model.words, k=4)
    tokens = [token for word in said for token in lexicon.spellings[word]]
    labels = torch.tensor([label for i, token in enumerate(tokens) for label in [token] * (1 + i % 2) + [0]])
    log_probs = torch.full((1, len(labels), 8), -50.0)
    log_probs[0, torch.arange(len(labels)), labels] = 0.0
    (path,) = best_paths(engine, log_probs, torch.tensor([len(labels)]), graph, Beams(100.0, 10.0, 5000))
    readings = best_scores(compose_lexicon_and_ngram(lexicon, lang_dir / NGRAM_FILE), tokens)
    assert path.score == pytest.approx(max(readings.values()), abs=1e-3)
    assert readings[tuple(path.output_labels)] == pytest.approx(max(readings.values()), abs=1e-3)
    spelled = [token for label in path.output_labels for token in lexicon.spellings[words[label]]]
    assert spelled == tokens
