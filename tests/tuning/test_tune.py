"""A recommendation: it finds what was planted, shows its price, and refuses what is no evidence."""

from __future__ import annotations

import pytest

import migkit as mk
from migkit.errors import MigkitError, UsageError
from migkit.tuning import tune
from tests.made import migration

POLICY = mk.policy("kubevirt-1.9-stall")
WINDOWS = range(10, 61, 5)


def plateau(length_s: int, level: int = 100) -> mk.Trace:
    """Stands still for a while, then completes by itself."""
    levels = [500, *[level] * (length_s // 5 + 1), level / 2, level / 4, 5]
    return migration(levels, name=f"plateau-{length_s}", scenario=f"plateau-{length_s}", outcome="completed")


def hopeless(level: int) -> mk.Trace:
    """Never gets below a level; aborted in the end."""
    return migration([500, *[level] * 30], name=f"flat-{level}", scenario=f"flat-{level}", outcome="cancelled",
                     action="abort")  # fmt: skip


def planted(longest_s: int) -> list[mk.Trace]:
    return [*(plateau(longest_s - less) for less in (0, 5, 10, 15)), *map(hopeless, (100, 120, 150, 200))]


@pytest.mark.parametrize("longest_s", [20, 30, 45])
def test_a_planted_optimum_is_found_within_one_step(longest_s):
    """The shortest window that outlasts every plateau acts soonest without a false abort."""
    found = mk.sweep(planted(longest_s), POLICY, stall_progress_timeout=WINDOWS)
    best = tune(found, minimise="time_to_action", where="false_abort_ratio == 0", resamples=20)
    assert abs(best.policy.options["stall_progress_timeout"] - longest_s) <= 5
    assert best.baselines.loc["recommended", "false_abort_ratio"] == 0
    assert best.doubts == ()


@pytest.fixture(scope="module")
def best():
    found = mk.sweep(planted(30), POLICY, stall_progress_timeout=WINDOWS, stall_margin=[4, 8])
    return tune(found, minimise="time_to_action", where="false_abort_ratio == 0", resamples=50)


def test_the_baselines_stand_beside_it(best):
    assert list(best.baselines.index) == ["recommended", "defaults", "HyperConverged", "VEP 248 text", "do nothing"]
    assert best.baselines.loc["do nothing", "missed_ratio"] == 1
    assert best.baselines.loc["HyperConverged", "false_abort_ratio"] > 0


def test_a_knob_that_matters_and_one_that_does_not_are_told_apart(best):
    changed = best.sensitivity.set_index("option")["changed_ratio"]
    assert changed["stall_progress_timeout"] > 0
    assert changed["stall_margin"] == 0


def test_the_front_holds_the_recommended_and_nothing_better(best):
    assert best.table.loc[best.setting, "pareto"]
    assert best.table.loc[best.setting, "rank"] == 1
    admitted = best.table[best.table["admitted"]]
    assert admitted["time_to_action_p50_s"].min() == best.table.loc[best.setting, "time_to_action_p50_s"]


def test_folds_keep_a_scenario_together_and_judge_what_they_did_not_choose_by(best):
    assert best.held_out["traces"].sum() == 8
    assert len(best.held_out) == 5


def test_the_same_seed_gives_the_same_recommendation_and_intervals(best):
    again = tune(best.sweep, minimise="time_to_action", where="false_abort_ratio == 0", resamples=50)
    assert again.intervals.equals(best.intervals)
    assert again.held_out.equals(best.held_out)


def test_the_yaml_carries_the_evidence_and_is_read_back(best, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(best.manifest())
    assert "8 of 8 scenarios or guests: 4 completed by themselves, 4 never converged" in path.read_text()
    read = mk.read_configuration(path, "1.9").policy
    assert read == best.policy


def test_three_copies_of_one_migration_are_no_evidence():
    copies = [migration([500, *[100] * 30], name=name, outcome="cancelled", action="abort") for name in "abc"]
    found = mk.sweep(copies, POLICY, stall_progress_timeout=[10, 40])
    with pytest.raises(MigkitError, match="too few: 3 traces, 1 of them distinct"):
        tune(found)


def test_migrations_that_all_end_alike_are_one_sided():
    found = mk.sweep([hopeless(level) for level in range(100, 190, 10)], POLICY, stall_progress_timeout=[10, 40])
    with pytest.raises(MigkitError, match="one-sided: 0 that completed by themselves"):
        tune(found)
    assert tune(found, anyway=True, minimise="time_to_action", resamples=5).doubts


def test_a_condition_that_no_setting_keeps_is_told_with_the_nearest():
    found = mk.sweep(planted(45), POLICY, stall_progress_timeout=[10, 20])
    with pytest.raises(MigkitError, match=r"false_abort_ratio == 0 \(the best has false_abort_ratio 1\)"):
        tune(found)


def test_what_an_open_loop_replay_cannot_know_is_not_ranked():
    found = mk.sweep(planted(30), mk.policy("kubevirt-main-tuning"), steps=[3, 7])
    assert set(found.table["basis"]) == {"unknowable"}
    with pytest.raises(MigkitError, match="a recorded migration cannot answer to that"):
        tune(found)


def test_an_objective_in_two_ways_at_once_is_refused(best):
    with pytest.raises(UsageError, match="not both"):
        tune(best.sweep, objective="minimise missed_ratio", minimise="regret")
