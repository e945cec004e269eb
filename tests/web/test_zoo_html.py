"""The page of a zoo, from files, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shared_moe_conformer.release.zoo_index import add
from shared_moe_conformer.web.zoo_site import write_site
from tests.web.test_zoo_site import make_hostile

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

Save = Callable[..., Path]
Wait = Callable[[str], Any]

MODELS = {
    "alpha": {"corpus": "telephone", "unique_parameters": 3_000_000, "error_rates": {"test": {"greedy_search": 20.5}}},
    "beta": {"corpus": "radio", "unique_parameters": 900_000, "error_rates": {"test": {"greedy_search": 9.25}}},
    "gamma": {"corpus": "telephone", "unique_parameters": 12_000_000, "error_rates": {}},
}


@pytest.fixture
def opened(browser: Chrome, saved: Save, tmp_path: Path) -> Chrome:
    for name, facts in MODELS.items():
        add(saved(name, **facts))
    write_site(tmp_path / "zoo", tmp_path / "site")
    browser.get((tmp_path / "site" / "index.html").as_uri())
    return browser


def shown(browser: Chrome, selector: str = "#rows tr") -> list[str]:
    script = f"return [...document.querySelectorAll('{selector}')].filter((n) => !n.hidden).map((n) => n.dataset.name)"
    return browser.execute_script(script)


def click_head(browser: Chrome, name: str) -> str:
    """Click a column's head; how it says that it is sorted."""
    script = "const head = heads.find((h) => h.textContent === arguments[0]); head.querySelector('button').click();"
    return browser.execute_script(f"{script} return head.getAttribute('aria-sort')", name)


@pytest.mark.slow
def test_the_table_is_searched_and_sorted(opened: Chrome) -> None:
    assert shown(opened) == ["alpha", "beta", "gamma"]
    assert opened.find_element("id", "count").text == "3 models"
    query = opened.find_element("id", "query")
    query.send_keys("TELE")
    assert shown(opened) == shown(opened, "#models article") == ["alpha", "gamma"]
    assert opened.find_element("id", "count").text == "2 of 3 models"
    query.send_keys(" gam")
    assert shown(opened) == ["gamma"]
    query.clear()
    opened.execute_script("search()")
    for column, rising in (("unique", ["beta", "alpha", "gamma"]), ("WER", ["beta", "alpha", "gamma"])):
        assert click_head(opened, column) == "ascending"
        assert shown(opened) == shown(opened, "#models article") == rising
        assert click_head(opened, column) == "descending"
        assert shown(opened) == rising[::-1]
    click_head(opened, "name")
    assert shown(opened) == ["alpha", "beta", "gamma"]


@pytest.mark.slow
def test_the_recording_can_be_played_and_nothing_is_refused(opened: Chrome, wait: Wait) -> None:
    wait("[...document.querySelectorAll('audio')].every((audio) => audio.readyState >= 1)")
    assert opened.execute_script("return document.querySelector('audio').duration") == pytest.approx(2.0, abs=0.01)
    opened.execute_script("document.querySelector('audio').play()")
    wait("document.querySelector('audio').currentTime > 0.05")
    bars = "document.querySelectorAll('#model-alpha .chart rect').length"
    assert opened.execute_script(f"return {bars}") == 1
    opened.find_element("css selector", "#rows a").click()
    assert opened.current_url.endswith("index.html#model-alpha")
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_hostile_models_run_nothing(browser: Chrome, saved: Save, tmp_path: Path, wait: Wait) -> None:
    make_hostile(saved("hostile"))
    write_site(tmp_path / "zoo", tmp_path / "site")
    browser.get((tmp_path / "site" / "index.html").as_uri())
    wait("document.querySelector('audio').readyState >= 1")  # an alert would stop this
    assert browser.execute_script("return document.querySelectorAll('script, img, iframe').length") == 1
    assert shown(browser) == ["hostile"]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
