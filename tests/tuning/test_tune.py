"""A recommendation: it finds what was planted, shows its price, and refuses what is no evidence."""

from __future__ import annotations

import pandas as pd
import pytest

import migkit as mk
from migkit.errors import MigkitError, UsageError
from migkit.tuning import parse, tune
from migkit.tuning.choose import pareto
from migkit.tuning.evidence import folds
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
    assert not any("too few" in why or "one-sided" in why for why in best.doubts)


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
    assert "8, of 8 scenarios or guests: 4 completed by themselves, 4 never converged" in path.read_text()
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


def test_a_choice_at_the_edge_of_the_values_and_one_that_does_nothing_are_cautioned(best):
    found = mk.sweep(planted(30), POLICY, stall_progress_timeout=[10, 20, 60])
    edge = tune(found, minimise="time_to_action", where="false_abort_ratio == 0", resamples=5)
    assert any("at the edge of the values tried: stall_progress_timeout" in why for why in edge.doubts)
    idle = mk.sweep(planted(30), mk.kubevirt("1.8"), completion_timeout_per_gib=[0, 900, 1000])
    nothing = tune(idle, minimise="false_abort_ratio", resamples=5)
    assert any("acts on none of these migrations" in why for why in nothing.doubts)
    assert "beware" in nothing.manifest()


def test_a_setting_that_is_mostly_unknowable_is_not_recommended():
    mixed = [*planted(30), migration([500, *[100] * 30], name="low", outcome="cancelled", action="abort", limit_ms=150)]
    found = mk.sweep(mixed, mk.policy("kubevirt-main-tuning"), steps=[3, 7])
    with pytest.raises(MigkitError, match=r"a replay cannot answer|cannot answer to that"):
        tune(found)


def test_of_nothing_out_of_a_few_the_interval_is_not_nothing(best):
    own = best.intervals[(best.intervals["label"] == "recommended") & (best.intervals["figure"] == "false_abort_ratio")]
    assert own["low"].iloc[0] == 0
    assert own["high"].iloc[0] == pytest.approx(1 - 0.025 ** (1 / 4))


def test_an_interrupted_second_sweep_recommends_nothing(monkeypatch):
    found = mk.sweep(planted(30), POLICY, stall_progress_timeout=WINDOWS)

    class Pressed:
        def map(self, call, parts):
            yield call(next(iter(parts)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(found, minimise="time_to_action", executor=Pressed())


def test_a_group_is_never_in_two_folds_and_does_not_choose_for_itself():
    traces = pd.DataFrame({"trace": list("abcdefgh"), "group": list("xxyyzzww")})
    parts = folds(traces, 3, seed=1)
    assert sorted(name for part in parts for name in part) == list("abcdefgh")
    for group, own in traces.groupby("group"):
        assert sum(bool(set(own["trace"]) & set(part)) for part in parts) == 1, group


def test_the_front_of_four_points_is_known():
    figures = pd.DataFrame({"missed_ratio": [0.0, 0.5, 0.5, 1.0], "regret_p50_ratio": [1.0, 0.5, 0.6, 0.0]})
    assert pareto(figures, parse("minimise missed_ratio, regret")).tolist() == [True, True, False, True]
