"""The live button of the page that recognises speech, in a real browser with a recording as its microphone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from shared_moe_conformer.bundle import Bundle
from tests.web.conftest import serve_bundle

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

Wait = Callable[[str], Any]
NO_ERROR = "document.getElementById('error').textContent"


@pytest.fixture
def opened(browser: Chrome, saved: Callable[..., Path], tiny_bundle: Bundle, wait: Wait) -> Iterator[Chrome]:
    for package in ("fastapi", "uvicorn", "wsproto"):
        pytest.importorskip(package)
    with serve_bundle(tiny_bundle, saved(), chunk_size=8, left_context=16) as url:
        browser.get(url)
        wait("state.model !== null")
        yield browser
        browser.get("about:blank")


@pytest.mark.slow
def test_words_appear_while_one_speaks(opened: Chrome, wait: Wait, tiny_bundle: Bundle) -> None:
    opened.execute_script(
        "window.sent = []; const send = WebSocket.prototype.send;"
        "WebSocket.prototype.send = function (data) { if (data !== 'Done') sent.push(...data); send.call(this, data); }"
    )
    button = opened.find_element("id", "live")
    button.click()
    early = wait("document.getElementById('live-partial').textContent")
    assert early and wait("document.querySelector('#pictures rect[data-expert]')")
    assert wait("document.getElementById('level-bar').style.transform !== 'scaleX(0.000)'")
    wait(f"{NO_ERROR} || document.getElementById('live-partial').textContent.length > {len(early)}")
    assert opened.execute_script(f"return {NO_ERROR}") == ""
    assert opened.execute_script("return document.getElementById('record').disabled")
    button.click()
    wait("document.getElementById('status').textContent === 'Done.'")
    assert opened.execute_script("return document.getElementById('live-partial').textContent") == ""
    texts, facts = (
        opened.execute_script(f"return [...document.querySelectorAll('#live-words .{part}')].map((w) => w.textContent)")
        for part in ("text", "facts")
    )
    recognizer = tiny_bundle.recognizer(chunk_size=8, left_context=16)
    stream, experts = recognizer.stream(), []
    stream.add(np.array(opened.execute_script("return sent"), dtype=np.float32), 16000)
    stream.end()
    while recognizer.step([stream]):
        experts.append(stream.expert_ids)
    assert opened.execute_script("return state.found.experts.segments") == [
        {"start": 0, "expert_ids": torch.cat(experts, dim=1).tolist()}
    ]
    drawn = opened.execute_script("return state.lines.map((line) => [line.from, line.span])")
    assert drawn[0][0] == 0 and sum(span for _, span in drawn) >= stream.seconds - 1e-6
    words = [word for segment in stream.pop_segments() for word in segment.transcript.words]
    assert words and texts == [word.text for word in words]
    assert [fact.split(" s")[0] for fact in facts] == [f"{w.start:.2f}\u2013{w.end:.2f}" for w in words]
    assert all("% sure" in fact for fact in facts)
    assert button.text == "Live" and opened.find_element("id", "record").is_enabled()
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_a_model_that_cannot_stream_has_no_live_button(browser: Chrome, served: str, wait: Wait) -> None:
    browser.get(served)
    wait("state.model !== null")
    assert not browser.find_element("id", "live").is_displayed()
    assert browser.execute_script("return state.model.why_not_live").startswith("tiny was not trained to stream")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["live", "record"])
def test_a_double_click_begins_once_and_a_file_waits(opened: Chrome, wait: Wait, name: str) -> None:
    opened.execute_script(
        "return fetch('example.wav').then((answer) => answer.blob()).then((blob) => {"
        " Object.assign($('audio'), { src: URL.createObjectURL(blob), loop: true }); return $('audio').play(); })"
    )
    opened.execute_script(
        "window.begun = 0; for (const name of ['WebSocket', 'MediaRecorder']) { const Plain = window[name];"
        " window[name] = class extends Plain { constructor(...given) { super(...given); begun += 1; } }; }"
        f"const button = document.getElementById('{name}'); button.click(); button.click();"
    )
    wait(f"document.getElementById('{name}').textContent === 'Stop'")
    opened.execute_script("return new Promise((go) => setTimeout(go, 300))")
    assert opened.execute_script("return begun") == 1
    assert opened.execute_script("return $('audio').paused"), "otherwise the microphone hears it"
    assert not opened.execute_script("take([new File(['x'], 'x.wav')]); return state.busy")
    opened.find_element("id", name).click()
    wait("document.getElementById('status').textContent.startsWith('Done')")


@pytest.mark.slow
def test_a_server_that_has_gone_is_said(opened: Chrome, wait: Wait) -> None:
    opened.execute_script(
        "window.WebSocket = class extends EventTarget {"
        " constructor() { super(); this.readyState = 3;"
        " setTimeout(() => this.dispatchEvent(new CloseEvent('close', { code: 1012 }))); } close() {} }"
    )
    opened.find_element("id", "live").click()
    said = wait(NO_ERROR)
    assert said == "Not recognised: the program that recognises speech does not answer: is it still running?"
    assert opened.find_element("id", "live").text == "Live"


@pytest.mark.slow
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_the_page_resamples_in_parts_as_in_one(opened: Chrome, rate: int) -> None:
    script = """
        const [rate, pitch, sizes] = arguments, resample = resampler(rate), outputs = [];
        const tone = Float32Array.from({ length: rate / 2 }, (_, i) => Math.sin(2 * Math.PI * pitch * i / rate));
        let at = 0;
        for (const size of sizes) { outputs.push(...resample(tone.subarray(at, at + size))); at += size; }
        return outputs;
    """
    sizes = [1, 2, 3, 1000, 2048, rate]
    found = np.array(opened.execute_script(script, rate, 1000, sizes))
    assert abs(len(found) - 8000) <= 40
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(found)) / 16000)
    np.testing.assert_allclose(found[40:], expected[40:], atol=5e-3)
    if rate > 16000:
        above = np.array(opened.execute_script(script, rate, 10000, sizes))
        assert np.abs(above[40:-40]).max() < 0.02
