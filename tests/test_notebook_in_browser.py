"""Notebook 03 in a real JupyterLab: a slider moves, and its picture and its line follow."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import migkit as mk
from migkit.plot.explore import drawing

ROOT = Path(__file__).parents[1]
NOTEBOOK = "03-tune.ipynb"
# Twenty-five seconds in all on two idle cores.
SERVER_S, PAGE_S, NOTEBOOK_S = 25, 30, 75
# Chromium speaks to nobody but the server of the test.
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1400,1600",
)  # fmt: skip
# Cells out of sight have elements too; no questions about news.
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}
# A run that is asked for before the kernel answers ends in a dialog, "Select Kernel", and runs nothing.
READY = """
    const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
    return Boolean(context?.isReady) && context.session?.kernel?.status === 'idle'"""
RUN = "jupyterapp.commands.execute('notebook:run-all-cells').then(well => { window.ranWell = well })"
RAN = "return window.ranWell === undefined ? null : {well: window.ranWell}"
ERROR = """
    const said = [...document.querySelectorAll('.jp-OutputArea [data-mime-type*=err]')];
    return said.at(-1)?.textContent ?? 'a cell failed'"""
# What each box of sliders shows: its readouts, the line, the picture's pixels. Null until all of it is there.
SHOWN = """
    const shown = [...document.querySelectorAll('.jp-OutputArea .widget-vbox')].map(box => {
        const image = box.querySelector('img.widget-image'), line = box.querySelector('.widget-html pre');
        if (!image?.complete || !image.naturalWidth || !line) return null;
        const copy = document.createElement('canvas');
        copy.width = image.naturalWidth;
        copy.height = image.naturalHeight;
        copy.getContext('2d').drawImage(image, 0, 0);
        return {at: [...box.querySelectorAll('.widget-readout')].map(one => Number(one.textContent)),
                line: line.textContent, picture: copy.toDataURL()};
    });
    return shown.length && shown.every(Boolean) ? shown : null"""
_RIGHT = "\ue014"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def _tools() -> None:
    """Skips where something is missing; fails instead when MIGKIT_REQUIRE_BROWSER=1."""
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    missing += [name for name in ("selenium", "jupyterlab", "ipywidgets") if not importlib.util.find_spec(name)]
    if not missing:
        return
    reason = f"needs {', '.join(missing)}: apt-get install chromium chromium-driver; pip install 'migkit[dev,notebook]'"
    if os.environ.get("MIGKIT_REQUIRE_BROWSER") == "1":
        pytest.fail(f"MIGKIT_REQUIRE_BROWSER=1, but the test {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def lab(_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab on a copy of the notebook without its outputs."""
    folder = tmp_path_factory.mktemp("lab")
    _without_outputs(ROOT / "notebooks" / NOTEBOOK, folder / "notebooks" / NOTEBOOK)
    (folder / "data").symlink_to(ROOT / "data")
    for place, text in SETTINGS.items():
        settings = folder / "settings" / "@jupyterlab" / f"{place}.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(text)
    words = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0",
             "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]  # fmt: skip
    own = {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "own"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
    }
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(words, cwd=folder, env=os.environ | own, stdout=log, stderr=log)
    said = folder / "runtime" / f"jpserver-{server.pid}.json"
    try:
        by = time.monotonic() + SERVER_S
        _wait(lambda: said.exists() or server.poll() is not None, by, f"JupyterLab is silent: {folder / 'log'}")
        assert server.poll() is None, (folder / "log").read_text()
        yield json.loads(said.read_text())["url"] + "lab"
    finally:
        _stop(server)


@pytest.fixture(scope="module")
def browser(_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for word in QUIET:
        options.add_argument(word)
    # Chromium leaves folders behind where it keeps temporary files.
    own = os.environ | {"TMPDIR": str(tmp_path_factory.mktemp("chromium"))}
    service = webdriver.ChromeService(shutil.which("chromedriver"), env=own)
    found = webdriver.Chrome(options=options, service=service)
    found.set_page_load_timeout(PAGE_S)
    yield found
    found.quit()


def test_a_slider_of_the_notebook_moves_its_picture_and_its_line(browser, lab):
    by = time.monotonic() + NOTEBOOK_S
    browser.get(f"{lab}/tree/notebooks/{NOTEBOOK}")
    _wait(lambda: browser.execute_script(READY), by, "the notebook's kernel did not get ready")
    browser.execute_script(RUN)
    ran = _wait(lambda: browser.execute_script(RAN), by, f"the notebook did not run to its end within {NOTEBOOK_S} s")
    assert ran["well"], browser.execute_script(ERROR)
    shown = "the notebook ran, but shows no sliders with a picture: is jupyterlab_widgets in this environment?"
    before = _wait(lambda: browser.execute_script(SHOWN), by, shown)
    browser.find_element("css selector", ".jp-OutputArea .widget-vbox .noUi-handle").send_keys(_RIGHT)
    after = _wait(lambda: _moved(browser, before), by, "readout, line and picture did not all follow the slider")
    _keep_screenshot(browser)
    assert after[1:] == before[1:], "the other sliders' picture stays"
    assert [_line(*before[0]["at"]), _line(*after[0]["at"])] == [before[0]["line"], after[0]["line"]]


def _moved(browser: Any, before: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    now = browser.execute_script(SHOWN)
    return now if now and all(now[0][what] != before[0][what] for what in ("at", "line", "picture")) else None


def _line(window: float, margin: float) -> str:
    """What the notebook's first sliders should say at these values."""
    policy = mk.policy("kubevirt-1.9-stall")
    draw = drawing([mk.load(ROOT / "data" / "traces" / "long-phase-ends.parquet")], policy)
    return draw({"stall_progress_timeout": window, "stall_margin": margin})[1]


def _without_outputs(notebook: Path, copy: Path) -> None:
    content = json.loads(notebook.read_text())
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    copy.parent.mkdir()
    copy.write_text(json.dumps(content))


def _wait(holds: Callable[[], Any], by: float, otherwise: str) -> Any:
    while time.monotonic() < by:
        if found := holds():
            return found
        time.sleep(0.25)
    raise AssertionError(otherwise)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """The server stops its kernels; a kernel whose server was killed stops by itself."""
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _keep_screenshot(browser: Any) -> None:
    if place := os.environ.get("MIGKIT_SCREENSHOT"):
        box = browser.find_element("css selector", ".jp-OutputArea .widget-vbox")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
        browser.save_screenshot(place)
