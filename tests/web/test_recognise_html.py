"""The page that recognises speech, in a real browser."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.routing import transcribe_with_experts
from shared_moe_conformer.speech.audio import write_wav
from tests.web.conftest import serve_bundle

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

Wait = Callable[[str], Any]

CELLS = """
return [...document.querySelectorAll('rect[data-expert]')].map((cell) => [
    ...['segment', 'row', 'rank', 'first', 'length', 'expert'].map((key) => Number(cell.dataset[key])),
    Number(cell.getAttribute('x')), Number(cell.getAttribute('width')), getComputedStyle(cell).fill])
"""
SHOWN = "!document.getElementById('result').hidden && !state.busy"


def upload(browser: Chrome, path: Path) -> None:
    browser.find_element("id", "file").send_keys(str(path))


@pytest.fixture
def opened(browser: Chrome, served: str, wait: Wait) -> Chrome:
    browser.get(served)
    wait("state.model !== null")
    return browser


@pytest.mark.slow
def test_a_file_gives_its_words_and_the_experts_of_its_frames(
    opened: Chrome, wait: Wait, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    path = tmp_path / "zoo" / "tiny" / TEST_WAV
    upload(opened, path)
    wait(SHOWN)
    expected = tiny_bundle.transcribe(path)
    shown = opened.execute_script("return [...document.querySelectorAll('#words .text')].map((w) => w.textContent)")
    assert shown == [word.text for word in expected.words]
    facts = opened.execute_script("return [...document.querySelectorAll('#words .facts')].map((w) => w.textContent)")
    assert [fact.split(" s")[0] for fact in facts] == [f"{w.start:.2f}\u2013{w.end:.2f}" for w in expected.words]
    sure = [word.confidence for word in expected.words]
    assert None not in sure
    assert [fact.split(" · ")[1] for fact in facts] == [f"{math.floor(100 * c + 0.5)} % sure" for c in sure]  # type: ignore[operator]
    script = "return [...document.querySelectorAll('.meter i')].map((i) => i.offsetWidth / i.parentNode.offsetWidth)"
    assert opened.execute_script(script) == pytest.approx(sure, abs=0.02)
    _, (segment,) = transcribe_with_experts(tiny_bundle, path)
    check_cells(opened.execute_script(CELLS), segment.expert_ids.numpy())
    assert opened.find_element("id", "model").text == "tiny"
    wait("document.getElementById('audio').duration > 1.9")
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


def check_cells(cells: list[list[Any]], expert_ids: np.ndarray) -> None:
    """Each frame of each layer is covered once, by its expert's colour, and time runs evenly to the right."""
    painted = np.full(expert_ids.shape, -1)
    for segment, row, rank, first, length, expert, *_ in cells:
        assert segment == 0
        assert (painted[row, first : first + length, rank] == -1).all()
        painted[row, first : first + length, rank] = expert
    np.testing.assert_array_equal(painted, expert_ids)
    colours = {(cell[5], cell[8]) for cell in cells}
    assert len(colours) == len({expert for expert, _ in colours}) == len({colour for _, colour in colours}) == 3
    firsts, lengths, x, widths = np.array([[cell[3], cell[4], *cell[6:8]] for cell in cells], dtype=float).T
    frame = widths.sum() / lengths.sum()
    np.testing.assert_allclose(widths, lengths * frame, atol=0.05)
    np.testing.assert_allclose(x - x.min(), firsts * frame, atol=0.05)


@pytest.mark.slow
def test_pointing_and_arrow_keys_tell_layer_time_and_expert(
    opened: Chrome, wait: Wait, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    from selenium.webdriver import ActionChains

    path = tmp_path / "zoo" / "tiny" / TEST_WAV
    opened.find_element("id", "example").click()
    wait(SHOWN)
    _, (segment,) = transcribe_with_experts(tiny_bundle, path)
    frame, expert = 3, int(segment.expert_ids[1, 3, 0])
    svg = opened.find_element("css selector", "#pictures svg")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    x, y = opened.execute_script(
        "const line = state.lines[0], box = line.svg.getBoundingClientRect(), scale = box.width / line.width;"
        "return [box.left + line.x(0.14) * scale, box.top + (WORDS + 1.5 * (ROW + GAP)) * scale]"
    )
    actions = ActionChains(opened)
    actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
    actions.perform()
    tip = wait("!document.getElementById('tip').hidden && document.getElementById('tip').textContent")
    assert tip.startswith(f"layer 2 (group 1) · {frame * 0.04:.2f} s · expert {expert + 1}")
    opened.execute_script("arguments[0].focus()", svg)
    actions = ActionChains(opened)
    for key in "\ue014\ue014\ue014\ue014\ue015":  # right, four times; down
        actions.send_keys(key)
    actions.perform()
    assert opened.execute_script("return document.getElementById('readout').textContent") == tip
    opened.execute_script("document.querySelector('#legend button[data-expert=\"1\"]').click()")
    chosen = opened.execute_script("return [...document.querySelectorAll('.chosen')].map((c) => c.dataset.expert)")
    assert chosen and set(chosen) == {"1"}


@pytest.mark.slow
def test_a_model_without_experts_shows_words_alone(browser: Chrome, wait: Wait) -> None:
    folder = Path(__file__).resolve().parents[2] / "zoo/an4-merged"
    with serve_bundle(Bundle.load(folder), folder) as url:
        browser.get(url)
        wait("state.model !== null")
        browser.find_element("id", "example").click()
        wait(SHOWN)
        assert browser.find_elements("css selector", "#words .text")
        assert not browser.find_element("id", "experts").is_displayed()
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_mistakes_are_told_in_the_page(opened: Chrome, wait: Wait, tmp_path: Path) -> None:
    (tmp_path / "<b>poem<b>.wav").write_text("not audio")
    write_wav(tmp_path / "long.wav", np.zeros(700_000), sampling_rate=16000)
    for name, message in (
        ("<b>poem<b>.wav", "<b>poem<b>.wav cannot be read as audio"),
        ("long.wav", "long.wav has 1.4 MB; at most 1.0 MB are taken"),
    ):
        upload(opened, tmp_path / name)
        wait(f"document.getElementById('error').textContent.includes({json.dumps(message)}) && !state.busy")
        assert opened.find_element("id", "error").is_displayed()
        assert not opened.find_element("id", "result").is_displayed()
    upload(opened, tmp_path / "zoo" / "tiny" / TEST_WAV)
    wait(SHOWN)
    assert not opened.find_element("id", "error").is_displayed()


@pytest.mark.slow
def test_what_the_microphone_hears_is_recognised(opened: Chrome, wait: Wait) -> None:
    opened.find_element("id", "record").click()
    wait("state.recorder !== null && document.getElementById('level-bar').style.transform > 'scaleX(0.01'")
    opened.execute_script("return new Promise((done) => setTimeout(done, 1500))")
    opened.find_element("id", "record").click()
    wait(SHOWN)
    found = opened.execute_script("return state.found")
    assert found["name"] == "your recording"
    assert found["seconds"] > 1
    assert found["experts"]["segments"]
    assert opened.find_element("id", "record").text == "Record"
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []
