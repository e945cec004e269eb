from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("kaldifst")

from shared_moe_conformer.lattice.decoding_graph import load_word_graph
from tests.local.conftest import Result
from tests.local.test_prepare_lang import write_cuts


def test_from_texts_to_a_graph_that_is_built_once(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    write_cuts(tmp_path, train="SOME WORDS SOME MORE")
    run_local("train_tokenizer", "--vocab-size", 16, "--lang-dir", "lang")
    run_local("prepare_lang", "--lang-dir", "lang")
    early = run_local("build_graph", "--lang-dir", "lang")
    assert early.status == 1 and "lang/G.arpa is missing" in early.err
    run_local("train_ngram", "--lang-dir", "lang")
    assert run_local("build_graph", "--lang-dir", "lang").out.count("built") == 2
    assert run_local("build_graph", "--lang-dir", "lang").out.count("up to date") == 2
    for graph, words in (load_word_graph(tmp_path / "lang", "standard"), load_word_graph(tmp_path / "lang", "LG")):
        assert {words[label] for label in graph.olabel.tolist()} == {"<eps>", "MORE", "SOME", "WORDS"}
