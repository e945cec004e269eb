from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest
import torch

from shared_moe_conformer.lattice.decoding_graph import ctc_topology
from shared_moe_conformer.lattice.engine import lattice_engine
from shared_moe_conformer.lattice.lattice import Beams, warn_once

from .conftest import best_paths, peaked_log_probs

PACKAGE = Path(__file__).resolve().parents[2] / "shared_moe_conformer/lattice"

PARAMETERS = {
    "DenseFsaVec": "log_probs supervision_segments allow_truncate",
    "Fsa": "arcs aux_labels properties",
    "RaggedTensor": "shape value",
    "RnntDecodingConfig": "vocab_size decoder_history_len beam max_states max_contexts",
    "RnntDecodingStream": "fsa",
    "RnntDecodingStreams": "src_streams config",
    "RnntDecodingStreams.format_output": "num_frames allow_partial",
    "add_epsilon_self_loops": "fsa ret_arc_map",
    "arc_sort": "fsa ret_arc_map",
    "connect": "fsa",
    "intersect_dense_pruned": "a_fsas b_fsas search_beam output_beam min_active_states max_active_states "
    "seqframe_idx_name frame_idx_name",
    "intersect_device": "a_fsas b_fsas b_to_a_map sorted_match_a ret_arc_maps",
    "invert": "fsa ret_arc_map",
    "linear_fsa": "labels device",
    "random_paths": "fsas use_double_scores num_paths",
    "shortest_path": "fsa use_double_scores",
}
"""What k2 1.23.4 and 1.24.4 both take. Only the newer one's intersect_dense_pruned has allow_partial as well."""


def calls(file: Path) -> list[tuple[str, int, set[str]]]:
    """k2's functions that a file calls: name, number of arguments by place, names of the others."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = ast.unparse(node.func.value), node.func.attr
            if owner == "k2" or name == "format_output":
                name = f"RnntDecodingStreams.{name}" if name == "format_output" else name
                found.append((name, len(node.args), {str(keyword.arg) for keyword in node.keywords}))
    return found


def test_calls_fit_both_versions_of_k2() -> None:
    found = calls(PACKAGE / "k2_engine.py")
    assert len(found) >= 5
    for name, by_place, by_name in found:
        parameters = PARAMETERS[name].split()
        assert by_place <= 2, f"{name}: what comes later has other places in other versions"
        assert by_name <= set(parameters[by_place:]), name


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_installed_k2_takes_them(name: str) -> None:
    k2 = pytest.importorskip("k2")
    function = k2
    for part in name.split("."):
        function = getattr(function, part)
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        assert all(parameter in (function.__init__.__doc__ or "") for parameter in PARAMETERS[name].split()[:-1])
        return
    assert [p for p in parameters if p != "self"][: len(PARAMETERS[name].split())] == PARAMETERS[name].split()


@pytest.mark.parametrize(("vocab_size", "modified"), [(50, False), (500, True)])
def test_the_best_paths_score_is_what_k2_itself_says(vocab_size: int, modified: bool) -> None:
    """Scores of lattices are looked up again, so that their equality with the other engine's would not show it."""
    pytest.importorskip("k2")
    module = importlib.import_module("shared_moe_conformer.lattice.k2_engine")
    log_probs, lens = peaked_log_probs(32, 60, vocab_size, seed=4), torch.arange(29, 61)
    graph, beams = ctc_topology(vocab_size, modified=modified), Beams(15.0, 8.0, 7000)
    fsas = module._intersected(log_probs, lens, graph, beams)
    totals = fsas.get_tot_scores(use_double_scores=True, log_semiring=False).tolist()
    paths = best_paths(lattice_engine("k2"), log_probs, lens, graph, beams)
    assert [path.score for path in paths] == pytest.approx(totals, abs=1e-3)


def test_what_could_take_too_much_memory_is_searched_with_fewer_states(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """900 arcs a frame if all of 30 states are active; an utterance with more frames than fit, and two that fit."""
    pytest.importorskip("k2")
    warn_once.cache_clear()
    module = importlib.import_module("shared_moe_conformer.lattice.k2_engine")
    log_probs, lens = peaked_log_probs(3, 40, 30, seed=1), torch.tensor([10, 40, 10])
    graph, beams = ctc_topology(30, modified=False), Beams(15.0, 8.0, 7000)
    engine = lattice_engine("k2")
    expected = engine.lattices(log_probs, lens, graph, beams, max_arcs=10**6)
    assert not caplog.records
    monkeypatch.setattr(module, "MAX_ARCS", 900 * 20)
    groups, search = [], module._intersected

    def counting(log_probs, lens, graph, beams):
        groups.append((lens.tolist(), beams.max_active))
        return search(log_probs, lens, graph, beams)

    monkeypatch.setattr(module, "_intersected", counting)
    found = engine.lattices(log_probs, lens, graph, beams, max_arcs=10**6)
    assert groups == [([10], 7000), ([40], 15), ([10], 7000)]
    assert [lattice.num_arcs for lattice in found] == pytest.approx([lattice.num_arcs for lattice in expected], rel=0.1)
    assert "smaller --max-active" in caplog.text
    monkeypatch.setattr(module, "MAX_ARCS", 900)
    assert [lattice is None for lattice in engine.lattices(log_probs, lens, graph, beams, max_arcs=10**6)] == [
        False,
        True,
        False,
    ]
