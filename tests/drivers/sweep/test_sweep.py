"""Many settings over many traces: one row each, the same whoever computes it."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import migkit as mk
from migkit.capture.fake import FakeDomain
from migkit.drivers.live import live
from migkit.drivers.sweep import run as module
from migkit.drivers.sweep.outcomes import BY_NAME, OUTCOMES
from migkit.errors import MigkitError, UsageError
from tests.capture.logs import rendering
from tests.made import migration

TRACES = Path(__file__).parents[3] / "data" / "traces"
STALL = mk.policy("kubevirt-1.9-stall")
FLAT = [500, *[100] * 30]


@pytest.fixture(scope="module")
def some():
    return mk.open_dataset(TRACES).where("duration >= 20 s")[:12]


@pytest.fixture(scope="module")
def found(some):
    return mk.sweep(some, STALL, stall_margin=[2, 8], stall_progress_timeout=[10, 40])


def test_there_is_one_row_a_trace_and_setting(found, some):
    assert len(found.table) == len(some) * 4
    assert not found.table.duplicated(["trace", "setting"]).any()
    assert list(found.table.columns) == [
        "trace", "setting", "stall_margin", "stall_progress_timeout", "end", *(outcome.name for outcome in OUTCOMES)
    ]  # fmt: skip
    joined = found.table.merge(found.settings, left_on="setting", right_index=True, suffixes=("", "_again"))
    assert (joined["stall_margin"] == joined["stall_margin_again"]).all()


def test_the_first_action_is_that_of_a_replay(found, some):
    """The same trace, setting and phase; only what a replay calls unknowable from the start is not compared."""
    for trace in some:
        for number, policy in enumerate(found.policies):
            row = found.table[(found.table["trace"] == trace.name) & (found.table["setting"] == number)].iloc[0]
            decisions = mk.replay(trace, policy).decisions
            acts = decisions[~decisions["reason"].isin(["initial-downtime"])]
            if np.isnan(row["time_to_action_s"]):
                changed = found.traces.set_index("trace").loc[trace.name, "changed_s"]
                assert acts.empty or (not np.isnan(changed) and acts["t_s"].iloc[0] > changed - 0.4)
            elif acts["phases"].iloc[0] == 8:
                assert row["time_to_action_s"] == pytest.approx(acts["t_s"].iloc[0], abs=1e-3)
                assert row["reason"] == acts["reason"].iloc[0]


def test_the_setting_that_ran_beside_a_migration_is_judged_at_its_own_wakes():
    beside = mk.kubevirt("1.8", completion_timeout_per_gib=3)
    domain = FakeDomain("abort", speed=25)
    lived = live(domain, beside, limit_s=60)
    domain.close()
    found = mk.sweep([lived.trace], beside, completion_timeout_per_gib=[2, 3]).table.set_index(
        "completion_timeout_per_gib"
    )
    at_s = lived.decisions["t_s"].iloc[0]
    assert found["time_to_action_s"][3] == pytest.approx(at_s, abs=1e-6)
    assert found["time_to_action_s"][2] == pytest.approx(3.2)  # of a monitor that polls at whole multiples of 400 ms


@pytest.mark.parametrize("method", ["advance", "plain"])
def test_every_method_gives_the_same_table(found, some, method):
    if method == "advance":
        pytest.importorskip("numba")
    again = mk.sweep(some[:4], STALL, stall_margin=[2, 8], stall_progress_timeout=[10, 40], method=method)
    pd.testing.assert_frame_equal(again.table, found.table[: len(again.table)].assign(
        trace=lambda t: t["trace"].cat.set_categories(again.table["trace"].cat.categories)))  # fmt: skip


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_threads_and_processes_give_the_same_table(found, some, kind):
    with kind(2) as executor:
        again = mk.sweep(some, STALL, stall_margin=[2, 8], stall_progress_timeout=[10, 40], executor=executor)
    pd.testing.assert_frame_equal(again.table, found.table)


def test_ctrl_c_returns_what_is_done(some, monkeypatch):
    class Interrupted:
        def map(self, call, parts):
            yield call(next(iter(parts)))
            raise KeyboardInterrupt

    partial = mk.sweep(some, STALL, stall_margin=[2, 8], executor=Interrupted())
    assert not partial.complete
    assert "interrupted" in repr(partial)
    assert 0 < len(partial.traces) < len(some)
    assert len(partial.table) == 2 * len(partial.traces)


def test_a_false_abort_a_missed_one_and_a_right_one_are_told_apart():
    plateau = migration([500, *[100] * 8, 50, 10], name="plateau", outcome="completed")
    flat = migration(FLAT, name="flat", outcome="cancelled", action="abort")
    patient = mk.kubevirt("1.9", stall_detection=True, completion_timeout_per_gib=800)
    table = mk.sweep([plateau, flat], patient, stall_progress_timeout=[10, 120, 300]).table
    table = table.set_index(["trace", "setting"])
    assert table.loc[("plateau", 0), "what"] == "aborted as stalled"
    assert table.loc[("plateau", 0), "false_abort"]
    assert table.loc[("plateau", 0), "completed_after_s"] > 10
    assert table.loc[("plateau", 1), "what"] == "completes by itself"
    assert table.loc[("flat", 0), "what"] == "aborted as stalled"
    assert not table.loc[("flat", 0), "false_abort"]
    assert table.loc[("flat", 2), "missed"]
    assert table.loc[("flat", 0), "wasted_bytes"] < table.loc[("flat", 1), "wasted_bytes"]


def test_what_the_operator_cut_short_judges_nothing():
    short = migration(FLAT[:5], name="short", outcome="cancelled", action="abort")
    row = mk.sweep([short], STALL, stall_progress_timeout=[10]).table.iloc[0]
    assert row["end"] == "cut short"
    assert row["false_abort"] is pd.NA
    assert not row["missed"]


def test_the_implied_downtime_lies_between_its_bounds():
    flat = migration(FLAT, name="flat", outcome="cancelled", action="abort", bandwidth_mibps=20)
    table = mk.sweep(
        [flat], mk.kubevirt("1.8", allow_workload_disruption=True), completion_timeout_per_gib=[20, 60]
    ).table
    assert (table["what"] == "paused").all()
    assert (table["implied_downtime_low_ms"] <= table["implied_downtime_ms"]).all()
    # 100 MiB begin each pass, as many are dirtied in it, and 20 MiB/s are sent.
    assert (table["implied_downtime_ms"] <= 2 * 100 / 20 * 1000 * 1.05).all()


def test_a_rule_that_changes_the_limit_first_is_unknowable():
    flat = migration(FLAT, name="flat", outcome="cancelled", action="abort")
    table = mk.sweep([flat], mk.policy("kubevirt-main-tuning"), steps=[7]).table
    assert table["basis"].tolist() == ["unknowable"]


def test_a_stall_policy_refuses_a_trace_without_iteration_events(tmp_path):
    made = migration(FLAT, name="fine", outcome="cancelled", action="abort")
    rows = made.samples[made.samples["source"] != "iteration"].reset_index(drop=True)
    coarse = mk.Trace(rows, made.meta, "coarse").replace_meta(cadence=mk.meta.Cadence(interval_ms=100))
    with pytest.raises(MigkitError, match=r"coarse: cannot tell what kubevirt-1\.9-stall does"):
        mk.sweep([coarse], STALL, stall_margin=[4])
    kept = mk.sweep([coarse, made], STALL, stall_margin=[4], skip_bad=True)
    assert kept.left_out["place"].tolist() == ["coarse"]
    assert len(kept.traces) == 1


def test_a_coarse_trace_is_held_against_the_setting_that_is_hardest_to_answer(tmp_path):
    fine = mk.load(TRACES / "link-down.parquet")
    (tmp_path / "launcher.log").write_text("\n".join(rendering.kubevirt(fine, "C")))
    [rough] = mk.read_log(tmp_path / "launcher.log")
    rough = rough.replace_meta(domain=fine.meta.domain)
    policy = mk.policy("kubevirt-1.8")
    assert mk.sweep([rough], policy, progress_timeout=[150, 100]).traces["basis"].tolist() == ["observed"]
    for harder, why in ((5, "5 s cannot be seen"), (10, "is looked for in samples 4 s apart")):
        with pytest.raises(MigkitError, match=why):
            mk.sweep([rough], policy, progress_timeout=[150, harder])
    kept = mk.sweep([rough], policy, progress_timeout=[150, 10], inexact=True)
    assert kept.traces["basis"].tolist() == ["bounded"]


def test_a_memory_that_nobody_told_is_asked_for():
    unknown = migration(FLAT, name="unknown", outcome="cancelled", action="abort")
    rows = unknown.samples.assign(memory_total_bytes=None).astype({"memory_total_bytes": "UInt64"})
    unknown = mk.Trace(rows, unknown.meta, "unknown").replace_meta(domain=mk.meta.Domain())
    with pytest.raises(MigkitError, match="memory is unknown"):
        mk.sweep([unknown], mk.policy("kubevirt-1.8"), progress_timeout=[150])
    assert mk.sweep([unknown], mk.policy("kubevirt-1.8"), progress_timeout=[150], data_size_gb=1).complete


def test_a_corrupt_file_among_many_is_named_and_skipped_only_when_asked(tmp_path, some):
    for trace in some[:3]:
        trace.save(tmp_path / f"{trace.name}.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(MigkitError, match=r"broken\.parquet"):
        mk.sweep(tmp_path, STALL, stall_margin=[4])
    kept = mk.sweep(tmp_path, STALL, stall_margin=[4], skip_bad=True)
    assert (len(kept.traces), len(kept.left_out)) == (3, 1)
    assert "broken" in kept.left_out["place"].iloc[0]


def test_a_grid_of_more_than_a_hundred_million_replays_wants_a_yes(some, monkeypatch):
    monkeypatch.setattr(module, "MOST_REPLAYS", 40)
    with pytest.raises(UsageError, match=r"12 traces x 4 settings are 48 replays, .* large=True \(--yes\)"):
        mk.sweep(some, STALL, stall_margin=[1, 2, 3, 4])
    assert mk.sweep(some, STALL, stall_margin=[1, 2, 3, 4], large=True).complete


def test_a_grid_beyond_all_measure_is_refused_at_once(some):
    with pytest.raises(UsageError, match=r"12 traces x 4000000000000 settings"):
        mk.sweep(some, STALL, stall_progress_timeout=range(2_000_000), completion_timeout_per_gib=range(2_000_000))


def test_nothing_to_sweep_is_told():
    with pytest.raises(MigkitError, match="no trace can be swept: the dataset: it is empty"):
        mk.sweep([], STALL, stall_margin=[4])


def test_every_outcome_has_a_unit_a_basis_and_a_meaning():
    for outcome in OUTCOMES:
        assert outcome.doc.endswith(".")
        assert outcome.basis in ("observed", "bounded")
        for ending, unit in (("_s", "s"), ("_ms", "ms"), ("_bytes", "bytes")):
            assert (outcome.unit == unit) == outcome.name.endswith(ending), outcome.name
    assert len(BY_NAME) == len(OUTCOMES)
