"""When a monitor would have woken up, and what it would have read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import migkit as mk
from migkit.drivers.schedule import NO_SAMPLE_NS, POLL_NS, schedules
from migkit.meta import Cadence, End, TraceMeta
from migkit.units import NS_PER_MS


def poll(t_ms: int, **columns: object) -> dict[str, object]:
    row = {"mono_ns": t_ms * NS_PER_MS, "wall_ns": 0, "source": "poll", "latency_us": 1000, "job_type": 2}
    return row | {"time_elapsed_ms": t_ms, "data_remaining_bytes": 10} | columns


def trace(rows: list[dict[str, object]], **meta: object) -> mk.Trace:
    return mk.Trace.from_rows(rows, TraceMeta(end=End(outcome="lost"), **meta), "by hand")  # type: ignore[arg-type]


def test_polls_come_400_ms_after_the_last_wake_at_eight_phases():
    plans = schedules(trace([poll(t) for t in range(0, 2001, 100)]), events=False)
    assert [plan.phase_ms for plan in plans] == [400, 350, 300, 250, 200, 150, 100, 50]
    for plan in plans:
        assert (np.diff(plan.t_ns) == POLL_NS).all()
        assert not plan.event.any()


def test_a_wake_reads_the_newest_sample():
    plan = schedules(trace([poll(t) for t in (0, 90, 390, 410, 900)]), events=False)[0]
    assert list(plan.t_ns // NS_PER_MS) == [400, 800]
    assert list(plan.row) == [2, 3]
    assert list(plan.age_ns // NS_PER_MS) == [10, 390]


def test_an_iteration_event_wakes_the_monitor_and_restarts_the_timer():
    event = poll(525, source="iteration", event_iteration=2, event_lag_us=20_000)
    plan = schedules(trace([*(poll(t) for t in range(0, 501, 100)), event, *(poll(t) for t in range(600, 1501, 100))]),
                     events=True)[0]  # fmt: skip
    assert list(plan.t_ns // NS_PER_MS) == [400, 505, 905, 1305]
    assert list(plan.event) == [False, True, False, False]
    assert plan.row[1] == 6


def test_a_failed_call_and_a_gap_leave_nothing_to_read():
    rows = [poll(0), poll(100), poll(700, job_type=None, error_code=38), poll(1500), poll(2000)]
    plan = schedules(trace(rows, cadence=Cadence(gaps=((1_550_000_000, 1_900_000_000),))), events=False)[0]
    assert list(plan.row) == [1, -1, -1, -1, 4]
    assert plan.age_ns[1] == NO_SAMPLE_NS


def test_recorded_wakes_are_used_as_they_are():
    rows = [poll(0), poll(397, source="wake"), poll(800, source="wake", event_iteration=2)]
    plans = schedules(trace(rows), events=True)
    assert len(plans) == 1
    assert plans[0].recorded
    assert list(plans[0].t_ns // NS_PER_MS) == [397, 800]
    assert list(plans[0].event) == [False, True]


def test_a_monitor_does_not_outlive_a_completed_migration():
    """The last poll hangs beyond the end; the monitor has gone with the migrate call."""
    job = {"mono_ns": 1000 * NS_PER_MS, "wall_ns": 0, "source": "job", "data_remaining_bytes": 0}
    late = poll(2500, job_type=None, error_code=55)
    rows = [*(poll(t) for t in range(0, 1000, 100)), job, late]
    meta = TraceMeta(end=End(outcome="completed"))
    plan = schedules(mk.Trace.from_rows(rows, meta, "by hand"), events=False)[0]
    assert list(plan.t_ns // NS_PER_MS) == [400, 800]
    told = TraceMeta(end=End(outcome="completed", completed={"time_elapsed": 700}))
    assert len(schedules(mk.Trace.from_rows(rows, told, "by hand"), events=False)[0].t_ns) == 1
    failed = TraceMeta(end=End(outcome="failed"))
    assert len(schedules(mk.Trace.from_rows(rows, failed, "by hand"), events=False)[0].t_ns) == 6


def walked(first_ms: int, events_ms: list[int], end_ms: int) -> list[tuple[int, bool]]:
    """The monitor's loop as it is written: the next event, or the timer where that is first."""
    due_ms, waiting, found = first_ms, sorted(e for e in events_ms if e <= end_ms), []
    while waiting or due_ms <= end_ms:
        event = bool(waiting) and waiting[0] <= due_ms
        t_ms = waiting.pop(0) if event else due_ms
        found.append((t_ms, event))
        due_ms = t_ms + 400
    return found


@given(
    phase=st.integers(0, 7),
    events_ms=st.lists(st.one_of(st.integers(0, 6000), st.sampled_from([400, 800, 1200, 1200])), max_size=12),
    last_ms=st.integers(1, 6000),
)
def test_the_schedule_is_that_of_the_monitor_s_loop(phase, events_ms, last_ms):
    events = [poll(e, source="iteration", event_iteration=1) for e in sorted(events_ms)]
    rows = sorted([poll(0), poll(last_ms), *events], key=lambda row: row["mono_ns"])
    plan = schedules(trace(rows), events=True)[phase]
    end_ms = int(rows[-1]["mono_ns"]) // NS_PER_MS
    found = list(zip((plan.t_ns // NS_PER_MS).tolist(), plan.event.tolist(), strict=True))
    assert found == walked(400 - 50 * phase, events_ms, end_ms)
