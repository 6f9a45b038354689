"""What every test may use: the bundled traces."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest

import migkit as mk

mpl.use("agg")
TRACES = Path(__file__).parents[1] / "data" / "traces"


@pytest.fixture(scope="session")
def bundled() -> dict[str, mk.Trace]:
    """The traces of data/traces by name."""
    return {trace.name: trace for trace in mk.open_dataset(TRACES)}


@pytest.fixture(autouse=True)
def _close_figures() -> object:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
