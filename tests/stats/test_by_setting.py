"""One row a setting: counted and spread as NumPy would, whether the table is whole or not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migkit.stats.settings import figures

SETTINGS = 3


def table(rows):
    made = pd.DataFrame(rows, columns=["setting", "basis", "end", "time_to_action_s", "missed", "false_abort"])
    for name in (
        "completed_after_s",
        "implied_downtime_ms",
        "regret_ratio",
        "wasted_bytes",
        "sent_before_action_bytes",
    ):
        made[name] = made["time_to_action_s"] * 2
    made["false_abort"] = made["false_abort"].astype("boolean")
    return made.assign(false_switchover=made["false_abort"])


ROW = st.tuples(
    st.sampled_from(["observed", "bounded", "unknowable"]),
    st.sampled_from(["completed", "never converged", "failed", "cut short"]),
    st.one_of(st.just(np.float32(np.nan)), st.floats(0, 300, width=32).map(np.float32)),
    st.booleans(), st.sampled_from([True, False, None]),
)  # fmt: skip


@given(st.lists(ROW, min_size=SETTINGS, max_size=18), st.booleans())
def test_figures_are_those_of_numpy(rows, whole):
    settings = np.arange(len(rows)) % SETTINGS if whole else np.sort(np.arange(len(rows)) % SETTINGS)
    made = table([(number, *row) for number, row in zip(settings, rows, strict=True)])
    found = figures(made, SETTINGS)
    for number in range(SETTINGS):
        own = made[(made["setting"] == number) & (made["basis"] != "unknowable")]
        times = own["time_to_action_s"].dropna().to_numpy(dtype=float)
        expected = np.quantile(times, [0.5, 0.95]) if len(times) else [np.nan, np.nan]
        got = found.loc[number, ["time_to_action_p50_s", "time_to_action_p95_s"]].to_numpy(dtype=float)
        np.testing.assert_allclose(got, np.asarray(expected, dtype=float), rtol=1e-6)
        assert found.loc[number, "acted"] == len(times)
        completed = own[own["end"] == "completed"]
        ratio = completed["false_abort"].fillna(False).mean() if len(completed) else np.nan
        assert found.loc[number, "false_abort_ratio"] == pytest.approx(ratio, nan_ok=True)


def test_what_cannot_be_known_is_counted_and_is_in_no_other_figure():
    made = table([(0, "unknowable", "completed", 5.0, False, True), (0, "observed", "completed", 7.0, False, False)])
    row = figures(made, 1).loc[0]
    assert (row["traces"], row["unknowable"], row["acted"], row["completed"]) == (2, 1, 1, 1)
    assert (row["false_abort_ratio"], row["time_to_action_p50_s"]) == (0, 7)
