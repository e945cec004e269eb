from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

import pytest
import torch

from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.decoding.comparison import decode_batches
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.scoring import word_error_rate
from shared_moe_conformer.decoding.searches import resolved
from shared_moe_conformer.decoding.tuned_values import tuned_as, with_values
from shared_moe_conformer.decoding.tuning import (
    CoordinateSearch,
    Found,
    Searcher,
    encode_split,
    grids_of,
    require_not_test,
    tune,
    worth_tuning,
)

from .test_methods import RESOURCES

GRIDS = {"hlg_scale": (0.1, 0.3, 0.5, 1.0), "blank_penalty": (0.0, 1.0, 2.0, 3.0)}
START = {"hlg_scale": 1.0, "blank_penalty": 0.0}
Values = Mapping[str, float]


class Table:
    """Errors at every setting, and how often each was asked for."""

    def __init__(self, errors: Mapping[tuple[float, ...], int]) -> None:
        self.errors = errors
        self.asked: list[tuple[float, ...]] = []

    def __call__(self, settings: Sequence[Values]) -> list[int]:
        points = [tuple(values.values()) for values in settings]
        self.asked += points
        return [self.errors[point] for point in points]


def points() -> list[tuple[float, ...]]:
    return list(itertools.product(*GRIDS.values()))


@pytest.mark.parametrize("seed", range(20))
def test_where_options_do_not_depend_on_each_other_it_finds_what_brute_force_finds(seed: int) -> None:
    rng = random.Random(seed)
    parts = [{value: rng.randrange(4) for value in grid} for grid in GRIDS.values()]
    table = Table({point: sum(part[value] for part, value in zip(parts, point)) for point in points()})
    best = CoordinateSearch(START, GRIDS, table).best()

    def rank(point: tuple[float, ...]) -> tuple[int, int]:
        steps = zip(GRIDS.values(), point, START.values())
        return table.errors[point], sum(abs(grid.index(value) - grid.index(start)) for grid, value, start in steps)

    assert rank(tuple(best.values())) == min(map(rank, points()))
    assert len(table.asked) == len(set(table.asked)) < len(points())


@pytest.mark.parametrize("seed", range(20))
def test_in_any_table_no_single_option_can_be_bettered(seed: int) -> None:
    rng = random.Random(seed)
    table = Table({point: rng.randrange(6) for point in points()})
    best = CoordinateSearch(START, GRIDS, table).best()
    for name, grid in GRIDS.items():
        assert table([best]) <= [min(table([{**best, name: value} for value in grid]))]
    assert table([best]) <= table([START])


def test_options_that_depend_on_each_other_are_tried_again() -> None:
    """Less of the graph pays only once blank is punished, and then a larger penalty does."""
    errors = dict.fromkeys(points(), 9) | {(1.0, 1.0): 8, (0.5, 1.0): 7, (0.5, 3.0): 5}
    assert CoordinateSearch(START, GRIDS, Table(errors)).best() == {"hlg_scale": 0.5, "blank_penalty": 3.0}


def test_ties_go_to_the_default_or_the_nearest_to_it() -> None:
    assert CoordinateSearch(START, GRIDS, Table(dict.fromkeys(points(), 3))).best() == START
    low = {point: 5 - (point[0] < 1.0) for point in points()}
    assert CoordinateSearch(START, GRIDS, Table(low)).best() == {"hlg_scale": 0.5, "blank_penalty": 0.0}


@pytest.mark.parametrize(
    ("errors", "best", "tried"),
    [
        ({4: 5, 8: 5, 16: 1}, 4, {4, 8}),  # a larger beam must pay at once
        ({4: 5, 8: 4, 16: 4}, 8, {4, 8, 16}),
        ({4: 5, 8: 4, 16: 3}, 16, {4, 8, 16}),
        ({2: 0, 4: 5, 8: 6, 16: 6}, 4, {4, 8}),  # never a smaller one
    ],
)
def test_the_beam_comes_last_and_only_grows(errors: dict[int, int], best: int, tried: set[int]) -> None:
    def count(settings: Sequence[Values]) -> list[int]:
        return [errors[int(v["beam_size"])] + (v["blank_penalty"] != 1.0) for v in settings]

    grids = {"beam_size": tuple(errors), "blank_penalty": (0.0, 1.0)}
    search = CoordinateSearch({"blank_penalty": 0.0, "beam_size": 4}, grids, count)
    assert search.best() == {"blank_penalty": 1.0, "beam_size": best}
    assert {beam for _, beam in search.tried} == tried
    assert all(penalty == 1.0 for penalty, beam in search.tried if beam > 4)


@pytest.mark.parametrize("split", ["test", "test-clean", "test_other", "Test", "tests"])
def test_a_test_set_is_refused(split: str) -> None:
    with pytest.raises(ValueError, match=f"--tune {split}: .*tune on dev"):
        require_not_test(split)
    require_not_test("dev")
    require_not_test(f"dev-{split}")


def test_what_is_given_keeps_its_value() -> None:
    beam = DecodingConfig("modified_beam_search", hotwords=("STAR",))
    assert list(grids_of(beam, {})) == ["hotwords_score", "blank_penalty", "beam_size"]
    assert list(grids_of(beam, {"blank_penalty": 0.0, "hotwords": ("STAR",)})) == ["hotwords_score", "beam_size"]
    rescoring = DecodingConfig("nbest_rescoring")
    assert grids_of(rescoring, {"lm_scales": (0.2, 0.4)})["lm_scales"] == (0.2, 0.4)
    assert list(grids_of(rescoring, {"lm_scales": (0.2,)})) == ["hlg_scale"]


def test_of_all_each_method_is_tuned_once_and_no_oracle() -> None:
    found = worth_tuning(resolved(DecodingConfig("all"), vocab_size=7), {})
    methods = [tuned_as(config) for config in found]
    assert len(methods) == len(set(methods)) and "1best" in methods and "greedy_search" in methods
    assert "nbest_lm_rescore:H" in methods and "nbest_lm_rescore" in methods
    assert not {"ctc_greedy_search", "nbest_oracle", "fast_beam_search_nbest_oracle"} & set(methods)
    assert not {"1best:H", "nbest:H"} & set(methods)
    with pytest.raises(ValueError, match="nothing to tune"):
        worth_tuning([DecodingConfig()], {"blank_penalty": 0.0})


def test_errors_are_those_of_decoding_and_the_encoder_runs_once(make_model, monkeypatch, capsys) -> None:
    model = make_model(7)
    generator = torch.Generator().manual_seed(0)
    lens = [90, 60, 70, 40]
    batches = [
        AsrBatch(
            torch.randn(2, max(pair), 80, generator=generator),
            torch.tensor(pair),
            torch.ones(2, 1, dtype=torch.int64),
            torch.ones(2, dtype=torch.int64),
            ["a", "b"],
            ["5 4 3 5 1", "3 C"],
        )
        for pair in (lens[:2], lens[2:])
    ]
    methods = ("modified_beam_search", "1best", "nbest_rescoring")
    starts = [resolved(DecodingConfig(m, lattice_engine="embedded"), vocab_size=7)[0] for m in methods]
    to_text, encode = RESOURCES.to_text, model.encode
    calls: list[int] = []
    monkeypatch.setattr(model, "encode", lambda *args: calls.append(1) or encode(*args))
    searcher = Searcher(model, encode_split(model, batches, starts[0]), to_text, RESOURCES)
    found: list[Found] = list(tune(starts, searcher, given={}))
    assert len(calls) == len(batches)
    in_chunks = encode_split(model, batches, DecodingConfig(chunk_size=4)).outputs[0].encoder_out
    assert not torch.equal(in_chunks, searcher.encoded.outputs[0].encoder_out)
    assert "tuning nbest_rescoring over HLG (embedded) (3 of 3)" in capsys.readouterr().err
    assert [result.method for result in found] == list(methods)
    assert found[2].table.startswith("nbest_rescoring over HLG (embedded)\n")
    for start, result in zip(starts, found):
        configs = [with_values(start, result.best), start]
        decoded = decode_batches(model, batches, configs, to_text=to_text, resources=RESOURCES)
        rates = [word_error_rate(of_one.decoded).percent for of_one in decoded]
        assert [result.wer, result.default_wer] == pytest.approx(rates)
        assert result.wer <= result.default_wer
        assert "WER %" in result.table and "best" in result.table and "defaults" in result.table
