"""Notebooks run from top to bottom on the bundled traces, and are committed with their outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need: pip install 'migkit[notebook]'")
nbclient = pytest.importorskip("nbclient", reason="notebooks need: pip install 'migkit[dev]'")

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_notebook_runs_and_says_what_it_said(path):
    notebook = nbformat.read(path, as_version=4)
    committed = [_texts(cell) for cell in notebook.cells]
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert [_texts(cell) for cell in notebook.cells] == committed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_reads_well(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert cells[0].cell_type == "markdown"
    assert "?" in cells[0].source, "the question comes first"
    assert cells[-1].cell_type == "markdown", "the answer comes last"
    assert all(len(cell.source.splitlines()) <= 12 for cell in code), "short cells"
    assert sum(bool(cell.outputs) for cell in code) >= len(code) // 2
    assert not any("/tmp/" in str(cell.outputs) or "Traceback" in str(cell.outputs) for cell in code)


def _texts(cell) -> list[str]:
    """The plain text of tables and prints; objects' addresses and pictures left out."""
    if cell.cell_type != "code":
        return []
    found = []
    for output in cell.outputs:
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        found.append("" if "0x" in text or text.startswith(("<Figure", "[<Axes", "<Axes")) else text)
    return found
