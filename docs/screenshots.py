"""Take the pictures of the README's pages in a real Chromium: docs/serve.png, docs/zoo.png and docs/report.png.

python docs/screenshots.py --zoo-dir zoo --model an4-base --exp-dir egs/asterisk/ASR/exp/base
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.ui import WebDriverWait

from shared_moe_conformer.web.zoo_site import INDEX_PAGE, write_site

FOLDER = Path(__file__).resolve().parent
HIGHEST = 1150
"""Pixels of a picture at most."""
SECONDS = 60.0
RECOGNISED = "return !document.getElementById('result').hidden && !state.busy"
SHORTEN = "document.querySelectorAll('.cards > :nth-child(n+3)').forEach((card) => card.remove())"
"""A report with two charts of each kind."""
LOADED = "return [...document.querySelectorAll('audio')].every((audio) => audio.readyState >= 1)"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--zoo-dir", type=Path, default=Path("zoo"), help="the zoo that is shown [zoo]")
    parser.add_argument("--model", required=True, help="name of the model that is served")
    parser.add_argument("--exp-dir", type=Path, required=True, help="experiment whose report is shown")
    args = parser.parse_args()
    with chromium() as browser:
        with served(args.zoo_dir / args.model) as url:
            browser.get(url)
            browser.find_element("id", "example").click()
            photograph(browser, FOLDER / "serve.png", width=1000, when=RECOGNISED)
        with tempfile.TemporaryDirectory() as site:
            write_site(args.zoo_dir, Path(site) / "site")
            browser.get((Path(site) / "site" / INDEX_PAGE).as_uri())
            photograph(browser, FOLDER / "zoo.png", width=1200, when=LOADED)
            report = Path(site) / "report.html"
            command = [sys.executable, "-m", "shared_moe_conformer.report", str(args.exp_dir), "--output", str(report)]
            subprocess.run(command, check=True)
            browser.get(report.as_uri())
            browser.execute_script(SHORTEN)
            photograph(browser, FOLDER / "report.png", width=1120)


@contextlib.contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser without a screen."""
    options = ChromeOptions()
    options.binary_location, driver = (shutil.which(name) or name for name in ("chromium", "chromedriver"))
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    browser = Chrome(options=options, service=ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


@contextlib.contextmanager
def served(model: Path) -> Iterator[str]:
    """The address at which a model is served."""
    command = [sys.executable, "-m", "shared_moe_conformer.serve", "--model", str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split(" ")[0]
        finally:
            process.terminate()


def photograph(browser: Chrome, path: Path, *, width: int, when: str = "return true") -> None:
    """Save the page, or as much of it as a README can hold, as soon as a script says that it is complete."""
    WebDriverWait(browser, SECONDS).until(lambda driver: driver.execute_script(when))
    height = HIGHEST
    for _ in range(2):  # the page's height depends on the width
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.execute_script("return new Promise((done) => setTimeout(done, 500))")  # drawings follow it, too
        height = min(HIGHEST, browser.execute_script("return document.body.scrollHeight"))
    browser.save_screenshot(str(path))


if __name__ == "__main__":
    main()
