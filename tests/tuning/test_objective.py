"""What is asked for, in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from migkit.errors import UsageError
from migkit.tuning.objective import DEFAULT, parse

FIGURES = pd.DataFrame({
    "false_abort_ratio": [0.0, 0.0, 0.5, np.nan], "missed_ratio": [0.2, 0.0, 0.0, 0.0],
    "regret_p50_ratio": [0.1, 0.3, 0.0, 0.2], "time_to_action_p50_s": [10.0, 20.0, 5.0, np.nan],
})  # fmt: skip


def test_the_default_is_fewest_missed_then_least_regret_without_a_false_abort():
    assert parse(DEFAULT).order(FIGURES).tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("minimise time_to_action", [2, 0, 1, 3]),
        ("maximise time_to_action", [1, 0, 2, 3]),
        ("minimise time_to_action where false_abort_ratio == 0", [0, 1, 3, 2]),
        ("minimise regret where missed_ratio <= 10% and false_abort_ratio <= 0.5", [2, 3, 1, 0]),
        ("minimize missed_ratio, maximise regret", [1, 3, 2, 0]),
    ],
)
def test_settings_are_ordered_by_goals_within_conditions(text, order):
    assert parse(text).order(FIGURES).tolist() == order


def test_it_reads_as_it_was_meant():
    text = "minimise time_to_action where implied_downtime_p95_ms <= 900 and false_abort_ratio == 0"
    assert str(parse(text)) == text.replace("time_to_action", "time_to_action_p50_s")
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time_to_action", "write 'minimise FIGURE'"),
        ("minimise speed", "unknown figure 'speed'"),
        ("minimise time_to_actoin", "did you mean 'time_to_action'"),
        ("minimise missed_ratio where false_abort", "write a condition as FIGURE <= NUMBER"),
        ("minimise missed_ratio where false_abort_ratio < 1.2.3", "is not a number"),
    ],
)
def test_an_objective_that_cannot_be_read_is_refused_in_a_line(text, says):
    with pytest.raises(UsageError, match=says):
        parse(text)
