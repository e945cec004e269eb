"""A real browser without a screen, and a server with the tiny model."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.serve import allowed_hosts, listen
from shared_moe_conformer.speech.audio import write_wav

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

SECONDS = 120.0
"""Longest wait for anything in a page, on a machine that is busy with other tests."""


@pytest.fixture(scope="session")
def microphone(tmp_path_factory: pytest.TempPathFactory, tones: np.ndarray) -> Path:
    """What the browser's microphone hears, again and again."""
    path = tmp_path_factory.mktemp("microphone") / "tones.wav"
    write_wav(path, np.tile(tones, 5), sampling_rate=16000)
    return path


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory, microphone: Path) -> Iterator[Chrome]:
    """Chromium, driven through chromedriver."""
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in found.values():
        pytest.skip("no chromium and chromedriver (Debian: chromium, chromium-driver): requirements/chromium.sh")
    webdriver: Any = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    for argument in (
        "headless=new",
        "no-sandbox",  # which root needs
        "disable-dev-shm-usage",
        "disable-gpu",
        "window-size=1200,1000",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
        "autoplay-policy=no-user-gesture-required",
        "use-fake-ui-for-media-stream",
        "use-fake-device-for-media-stream",
        f"use-file-for-fake-audio-capture={microphone}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = start(lambda: webdriver.Chrome(options=options, service=webdriver.ChromeService(found["chromedriver"])))
    driver.set_script_timeout(SECONDS)
    yield driver
    driver.quit()


def start(browser: Callable[[], Chrome]) -> Chrome:
    """The browser; on a busy machine it may need more time than chromedriver gives it, and is asked again."""
    from selenium.common.exceptions import WebDriverException

    for _ in range(2):
        with contextlib.suppress(WebDriverException):
            return browser()
    return browser()


@pytest.fixture
def browser(chrome: Chrome) -> Iterator[Chrome]:
    """The browser, on an empty page and with an empty log."""
    chrome.get("about:blank")
    chrome.get_log("browser")
    yield chrome
    chrome.get("about:blank")


@pytest.fixture
def wait(browser: Chrome) -> Callable[[str], Any]:
    """Wait until a JavaScript expression is true; what it is then."""
    from selenium.webdriver.support.ui import WebDriverWait

    return lambda expression: WebDriverWait(browser, SECONDS, 0.05).until(
        lambda driver: driver.execute_script(f"return {expression}"), message=expression
    )


@pytest.fixture
def served(saved: Callable[..., Path], tiny_bundle: Bundle) -> Iterator[str]:
    """The URL at which the tiny model's page is served; uploads have 1 MB at most."""
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        pytest.skip("fastapi and uvicorn are not installed")
    with serve_bundle(tiny_bundle, saved()) as url:
        yield url


@contextlib.contextmanager
def serve_bundle(bundle: Bundle, folder: Path, **live: Any) -> Iterator[str]:
    """Serve a bundle's page while the block runs; `live` are `LiveOptions`."""
    import uvicorn

    from shared_moe_conformer.web.app import LiveOptions, create_app

    hosts = allowed_hosts("127.0.0.1")
    app = create_app(bundle, folder, max_bytes=1_000_000, hosts=hosts, live=LiveOptions(**live))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
