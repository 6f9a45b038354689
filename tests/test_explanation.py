"""Explanations: against the known causes of the bundled traces, whole and damaged; and on traces made by hand."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import migkit as mk
from benchmarks import verdicts
from migkit import explanation
from migkit.explanation import Explanation
from migkit.explanation.course import course
from migkit.explanation.trend import trend
from migkit.lab import scenario
from migkit.meta import Domain, End, Migration, Rule, TraceMeta
from migkit.units import GIB, MIB
from tests.stats.test_stats import PAGE, flow

LAB_ONLY = (
    "link_down", "link_up", "slow_link", "restore_link", "block_port", "open_port", "cut_socket", "stop_destination",
    "continue_destination", "kill_destination", "restart_destination_daemon", "restart_source_daemon",
    "restart_src_libvirtd",
)  # fmt: skip


@pytest.fixture(scope="module")
def known(bundled) -> list[mk.Trace]:
    return verdicts.labelled(bundled.values())


@pytest.fixture(scope="module")
def judged(known) -> pd.DataFrame:
    return verdicts.judged(known)


def why(trace: mk.Trace) -> Explanation:
    return mk.explain(trace, thresholds=False)


# Against what the lab knows.


def test_nine_of_ten_verdicts_are_right_and_none_is_wrong(judged):
    counted = verdicts.counts(judged).loc["limited by"]
    assert counted["wrong"] == 0
    assert counted["right_share"] >= 0.9
    assert counted["alone"] >= 0.7
    assert counted["holds_the_cause"] >= 0.95


def test_only_what_looks_alike_to_the_source_shares_a_name():
    assert verdicts.kind("network", ("destination", "network")) == "right"
    assert verdicts.kind("network", ("destination", "network", "dirty rate")) == "open"
    assert verdicts.kind("dirty rate", ("dirty rate", "bandwidth")) == "open"
    assert verdicts.kind("network", ("destination",)) == "wrong"
    assert verdicts.kind("network", ()) == "silent"


def test_convergence_is_never_told_wrong(judged):
    kinds = judged["convergence"].value_counts()
    assert kinds.get("wrong", 0) == 0
    assert kinds["right"] / len(judged) >= 0.85


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_what_would_have_completed_is_only_said_to_stand_still_as_long_as_its_guest_writes_like_that(known, share):
    """A record cannot foresee that a load ends: its 'no' holds for the dirty rate seen, so that the guest must have
    written less before it completed after all."""
    told = 0
    for trace in known:
        if trace.meta.lab.truth["converges"]:
            cancelled = verdicts.cut(trace, share).replace_meta(end=End(outcome="cancelled"), lab=None)
            found = why(cancelled)
            if found.converges != "no":
                continue
            assert "As long as the guest goes on writing like this, it does not end" in found.paragraph
            passes = mk.stats.iterations(trace)
            later = passes[(passes["start_s"] > cancelled.t_s[-1]) & (passes["duration_s"] > 1)]
            least_bps = (later["newly_dirty_bytes"] / later["duration_s"]).min()
            assert least_bps < found["dirty rate too high"].figures["dirty_bps"] / 2, trace.name
            told += 1
    assert told


def test_a_standstill_is_never_told_as_final(known):
    told = [why(trace).paragraph for trace in known]
    assert not any("would not have ended" in text for text in told)
    assert sum("As long as the guest goes on writing like this" in text for text in told) > 12


def test_an_open_verdict_leaves_two_candidates_not_the_whole_list(judged):
    assert judged["verdict"].str.count(",").max() == 1


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_trace_cut_short_gives_no_wrong_verdict(known, share):
    table = verdicts.judged([verdicts.cut(t, share) for t in known if verdicts.cause_within(t, share)])
    assert len(table) > 70
    assert not (table[["limited by", "convergence"]] == "wrong").any().any()
    assert (table["limited by"] == "right").sum() >= 25


@pytest.mark.parametrize(("every_s", "holding"), [(1, 0.9), (4, 0.75)])
def test_fewer_samples_make_it_silent_not_wrong(known, judged, every_s, holding):
    table = verdicts.judged([verdicts.thinned(trace, every_s) for trace in known])
    assert not (table[["limited by", "convergence"]] == "wrong").any().any()
    assert verdicts.counts(table).loc["limited by", "holds_the_cause"] >= holding
    assert (table["limited by"] == "right").sum() < (judged["limited by"] == "right").sum()


def test_a_fault_is_found_where_it_was(known):
    """Its beginning within 1.5 s; its end too, or later where TCP takes its time to try again."""
    checked = 0
    for trace in known:
        truth = trace.meta.lab.truth
        if "fault_until_s" not in truth:
            continue
        found = why(trace).verdict
        assert found.fault_from_s == pytest.approx(truth["fault_from_s"], abs=1.5), trace.name
        assert found.fault_until_s >= truth["fault_until_s"] - 1.5, trace.name
        assert found.fault_until_s <= truth["fault_until_s"] * 1.3, trace.name
        checked += 1
    assert checked >= 9


def test_a_migration_without_a_fault_has_none(known):
    for trace in known:
        truth = trace.meta.lab.truth
        if truth["limited_by"] in ("bandwidth", "dirty rate", "downtime limit") and "fault_from_s" not in truth:
            assert why(trace).verdict.fault_from_s is None, trace.name


def test_what_only_the_lab_knows_changes_nothing(known):
    """Neither the label, nor the name, nor the rows that say what was done to links and processes."""
    told = [t for t in known if t.samples["action"].isin(LAB_ONLY).any()]
    assert len(told) > 12
    for trace in told:
        rows = trace.samples[~trace.samples["action"].isin(LAB_ONLY)].reset_index(drop=True)
        blind = dataclasses.replace(trace, samples=rows, name="x").replace_meta(lab=None, notes={})
        seen = json.loads(why(trace).to_json()) | {"trace": "x", "paragraph": ""}
        assert json.loads(why(blind).to_json()) | {"paragraph": ""} == seen


# The questions, on migrations that happened.


def test_a_plateau_is_told_with_the_pause_that_would_end_it(bundled):
    found = why(bundled["long-hot-set"])
    assert (found.limited_by, found.converges) == (("downtime limit",), "no")
    race = found["dirty rate too high"]
    assert race.answer == "yes"
    assert race.figures["pause_low_s"] < 18.2 / 20 < race.figures["pause_high_s"]
    assert race.figures["downtime_limit_ms"] == 300
    assert race.from_s == pytest.approx(25, abs=3)
    assert found["remaining falls"].answer == "no"
    assert found["post-copy would help"].answer == "yes"
    assert found["auto-converge would help"].answer == "cannot tell"


def test_the_reported_rate_is_not_believed(bundled):
    """64 MiB/s are written; QEMU reports the bandwidth, and so much at least is known."""
    figures = why(bundled["nonconverging-long"])["dirty rate too high"].figures
    assert figures["dirty_ratio"] == pytest.approx(1, abs=0.02)
    assert 31 * MIB < figures["least_dirty_bps"] < 64 * MIB


def test_one_pass_that_gains_a_little_is_no_proof_of_convergence(bundled):
    found = why(bundled["post-copy-2"])
    assert found["dirty rate too high"].answer == "cannot tell"
    assert found.converges == "cannot tell"
    assert found["post-copy would help"].answer == "yes"
    assert found["post-copy would help"].figures["used"] == "yes"


def test_a_stall_and_a_trickle_are_told_apart(bundled):
    stall, trickle = why(bundled["link-down"]), why(bundled["link-one-percent"])
    assert (stall["stalled"].answer, stall["slow path"].answer) == ("yes", "no")
    assert (trickle["stalled"].answer, trickle["slow path"].answer) == ("no", "yes")
    assert trickle["stalled"].figures["none_longer_than_s"] > 4
    assert trickle["slow path"].figures["bandwidth_bps"] < 2 * MIB
    assert set(stall.limited_by) == set(trickle.limited_by) == {"network", "destination"}


def test_a_stall_that_outlives_the_keepalive_points_at_the_destination(bundled):
    assert why(bundled["long-destination-stopped"]).limited_by == ("destination", "network")


def test_a_broken_connection_is_the_source_only_if_the_recorder_lost_it_too(bundled):
    trace = bundled["source-daemon-restarted"]
    assert why(trace).limited_by == ("source",)
    calm = dataclasses.replace(trace.meta.cadence, gaps=())
    assert why(trace.replace_meta(cadence=calm)).limited_by == ("source", "destination", "network")


def test_a_slow_link_is_told_from_a_limit_by_the_limit(bundled):
    trace = bundled["link-limited"]
    slow = why(trace)["slow path"]
    assert slow.figures["limit_bps"] == 256 * MIB
    assert 22 * MIB < slow.figures["bandwidth_bps"] < 24 * MIB
    unlimited = why(trace.replace_meta(migration=Migration()))
    assert unlimited["slow path"].answer == "cannot tell"
    assert unlimited.limited_by == ("bandwidth", "network")


def test_throttling_is_told_with_its_cost_to_the_guest(bundled):
    throttle = why(bundled["auto-converge-gentle"])["throttled"]
    assert throttle.answer == "yes"
    assert (throttle.figures["first_percent"], throttle.figures["highest_percent"]) == (10, 99)
    assert throttle.figures["largest_gap_ms"] > 1000 > 50 > throttle.figures["downtime_ms"]
    assert 40 < throttle.figures["mean_percent"] < 60
    assert throttle.figures["elsewhere_gap_ms"] is None
    told = mk.explain(bundled["auto-converge-gentle"], thresholds=False).table.set_index("question")["evidence"]
    assert "1.03 s, is that across the switchover" in told["throttled"]
    assert "the longest 269 ms" in why(bundled["auto-converge"]).paragraph
    silent = why(bundled["auto-converge-gentle"].replace_meta(heartbeat=None))
    assert "freezes of the guest are unknown" in silent.table.set_index("question").loc["throttled", "evidence"]


def test_a_disk_is_told_with_its_share_of_bytes_and_time(bundled):
    disk = why(bundled["block-then-ram"])["disk copied"]
    assert disk.figures["disk_bytes"] == 128 * MIB
    assert 35 < disk.figures["bytes_percent"] < 45
    assert 35 < disk.figures["time_percent"] < 45
    assert why(bundled["link-down"])["disk copied"].answer == "no"
    assert why(bundled["block-volume-small"])["disk copied"].answer == "cannot tell"


def test_what_was_done_is_told_in_order_with_its_values(bundled):
    helped = why(bundled["long-downtime-steps"])["helped"].figures
    assert [helped[f"to_{n}_ms"] for n in (1, 2, 3, 4)] == [500, 900, 1500, 2500]
    raised = why(bundled["bandwidth-raised"])
    assert raised["helped"].figures["to_1_bps"] == 64 * MIB
    assert raised.limited_by == ("bandwidth",)
    assert why(bundled["suspend-midway"])["helped"].figures["what_1"] == "pause"


def told_of(trace: mk.Trace) -> pd.Series:
    """The evidence by its question."""
    return why(trace).table.set_index("question")["evidence"]


def test_a_limit_that_was_lowered_is_told_and_is_no_help(bundled):
    found = why(bundled["bandwidth-lowered"])
    assert found["helped"].answer == "no"
    assert "What was done: bandwidth limit lowered from 64 MiB/s to 16 MiB/s at 3 s." in found.paragraph
    assert found.converges == "yes"


def test_throttling_is_among_what_was_done(bundled):
    for name in ("auto-converge", "auto-converge-brutal", "auto-converge-gentle"):
        assert why(bundled[name])["helped"].answer == "yes"
        assert "auto-converge throttles the guest from" in told_of(bundled[name])["helped"]


def test_how_a_throttled_guest_would_write_unthrottled_cannot_be_told(known):
    """The lab's three write above the bandwidth: the throttled rate must not deny it."""
    for trace in known:
        if np.isfinite(trace.column("auto_converge_throttle_percent")).any():
            assert why(trace)["dirty rate too high"].answer == "cannot tell", trace.name


def test_the_reckoned_downtime_is_not_told_as_the_pause(bundled):
    text = why(bundled["downtime-raised"]).paragraph
    assert "QEMU reckons 554 ms (402 ms to 702 ms) to send the rest at this bandwidth" in text
    assert "stood still at the switchover for 61.1 ms by its heartbeat, 41 ms as libvirt reports; that is less" in text
    assert "would have to stand still" not in text


def test_the_real_downtime_is_told_of_all_that_completed(known):
    for trace in known:
        if trace.meta.end.outcome == "completed":
            pause = why(trace)["guest paused"].figures
            assert pause["reported_ms"] == trace.meta.end.completed["downtime"]
            assert pause["heartbeat_ms"] == trace.meta.heartbeat.downtime_ms


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "suspend-midway",
            "The guest was suspended at 12 s and stood still until it ran on the destination: 3.76 s by",
        ),
        ("post-copy", "161 ms by its heartbeat, 6 ms as libvirt reports (which leaves out its waiting for pages)"),
    ],
)
def test_a_pause_of_another_kind_is_told_as_such(bundled, name, text):
    assert text in why(bundled[name]).paragraph


def test_without_a_known_downtime_none_is_told(bundled):
    trace = bundled["idle"].replace_meta(heartbeat=None, end=End(outcome="completed"))
    assert "stood still" not in why(trace).paragraph
    assert told_of(trace)["guest paused"] == "at the switchover: for how long is unknown"


def test_the_reckoned_downtime_is_never_below_the_limit_that_held(known):
    for trace in known:
        race = why(trace)["dirty rate too high"]
        if race.answer == "yes":
            f = race.figures
            assert (
                min(f["downtime_limit_ms"] / 1000, f["pause_s"])
                <= f["pause_low_s"]
                <= f["pause_s"]
                <= f["pause_high_s"]
            )


def test_what_remains_does_not_fall_where_it_rose_although_it_ended(bundled):
    found = why(bundled["bursty"])
    assert found["remaining falls"].answer == "no"
    assert found["remaining falls"].figures["slope_bytes_a_minute"] > 0
    assert "it ended nevertheless" in told_of(bundled["bursty"])["remaining falls"]


def test_an_answer_that_remaining_falls_has_no_rising_slope(known):
    for trace in known:
        falls = why(trace)["remaining falls"]
        if falls.answer == "yes":
            assert falls.figures.get("slope_bytes_a_minute", -1) < 0, trace.name


def test_a_failure_at_setup_is_not_laid_on_the_path(bundled):
    for name in ("block-volume-missing", "block-volume-small"):
        assert told_of(bundled[name])["post-copy would help"] == "it failed before any memory was sent"
    assert "no help against this failure" in told_of(bundled["socket-cut"])["post-copy would help"]
    assert "It failed because of the destination, judged by" in why(bundled["block-volume-missing"]).paragraph


def test_the_limit_beside_the_bandwidth_is_the_one_that_held_while_it_was_measured(bundled):
    assert why(bundled["bandwidth-raised"])["slow path"].figures["limit_bps"] == 16 * MIB
    assert why(bundled["bandwidth-lowered"])["slow path"].figures["limit_bps"] == 16 * MIB


def ruled(trace: mk.Trace, *decisions: dict[str, object], acted: bool = True, has_vfio: bool = False) -> mk.Trace:
    """The trace as if a policy had run beside it."""
    return trace.replace_meta(rule=Rule(policy="kubevirt-1.9-stall", acted=acted, decisions=decisions,
                                        has_vfio=has_vfio, result="failed: aborted"))  # fmt: skip


ABORT = {"t_s": 57.1, "action": "abort", "argument": None, "succeeded": True, "reason": "stall-abort",
         "evidence": "remaining 147 MiB"}  # fmt: skip


def test_an_abort_of_a_policy_is_told_as_its_doing_and_why(bundled):
    found = why(ruled(bundled["nonconverging-aborted"], ABORT))
    assert found.paragraph.startswith(
        "nonconverging-aborted was aborted by the policy kubevirt-1.9-stall after 25.1 s. The policy "
        "kubevirt-1.9-stall acted: abort at 57.1 s, stall detected, the rest too much for a pause (remaining 147 MiB)."
    )
    assert found["policy acted"].answer == "yes"


def test_what_a_policy_did_is_not_told_twice(bundled):
    switch = ABORT | {"action": "start_post_copy", "reason": "timeout", "t_s": 12.0}
    text = why(ruled(bundled["post-copy"], switch)).paragraph
    assert "acted: start post-copy at 12 s, completion deadline" in text
    assert "What was done" not in text


def test_a_policy_that_looked_on_did_not_do_it(bundled):
    found = why(ruled(bundled["nonconverging-aborted"], ABORT, acted=False))
    assert "nonconverging-aborted was aborted after" in found.paragraph
    assert "only looked on; it would have acted: abort at 57.1 s" in found.paragraph
    assert found["policy acted"].answer == "no"


def test_a_policy_s_call_that_failed_did_nothing(bundled):
    found = why(ruled(bundled["nonconverging-aborted"], ABORT | {"succeeded": False}))
    assert "nonconverging-aborted was aborted after" in found.paragraph
    assert "(the call failed)" in found.paragraph
    assert found["policy acted"].answer == "no"


def test_decisions_that_were_not_kept_cannot_be_told(bundled):
    rule = Rule(policy="kubevirt-1.9", acted=True)
    trace = bundled["idle"].replace_meta(rule=rule)
    assert why(trace)["policy acted"].answer == "cannot tell"
    assert "migkit replay" in told_of(trace)["policy acted"]


def test_passes_after_a_pause_do_not_show_the_guest(bundled):
    seen = course(bundled["suspend-midway"])
    assert len(seen.passes) == 2 < len(seen.tail)
    assert (seen.passes["start_s"] + seen.passes["duration_s"]).max() <= seen.helps[0].t_s


def test_of_several_helps_the_first_that_changes_the_passes_ends_them(bundled):
    """A downtime limit raised after the bandwidth does not make the passes in between the guest's own."""
    trace = bundled["bandwidth-raised"]
    raised = {"mono_ns": trace.t0_ns + 29_000_000_000, "wall_ns": 0, "source": "action", "action": "set_max_downtime",
              "argument": 900, "succeeded": True}  # fmt: skip
    seen = course(trace.replace_meta(notes={}).with_rows([raised]))
    assert [one.kind for one in seen.helps] == ["bandwidth", "downtime limit"]
    assert seen.passes["start_s"].max() < seen.helps[0].t_s


def test_passes_on_a_slow_path_do_not_show_the_guest(bundled):
    """Cut while the path carries half: the bandwidth of the passes before counts."""
    seen = trend(course(verdicts.cut(bundled["long-drop-nonconverging"], 0.6)))
    assert seen is not None
    assert seen.until_s < 92
    assert seen.bandwidth_bps > 19 * MIB


def test_a_fall_that_slows_but_is_steep_yet_is_no_proof_of_a_plateau(bundled):
    cut = verdicts.cut(bundled["near-critical-random"], 0.6).replace_meta(end=End(outcome="cancelled"))
    assert why(cut).converges == "cannot tell"


def test_a_threshold_that_aborts_what_completes_by_itself_is_too_early(bundled):
    found = mk.explain(bundled["auto-converge-gentle"])
    acts = found["kubevirt-1.9-stall acts"]
    assert (acts.answer, acts.figures["action"], acts.figures["too_early"]) == ("yes", "abort", "yes")
    assert acts.figures["completed_later_s"] == pytest.approx(68, abs=2)
    assert found["kubevirt-1.8 acts"].answer == "no"


def test_whether_an_abort_is_too_early_is_unknown_where_someone_else_ended_it(bundled):
    acts = mk.explain(bundled["nonconverging-long"])["kubevirt-1.8 acts"]
    assert (acts.figures["reason"], acts.figures["too_early"]) == ("timeout", "cannot tell")


def test_no_threshold_can_be_told_without_the_guest_s_size(bundled):
    whole = bundled["link-down"]
    rows = whole.samples.copy()
    rows["memory_total_bytes"] = pd.array([pd.NA] * len(rows), dtype="UInt64")
    trace = mk.Trace(rows, whole.meta, whole.name).replace_meta(domain=Domain())
    assert mk.explain(trace)["kubevirt-1.8 acts"].answer == "cannot tell"


def test_assigned_devices_are_told(bundled):
    trace = bundled["nonconverging-long"]
    assigned = trace.replace_meta(domain=dataclasses.replace(trace.meta.domain, has_vfio=True))
    assert "assigned devices" in why(assigned).paragraph
    assert "assigned devices" in why(ruled(trace, has_vfio=True)).paragraph
    sent = trace.samples.assign(vfio_data_transferred_bytes=pd.array([MIB] * len(trace.samples), dtype="UInt64"))
    assert "assigned devices" in why(mk.Trace(sent, trace.meta, trace.name)).paragraph
    assert "assigned devices" not in why(trace).paragraph
    assert why(assigned)["post-copy would help"].answer == "no"


# By hand: a pre-copy whose every byte is known.


def moving(
    rates_mib: list[float], *, step_ms: int = 100, limit_mib: int | None = 10, outcome: str = "lost"
) -> mk.Trace:
    """One pass that sends so many MiB in each second."""
    per_step = np.repeat(np.array(rates_mib) * step_ms / 1000, 1000 // step_ms)
    sent = np.concatenate([[1], 1 + np.cumsum(per_step)]) * MIB
    rows = [row(i * step_ms, 1, 4 * GIB - int(done), int(done)) for i, done in enumerate(sent)]
    asked = Migration(parameters={} if limit_mib is None else {"bandwidth": limit_mib})
    meta = TraceMeta(domain=Domain(memory_bytes=4 * GIB), migration=asked, end=End(outcome=outcome))
    return mk.Trace.from_rows(rows, meta, "by hand")


def row(t_ms: int, iteration: int, remaining: int, sent: int) -> dict[str, object]:
    return {
        "mono_ns": t_ms * 1_000_000, "wall_ns": 0, "source": "poll", "job_type": 2, "time_elapsed_ms": t_ms,
        "memory_iteration": iteration, "memory_total_bytes": 4 * GIB, "memory_remaining_bytes": remaining,
        "data_remaining_bytes": remaining, "memory_processed_bytes": sent, "data_processed_bytes": sent,
        "memory_normal_pages": sent // PAGE, "memory_constant_pages": 0, "memory_page_size_bytes": PAGE,
    }  # fmt: skip


@settings(max_examples=30)
@given(before=st.integers(1, 30), length=st.integers(3, 60), after=st.integers(1, 30))
def test_a_stall_is_found_to_the_interval_wherever_it_is(before: int, length: int, after: int):
    found = why(moving([10] * before + [0] * length + [10] * after))["stalled"]
    assert found.answer == "yes"
    assert found.from_s == pytest.approx(before, abs=0.11)
    assert found.until_s == pytest.approx(before + length, abs=0.11)
    assert found.figures["to_the_end"] == "no"


def test_a_stall_that_lasts_to_the_end_stays_open():
    trace = moving([10] * 10 + [0] * 20)
    assert why(trace)["stalled"].figures["to_the_end"] == "yes"
    assert why(trace).verdict.fault_until_s is None
    assert why(trace)["post-copy would help"].answer == "no"


@pytest.mark.parametrize(("seconds", "answer"), [(1, "no"), (3, "yes")])
def test_a_short_pause_is_no_stall(seconds, answer):
    assert why(moving([10] * 10 + [0] * seconds + [10] * 10))["stalled"].answer == answer


def test_four_second_samples_cannot_show_a_stall_of_six():
    """Two equal samples may be one pause between two looks: three are needed."""
    found = why(verdicts.thinned(moving([10] * 20 + [0] * 6 + [10] * 20), 4))["stalled"]
    assert found.answer == "no"
    assert found.figures["none_longer_than_s"] >= 12


def test_a_path_below_its_limit_is_slow_and_one_at_it_is_not():
    assert why(moving([10] * 10 + [5] * 10 + [10] * 10))["slow path"].answer == "yes"
    assert why(moving([10] * 30))["slow path"].answer == "no"


def test_a_limit_that_was_lowered_is_no_slow_path():
    lowered = {"mono_ns": 10_000_000_000, "wall_ns": 0, "source": "action", "action": "set_bandwidth", "argument": 5,
               "succeeded": True}  # fmt: skip
    assert why(moving([10] * 10 + [5] * 20).with_rows([lowered]))["slow path"].answer == "no"


def test_an_unfinished_first_pass_tells_nothing_of_the_guest():
    found = why(moving([10] * 60))
    assert (found.limited_by, found.converges) == ((), "cannot tell")
    assert found["remaining falls"].answer == found["dirty rate too high"].answer == "cannot tell"
    assert "first pass was not over" in found.paragraph


def test_equal_peaks_do_not_fall():
    seen = trend(course(flow(limits=[10] * 8, dirtied=[990] * 8)))
    assert seen is not None
    assert (seen.direction, seen.dirty_ratio) == ("flat", pytest.approx(1))
    assert seen.level_bytes == 1000 * PAGE
    assert seen.least_dirty_bps == pytest.approx(seen.bandwidth_bps, rel=0.02)


def test_shrinking_peaks_fall_by_so_much_a_minute():
    seen = trend(course(flow(limits=[0] * 8, dirtied=[900 - 100 * i for i in range(8)])))
    assert seen is not None
    assert seen.direction == "falling"
    assert seen.slope_low_bps <= seen.slope_bps <= seen.slope_high_bps < 0


@given(rest=st.integers(30_000, 60_000), first=st.integers(15_000, 30_000), ratio=st.floats(0.2, 0.45))
def test_a_fall_that_slows_is_followed_to_where_it_rests(rest: int, first: int, ratio: float):
    """Peaks of rest + first x ratio^n pages: the extrapolation finds the rest, to the rounding of pages."""
    peaks = [round(rest + first * ratio**n) for n in range(6)]
    seen = trend(course(flow(limits=[0] * 6, dirtied=peaks, step_ms=1000, pages_a_step=5000)))
    assert seen is not None
    assert seen.rests_at_bytes == pytest.approx(rest * PAGE, abs=10 * PAGE)


def test_a_limit_that_was_raised_does_not_make_a_standstill_converge(bundled):
    """Its passes stayed above what the first limit lets through; the third one nearly let them."""
    found = why(bundled["long-downtime-steps"])
    assert (found.limited_by, found.converges) == (("downtime limit",), "no")


@pytest.mark.parametrize("name", ["long-drop-nonconverging", "long-drop-nonconverging-2"])
def test_passes_that_come_back_to_their_level_after_a_fault_do_not_converge(name, bundled):
    assert why(bundled[name]).verdict.because_converges == "its passes were coming to rest above the downtime limit"


def test_a_fall_that_does_not_slow_has_no_rest():
    seen = trend(course(flow(limits=[0] * 8, dirtied=[900 - 100 * i for i in range(8)])))
    assert seen is not None
    assert seen.rests_at_bytes is None


@pytest.mark.parametrize(
    "column",
    ["memory_iteration", "memory_normal_pages", "data_processed_bytes", "memory_remaining_bytes", "downtime_ms",
     "memory_page_size_bytes", "memory_total_bytes", "data_remaining_bytes", "time_elapsed_ms"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["long-hot-set", "link-down", "post-copy"])
def test_what_libvirt_did_not_say_is_not_needed(bundled, name, column):
    trace = bundled[name]
    found = why(dataclasses.replace(trace, samples=trace.samples.assign(**{column: trace.samples[column].iloc[:0]})))
    assert found.paragraph
    if trace.meta.lab.truth["limited_by"] not in found.limited_by:
        assert found.limited_by in ((), ("bandwidth", "network"), ("network", "destination"))


# In words.


def test_no_text_holds_a_long_number_a_null_or_a_programmer_s_word(known):
    for trace in known:
        found = why(trace)
        for told in (found.paragraph.removeprefix(trace.name), *found.table["evidence"]):
            text = re.sub(r"VIR_[A-Z_]+", "FLAG", told)
            assert not re.search(r"\d{5}|\d\.\d{3}|\bNone\b|\bnan\b|_|  |\{|\.\.", text), (trace.name, text)


def test_the_paragraph_of_a_stall(bundled):
    assert mk.explain(bundled["link-down"]).paragraph == (
        "link-down completed after 17 s. It was held up by the network or the destination, judged by the time lost "
        "while less was sent than could be; the trace cannot tell which. Nothing moved for 6.5 s, from 4.2 s to "
        "10.7 s; a dead link and a destination that stands still look the same to the source. The guest stood still "
        "at the switchover for 68.4 ms by its heartbeat, 67 ms as libvirt reports. None of KubeVirt's default "
        "thresholds would have fired in that time."
    )


def test_the_table_has_a_row_a_question(bundled):
    table = mk.explain(bundled["link-down"]).table
    assert list(table.columns) == ["question", "answer", "basis", "from_s", "until_s", "evidence"]
    assert set(table["answer"]) <= {"yes", "no", "cannot tell"}
    assert set(table["basis"]) <= {"observed", "bounded", "modelled", "unknowable"}
    assert table["question"].is_unique
    assert (table["evidence"].str.len() > 0).all()


def test_verdicts_speak_the_words_of_the_lab_s_labels():
    assert explanation.LIMITS == scenario.LIMITS


def test_an_unknown_question_is_told_with_the_nearest(bundled):
    with pytest.raises(mk.UsageError, match="stalled"):
        why(bundled["idle"])["staled"]


def test_only_a_trace_can_be_explained():
    with pytest.raises(mk.UsageError, match=r"explain takes a trace \(mk.load\), not str"):
        mk.explain("link-down")  # type: ignore[arg-type]


def evidence_of(found: Explanation, question: str) -> str:
    return str(found.table.set_index("question").loc[question, "evidence"])


def test_an_abort_of_which_no_row_tells_is_told(bundled):
    trace = bundled["nonconverging-aborted"]
    rows = trace.samples[trace.samples["source"] != "action"].reset_index(drop=True)
    assert evidence_of(why(dataclasses.replace(trace, samples=rows)), "helped").startswith("aborted at 2")


def test_a_guest_that_post_copy_lost_stands_still_again(bundled):
    told = why(bundled["post-copy-socket-cut"]).paragraph
    assert "after the switch to post-copy for 1.42 s by its heartbeat, and stands still again since that failed" in told


def test_a_second_pass_without_a_byte_sent_breaks_nothing():
    rows = [row(100 * step, 1 + (step >= 10), remaining=800 + step, sent=0) for step in range(20)]
    trace = mk.Trace.from_rows(rows, TraceMeta(domain=Domain(memory_bytes=GIB)), "still")
    assert why(trace)["remaining falls"].answer == "cannot tell"
