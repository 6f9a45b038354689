"""Every outcome of one migration whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest

import migkit as mk
from migkit.units import MIB
from tests.made import migration

# Passes of 5 s: 500 MiB, then 100 MiB for ever; nothing improves after 5 s; ends at 155 s.
FLAT = migration([500, *[100] * 30], name="flat", outcome="cancelled", action="abort", bandwidth_mibps=50)


def one(policy, **lists):
    return mk.sweep([FLAT], policy, **lists).table.iloc[0]


def test_a_pause_at_the_deadline():
    """At 61 s (the deadline is strict, in whole seconds) the 13th pass has run for 1 s: 80 MiB are left of its 100."""
    row = one(mk.kubevirt("1.8", allow_workload_disruption=True), completion_timeout_per_gib=[60])
    assert (row["what"], row["reason"], row["basis"], row["end"]) == (
        "paused",
        "timeout",
        "observed",
        "never converged",
    )
    assert row["time_to_action_s"] == pytest.approx(61.2, abs=0.21)
    inside = (row["time_to_action_s"] % 5) / 5
    assert row["remaining_at_action_bytes"] == pytest.approx(100 * MIB * (1 - inside), rel=0.04)
    most = row["remaining_at_action_bytes"] + 100 * MIB
    assert row["regret_ratio"] == pytest.approx((most - 100 * MIB) / (500 * MIB), rel=0.03)
    assert row["sent_before_action_bytes"] == pytest.approx((500 + 1100 + 100 * inside) * MIB, rel=0.01)
    assert row["wasted_bytes"] == pytest.approx(row["sent_before_action_bytes"] - 500 * MIB, rel=0.01)
    # 20 MiB/s flow in a pass of 100 MiB in 5 s; the first pass moved 100 MiB/s.
    assert row["implied_downtime_ms"] == pytest.approx(most / (20 * MIB) * 1000, rel=0.03)
    assert row["implied_downtime_low_ms"] == pytest.approx(
        row["remaining_at_action_bytes"] / (100 * MIB) * 1000, rel=0.03
    )
    assert not row["false_switchover"]
    assert not row["missed"]
    assert np.isnan(row["completed_after_s"])


def test_a_false_abort_tells_how_soon_it_would_have_been_done():
    good = migration([500, *[100] * 8, 50, 10], name="good", outcome="completed", downtime_ms=70)
    table = mk.sweep([good], mk.kubevirt("1.8"), completion_timeout_per_gib=[20, 500]).table
    abort, alone = table.iloc[0], table.iloc[1]
    assert abort["what"] == "aborted at the deadline"
    assert abort["false_abort"]
    assert abort["completed_after_s"] == pytest.approx(55 - abort["time_to_action_s"], abs=0.01)
    assert (alone["what"], alone["implied_downtime_ms"]) == ("completes by itself", 70)
    assert np.isnan(alone["time_to_action_s"])
    assert not alone["false_abort"]


def test_a_first_limit_is_no_action_but_nothing_can_be_known_after_it():
    low = migration([500, *[100] * 30], name="low", outcome="cancelled", action="abort", limit_ms=100)
    row = mk.sweep([low], mk.policy("kubevirt-1.9-stall"), stall_margin=[4]).table.iloc[0]
    assert np.isnan(row["time_to_action_s"])
    assert row["basis"] == "unknowable"


def test_the_size_of_the_data_moves_the_deadline():
    policy = mk.kubevirt("1.8")
    table = [mk.sweep([FLAT], policy, completion_timeout_per_gib=[20], data_size_gb=n).table.iloc[0] for n in (1, 4)]
    assert [round(row["time_to_action_s"]) for row in table] == [21, 81]
