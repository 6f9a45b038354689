"""A replay over real recordings, and over traces made by hand: what, when, on which basis."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import migkit as mk
from migkit.errors import MigkitError, UsageError
from migkit.meta import Domain, End, TraceMeta
from migkit.policies import policy_names
from migkit.units import NS_PER_MS


def by_hand(
    remaining: list[int], *, memory: int | None = 10**9, actions: list[dict[str, object]] | None = None
) -> mk.Trace:
    """A job sampled every 100 ms with these remaining bytes, under a guest of one decimal gigabyte."""
    rows: list[dict[str, object]] = [
        {
            "mono_ns": i * 100 * NS_PER_MS, "wall_ns": 0, "source": "poll", "latency_us": 0, "job_type": 2,
            "time_elapsed_ms": i * 100, "data_remaining_bytes": value, "memory_iteration": 1, "memory_bps": 1000,
        }
        for i, value in enumerate(remaining)
    ]  # fmt: skip
    made = mk.Trace.from_rows(rows, TraceMeta(domain=Domain(memory_bytes=memory), end=End(outcome="lost")), "by hand")
    return made.with_rows(actions) if actions else made


def action(t_s: float, name: str, **more: object) -> dict[str, object]:
    return {"mono_ns": int(t_s * 1e9), "wall_ns": 0, "source": "action", "action": name, "succeeded": True} | more


FALLING = list(range(10_000, 0, -50))
STUCK = [1000] * 200


def test_a_converging_migration_is_left_alone():
    run = mk.replay(by_hand(FALLING), mk.kubevirt("1.8"))
    assert run.decisions.empty
    assert run.divergence_s is None
    assert run.result == "running"


def test_a_stuck_migration_is_aborted_once_more_than_the_timeout_has_passed():
    """Remaining last dropped at the first wake (0.4 s at the first phase); 5 whole seconds later is still in time."""
    run = mk.replay(by_hand(STUCK), mk.kubevirt("1.8", progress_timeout=5))
    (decision,) = run.decisions.itertuples()
    assert (decision.action, decision.reason, decision.basis) == ("abort", "stuck", "observed")
    assert decision.t_s == pytest.approx(6.4)
    assert decision.latest_s - decision.earliest_s < 0.4
    assert decision.phases == 8
    assert run.result == "failed: stuck"
    assert run.divergence_s == pytest.approx(6.4)


def test_a_deadline_of_10_s_fires_at_11():
    run = mk.replay(by_hand(FALLING), mk.kubevirt("1.8", completion_timeout_per_gib=10))
    assert run.deadline_s == 10
    (decision,) = run.decisions.itertuples()
    assert decision.earliest_s >= 11.0
    assert decision.latest_s < 11.4


def test_a_failing_call_is_tried_again_at_every_wake():
    policy = mk.kubevirt("1.8", completion_timeout_per_gib=10, allow_post_copy=True)
    run = mk.replay(by_hand(STUCK), policy, failures={"MigrateStartPostCopy": [1, 2]})
    assert list(run.decisions["succeeded"]) == [False, False, True]
    assert np.diff(run.decisions["t_s"]) == pytest.approx([0.4, 0.4])


def test_what_follows_the_divergence_is_unknowable():
    policy = mk.kubevirt("1.8", completion_timeout_per_gib=5, progress_timeout=8, allow_workload_disruption=True)
    run = mk.replay(by_hand(STUCK), policy)
    assert list(run.decisions["action"]) == ["suspend", "abort"]
    assert list(run.decisions["basis"]) == ["observed", "unknowable"]


def test_an_action_that_was_really_taken_is_no_divergence():
    policy = mk.kubevirt("1.8", completion_timeout_per_gib=10, allow_post_copy=True)
    assert mk.replay(by_hand(FALLING, actions=[action(11.3, "start_post_copy")]), policy).divergence_s is None
    elsewhere = mk.replay(by_hand(FALLING, actions=[action(4.0, "start_post_copy")]), policy)
    assert elsewhere.divergence_s == pytest.approx(4.0)
    assert list(elsewhere.decisions["basis"]) == ["unknowable"]


def test_a_recorded_failure_fails_in_the_replay_too():
    policy = mk.kubevirt("1.8", completion_timeout_per_gib=10, allow_post_copy=True)
    run = mk.replay(by_hand(FALLING, actions=[action(11.2, "start_post_copy", succeeded=False)]), policy)
    assert not run.decisions["succeeded"].iloc[0]


def test_setting_the_limit_that_holds_anyway_is_no_divergence():
    run = mk.replay(by_hand(FALLING), mk.policy("kubevirt-1.9-stall"))
    assert list(run.decisions["reason"]) == ["initial-downtime"]
    assert run.divergence_s is None


def test_a_decision_on_a_sample_too_old_is_only_bounded():
    rows = by_hand(STUCK).samples
    holes = rows[(rows["mono_ns"] < 5e9) | (rows["mono_ns"] > 9e9)].reset_index(drop=True)
    trace = mk.Trace(holes, by_hand(STUCK).meta, "holes")
    run = mk.replay(trace, mk.kubevirt("1.8", progress_timeout=5))
    assert list(run.decisions["basis"]) == ["bounded"]


def test_an_unknown_memory_needs_a_size():
    with pytest.raises(MigkitError, match="memory is unknown; pass data_size_gb"):
        mk.replay(by_hand(STUCK, memory=None), mk.kubevirt("1.8"))
    assert mk.replay(by_hand(STUCK, memory=None), mk.kubevirt("1.8"), data_size_gb=3).deadline_s == 450


def test_an_unknown_call_is_refused():
    with pytest.raises(UsageError, match="did you mean 'Suspend'"):
        mk.replay(by_hand(STUCK), mk.kubevirt("1.8"), failures={"Suspnd": [1]})


def test_a_link_that_stalls_is_told_from_slow_convergence(bundled):
    """The link was down from 3 s to 11 s and TCP slept until 16 s: thirteen seconds without progress."""
    stuck = mk.replay(bundled["stall_link"], mk.kubevirt("1.8", progress_timeout=10)).decisions
    assert list(stuck["reason"]) == ["stuck"]
    assert stuck["t_s"].iloc[0] == pytest.approx(14.6, abs=0.5)
    patient = mk.replay(bundled["stall_link"], mk.kubevirt("1.8", progress_timeout=14))
    assert patient.decisions.empty


def test_the_json_holds_what_the_replay_knows(bundled):
    run = mk.replay(bundled["noconverge_abort"], mk.kubevirt("1.8", completion_timeout_per_gib=10))
    told = json.loads(run.to_json())
    assert told["policy"] == "kubevirt-1.8"
    assert told["options"]["completion_timeout_per_gib"] == 10
    assert told["decisions"][0]["action"] == "abort"
    assert told["divergence_s"] == pytest.approx(11.2)
    assert "8 phases of 400 ms" in told["wakes"]


def test_the_internals_are_one_row_a_wake(bundled):
    run = mk.replay(bundled["noconverge_abort"], mk.policy("kubevirt-1.9-stall", stall_progress_timeout=10))
    assert run.internals["t_s"].is_monotonic_increasing
    assert run.internals["stalled"].any()
    stalled = run.internals[run.internals["stalled"]]
    assert stalled["best_bytes"].notna().all()


remaining = st.lists(st.integers(0, 5000), min_size=20, max_size=120)
options = st.fixed_dictionaries(
    {"completion_timeout_per_gib": st.integers(0, 8), "progress_timeout": st.integers(0, 8),
     "allow_post_copy": st.booleans()}
)  # fmt: skip


@given(name=st.sampled_from(policy_names()), values=remaining, given_options=options)
def test_the_compiled_rules_decide_what_the_plain_ones_do(name, values, given_options):
    pytest.importorskip("numba")
    trace, policy = by_hand(values), mk.policy(name, **given_options)
    plain, compiled = mk.replay(trace, policy), mk.replay(trace, policy, compiled_form=True)
    assert plain.decisions.equals(compiled.decisions)
    assert plain.internals.equals(compiled.internals)
    assert plain.result == compiled.result


def test_another_argument_is_a_divergence_and_one_action_answers_to_one():
    tuning = mk.policy("kubevirt-main-tuning")
    real = action(1.0, "set_max_downtime", argument=1500)
    assert mk.replay(by_hand(FALLING, actions=[real]), tuning).divergence_s == pytest.approx(0.4)
    same = action(0.4, "set_max_downtime", argument=150)
    assert mk.replay(by_hand(FALLING, actions=[same]), tuning).divergence_s is None
    twice = [action(11.3, "start_post_copy"), action(11.5, "start_post_copy")]
    policy = mk.kubevirt("1.8", completion_timeout_per_gib=10, allow_post_copy=True)
    assert mk.replay(by_hand(FALLING, actions=twice), policy).divergence_s == pytest.approx(11.5)


def test_setting_the_first_limit_again_after_it_was_changed_counts():
    raised = action(2.0, "set_max_downtime", argument=900)
    run = mk.replay(by_hand(FALLING, actions=[raised]), mk.policy("kubevirt-1.9-stall"))
    assert run.divergence_s == pytest.approx(2.0)


@pytest.mark.parametrize("name", policy_names())
def test_a_recording_shorter_than_one_wake_decides_nothing(name):
    run = mk.replay(by_hand([5, 4, 3]), mk.policy(name))
    assert len(run.decisions) <= 1
    assert run.result == "running"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: mk.replay(t, "kubevirt-1.8"), "replay takes a policy"),
        (lambda t: mk.replay("t.parquet", mk.kubevirt("1.8")), "replay takes a trace"),
        (lambda t: mk.replay(t, mk.kubevirt("1.8"), data_size_gb=-5), "must be a whole number of GB"),
        (lambda t: mk.replay(t, mk.kubevirt("1.8"), data_size_gb=2.5), "must be a whole number of GB"),
        (lambda t: mk.replay(t, mk.kubevirt("1.8"), data_size_gb=10**22), "must be a whole number of GB"),
        (lambda t: mk.replay(t, mk.kubevirt("1.8"), failures={"Suspend": 1}), "is not a list of numbers"),
        (lambda t: mk.compare(t, [mk.kubevirt("1.8"), mk.kubevirt("1.9")]), "compare takes a list of traces"),
        (lambda t: mk.compare([t], ["kubevirt-1.8", "kubevirt-1.9"]), "compare takes policies"),
        (lambda t: mk.kubevirt(1.8), "write the version as text"),
    ],
)
def test_what_is_of_another_kind_is_refused_by_name(call, said):
    with pytest.raises(UsageError, match=said):
        call(by_hand(STUCK))


def test_the_evidence_is_that_of_the_rule(bundled):
    trace = bundled["nonconverging-long"]
    stall = mk.replay(trace, mk.policy("kubevirt-1.9-stall")).decisions
    assert "x 0.96 of 40 s before" in stall["evidence"].iloc[1]
    assert "accepted 900 ms x 1.5" in stall["evidence"].iloc[1]
    tuning = mk.replay(trace, mk.policy("kubevirt-main-tuning", cooldown_seconds=1)).decisions
    assert "steps of 107 ms up to 900 ms" in tuning["evidence"].iloc[1]
    short = {"stall_progress_timeout": 5, "completion_timeout_per_gib": 100, "max_downtime_ms": 5000}
    run = mk.replay(trace, mk.policy("kubevirt-1.9-stall", switchover_timeout=10, **short)).decisions
    last = run[run["action"] == "abort"].iloc[0]
    assert "switchover deadline" in last["evidence"]


ASSIGNED = Domain(memory_bytes=10**9, host_devices=("pci 0000:3b:02.1",), has_vfio=True)
DISRUPTIVE = {"completion_timeout_per_gib": 5, "progress_timeout": 0, "allow_workload_disruption": True}


def first_action(trace: mk.Trace, version: str, **more: object) -> str:
    run = mk.replay(trace, mk.kubevirt(version, **DISRUPTIVE), **more)
    return str(run.decisions["action"].iloc[0])


def test_a_guest_with_host_devices_is_told_to_be_under_reported():
    trace = by_hand(STUCK).replace_meta(domain=ASSIGNED)
    run = mk.replay(trace, mk.kubevirt("1.9", **DISRUPTIVE))
    assert run.has_vfio
    (note,) = run.notes
    assert "remaining may be under-reported" in note
    assert json.loads(run.to_json())["notes"] == [note]
    assert mk.replay(by_hand(STUCK), mk.kubevirt("1.9")).notes == ()


def test_rules_follow_the_host_devices_of_the_trace_or_of_the_caller():
    """From 1.9 on a guest with host devices is given a large downtime instead of being suspended."""
    plain, assigned = by_hand(STUCK), by_hand(STUCK).replace_meta(domain=ASSIGNED)
    assert first_action(plain, "1.9") == "suspend"
    assert first_action(assigned, "1.9") == "set_max_downtime"
    assert first_action(plain, "1.9", has_vfio=True) == "set_max_downtime"
    assert first_action(assigned, "1.9", has_vfio=False) == "suspend"
    assert first_action(assigned, "1.8") == "suspend"


def test_a_guest_that_is_replayed_as_another_is_told():
    policy = mk.kubevirt("1.9")
    (note,) = mk.replay(by_hand(STUCK), policy, has_vfio=True).notes
    assert "of which the record tells nothing" in note
    without = by_hand(STUCK).replace_meta(domain=Domain(memory_bytes=10**9, has_vfio=False))
    (note,) = mk.replay(without, policy, has_vfio=True).notes
    assert "which the recorded one did not have" in note
    notes = mk.replay(by_hand(STUCK).replace_meta(domain=ASSIGNED), policy, has_vfio=False).notes
    assert notes[1] == "replayed as a guest without host devices"
