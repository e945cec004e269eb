from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.reporting.experts import (
    ExpertUsage,
    collapsed_experts,
    evenness,
    expert_charts,
    expert_layer_names,
    groups_map,
    groups_table,
    usage_history,
    usage_map,
    usage_over_time,
    usage_table,
)
from shared_moe_conformer.reporting.records import Series, read_history
from tests.reporting.conftest import CONFIG

ENCODER = CONFIG.model.encoder
USAGE = ExpertUsage(["layer 1", "layer 2"], [[25.0, 75.0, 100.0], [199.0, 1.0, 0.0]])


def texts(picture: str, name: str = "text") -> list[str]:
    return [str(e.text) for e in ElementTree.fromstring(picture).iter(f"{{http://www.w3.org/2000/svg}}{name}")]


def test_layers_have_names_in_the_order_of_depth() -> None:
    def names(experts_in: str) -> list[str]:
        return expert_layer_names(EncoderConfig(group_sizes=(2, 1), experts_in=experts_in))  # type: ignore[arg-type]

    assert names("none") == []
    assert names("first") == ["layer 1", "layer 2", "layer 3"]
    assert names("both")[:3] == ["layer 1, first", "layer 1, second", "layer 2, first"]


def test_evenness_is_one_for_equal_shares_and_zero_for_one_expert() -> None:
    assert evenness([0.25] * 4) == pytest.approx(1)
    assert f"{evenness([1.0, 0.0, 0.0]):.2f}" == "0.00" and evenness([1.0]) == 1
    assert evenness([0.5, 0.5, 0.0, 0.0]) == pytest.approx(0.5)


def test_the_table_shows_shares() -> None:
    head, first, second = usage_table(USAGE).splitlines()
    assert first.split() == ["layer", "1", "12.5%", "37.5%", "50.0%", "0.887"]
    assert second.split()[2:5] == ["99.5%", "0.5%", "0.0%"]


def test_the_map_has_a_cell_for_each_expert_and_outlines_the_unused() -> None:
    picture = usage_map(USAGE, title="a & b")
    assert [text for text in texts(picture) if text.endswith("%")] == ["12 %", "38 %", "50 %", "100 %", "0 %", "0 %"]
    assert picture.count("stroke: var(--bad)") == 2
    assert "layer 2, expert 2: 0.50% of the frames" in texts(picture, "title")


def test_groups_have_a_row_each_in_every_layer() -> None:
    other = ExpertUsage(USAGE.layers, [[100.0, 75.0, 25.0], [199.0, 1.0, 0.0]])
    lines = groups_table({"cs": USAGE, "nl": other}, by="language").splitlines()
    assert lines[0] == "layer 1: the language explains 11.0% of the choice of experts", "0.174 of 1.579 bits"
    assert lines[1].split() == ["cs", "12.5%", "37.5%", "50.0%"] and lines[2].split()[1] == "50.0%"
    assert lines[3] == "layer 2: the language explains 0.0% of the choice of experts"
    picture = groups_map({"cs": USAGE, "nl": other}, title="t")
    assert [text for text in texts(picture) if text.isdigit()][:6] == ["12", "38", "50", "100", "0", "0"]
    assert {"layer 1", "layer 2", "cs", "nl"} < set(texts(picture))
    assert "nl, layer 1, expert 3: 12.5% of the frames" in texts(picture, "title")


def test_over_time_there_is_a_column_for_each_moment_up_to_a_limit() -> None:
    moment = [[0.2, 0.8], [0.5, 0.5], [0.0, 1.0]]
    for count, columns in ((1, 1), (5, 5), (500, 60)):
        when = [f"epoch {n + 1}" for n in range(count)]
        picture = usage_over_time(["a", "b", "c"], [moment] * count, when=when)
        titles = [title for title in texts(picture, "title") if "expert 1" in title]
        assert len(titles) == 3 * columns
        assert titles[-1] == f"c, expert 1, epoch {count}: 0.0%"


def test_shares_are_put_together_by_layer_and_expert(exp_dir: Path) -> None:
    usage = usage_history(read_history(exp_dir), "dev")
    assert usage is not None and usage.steps == [10, 20, 30]
    assert usage.shares[0][1] == pytest.approx([0.6, 0.395, 0.005])
    assert usage_history(read_history(exp_dir), "train") is None
    lacking = read_history(exp_dir)
    del lacking["dev_expert_share/feed_forward_00/expert_0"]
    assert usage_history(lacking, "dev") is None


def test_the_usage_is_drawn_at_the_end_and_over_time(exp_dir: Path) -> None:
    at_the_end, over_time = expert_charts(read_history(exp_dir), ENCODER)
    assert "Share of the dev frames, epoch 3" in str(at_the_end) and "Evenness" in str(at_the_end)
    assert "layer 2, expert 1, epoch 2: 60.0%" in str(over_time)


def test_many_layers_are_summed_up_in_three_curves() -> None:
    history = {
        f"dev_expert_share/feed_forward_{layer:02d}/expert_{expert}": Series([1, 2], [0.5, 0.5])
        for layer in range(12)
        for expert in range(2)
    }
    charts = expert_charts(history, EncoderConfig(group_sizes=(12,), num_experts=2))
    assert "least even layer" in str(charts[0]) and "layer 12" in str(charts[0])


def test_without_experts_there_is_nothing() -> None:
    assert expert_charts({"dev/loss": Series([1], [1.0])}, EncoderConfig(experts_in="none")) == []
    assert collapsed_experts({}, EncoderConfig()) == []


def test_collapsed_experts_are_named(exp_dir: Path) -> None:
    history = read_history(exp_dir)
    assert collapsed_experts(history, ENCODER) == ["layer 2, expert 3: 0.50% of the dev frames of the last validation"]
    logged = {**history, "collapsed_expert/feed_forward_00/expert_1": Series([200], [0.002])}
    first, second = collapsed_experts(logged, ENCODER)
    assert first == "layer 1, expert 2: 0.20% of the frames of 200 updates up to update 200"
