"""Notebook 03 in a real JupyterLab: a slider moves, and the picture follows."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = "03-tune.ipynb"
# Chromium speaks to nobody but the server of the test.
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1400,1600",
)  # fmt: skip
PICTURES = "return [...document.querySelectorAll('.jp-OutputArea img.widget-image')].map(image => image.src)"
# Cells out of sight have elements too; no questions about news.
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    selenium = None
    with contextlib.suppress(ImportError):
        from selenium import webdriver as selenium
    if not (chromium and driver and selenium):
        if os.environ.get("MIGKIT_REQUIRE_BROWSER"):
            pytest.fail("the browser test needs chromium, chromium-driver and the Python package selenium")
        pytest.skip("needs a browser: apt-get install chromium chromium-driver, then pip install 'migkit[dev]'")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for word in QUIET:
        options.add_argument(word)
    found = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def lab_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab on a copy of the notebooks, on a free port of this machine."""
    pytest.importorskip("jupyterlab", reason="needs: pip install 'migkit[notebook]'")
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / NOTEBOOK, folder / "notebooks")
    (folder / "data").symlink_to(ROOT / "data")
    for place, text in SETTINGS.items():
        settings = folder / "settings" / "@jupyterlab" / f"{place}.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
             "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--LabApp.news_url=",
             "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    own = {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "own"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
    }
    log = (folder / "log").open("w")
    server = subprocess.Popen(words, cwd=folder, env=os.environ | own, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/lab"
    try:
        _wait(lambda: _answers(url), 60, f"JupyterLab did not start: {folder / 'log'}")
        yield url
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as page:
            return bool(page.status == 200)
    except (URLError, OSError):
        return False


def _wait(holds, seconds: float, otherwise: str):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.25)
    raise AssertionError(otherwise)


def test_a_slider_of_the_notebook_moves_the_picture(browser, lab_url, tmp_path):
    browser.get(f"{lab_url}/tree/notebooks/{NOTEBOOK}?reset")
    _wait(lambda: browser.execute_script("return !!document.querySelector('.jp-Notebook .jp-Cell')"), 60, "no notebook")
    _run_all(browser)
    before = _wait(lambda: browser.execute_script(PICTURES), 240, "the sliders' picture never came")
    handle = browser.find_element("css selector", ".jp-OutputArea .widget-slider .noUi-handle")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
    handle.click()
    handle.send_keys(_RIGHT)
    after = _wait(lambda: (now := browser.execute_script(PICTURES)) != before and now, 30, "the picture did not change")
    assert len(after) == len(before)
    screenshot = tmp_path / "notebook.png"
    browser.save_screenshot(str(screenshot))
    assert _colours(screenshot.read_bytes()) > 20
    if keep := os.environ.get("MIGKIT_SCREENSHOT"):
        shutil.copy(screenshot, keep)


_RIGHT = "\ue014"


def _run_all(browser) -> None:
    """By the menu, as a person would."""
    menu = "//li[contains(@class,'lm-MenuBar-item')]//div[text()='Run']"
    _wait(lambda: browser.find_elements("xpath", menu), 30, "no menu")[0].click()
    item = "//li[@data-command='runmenu:run-all']"
    _wait(lambda: browser.find_elements("xpath", item), 10, "no 'Run All Cells' in the menu")[0].click()


def _colours(png: bytes) -> int:
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB").resize((300, 300))
    return len(set(picture.getdata()))
