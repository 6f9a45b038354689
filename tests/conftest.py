"""What every test may use: the bundled traces."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest
from hypothesis import HealthCheck, settings

import migkit as mk

mpl.use("agg")
# A busy machine is no defect: nothing here is timed.
settings.register_profile(
    "migkit", deadline=None, max_examples=50, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("migkit")
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
