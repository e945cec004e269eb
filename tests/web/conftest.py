"""A real browser without a screen, and a server with the tiny model."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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


@pytest.fixture(scope="session")
def an4() -> Bundle:
    """The model in the clone, which recognises spelled names, numbers and dates; its folder is `an4.folder`."""
    return Bundle.load(Path(__file__).resolve().parents[2] / "zoo/an4-base")


def wait_until(condition: Callable[[], object]) -> None:
    """Ask again and again, for 20 seconds at most."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


class Answer(NamedTuple):
    """What a server says."""

    status: int
    body: bytes
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(url: str, body: bytes | None = None, **headers: str) -> Answer:
    """Get an address, or post to it; `_` in a header's name stands for `-`."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers = {"Content-Type": "application/octet-stream", **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers), timeout=60) as answer:
            return Answer(answer.status, answer.read(), answer.headers)
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(), error.headers)


def post_form(url: str, *files: tuple[str, bytes], field: str = 'name="file"; filename') -> Answer:
    """Post files, given by name and content, as `curl -F file=@...` does."""
    parts = [
        f'--edge\r\nContent-Disposition: form-data; {field}="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files
    ]
    body = b"".join([*parts, b"--edge--\r\n"])
    return ask(f"{url}/transcribe", body, Content_Type="multipart/form-data; boundary=edge")


@contextlib.contextmanager
def serve_bundle(
    bundle: Bundle, folder: Path, *, max_bytes: int = 1_000_000, max_waiting: int = 16, **live: Any
) -> Iterator[str]:
    """Serve a bundle's page while the block runs; `live` are `LiveOptions`."""
    from shared_moe_conformer.web.app import Limits, LiveOptions, Server, create_app

    limits, options = Limits(max_bytes, max_waiting), LiveOptions(**live)
    app = create_app(bundle, folder, hosts=allowed_hosts("127.0.0.1"), limits=limits, live=options)
    server = Server(app)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
