"""Tables out of traces: checked against what the scenarios were made to do, and on traces made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import migkit as mk
from migkit.meta import End, TraceMeta
from migkit.units import MIB

PAGE = 4096


def flow(*, limits: list[int], dirtied: list[int], step_ms: int = 100, pages_a_step: int = 100) -> mk.Trace:
    """A pre-copy by the book: pass i sends until `limits[i]` pages are left, then a sync adds `dirtied[i]`."""
    rows, sent, remaining, t_ms = [], 0, 1000, 0
    for iteration, (limit, dirty) in enumerate(zip(limits, dirtied, strict=True), 1):
        while True:
            rows.append(sample(t_ms, iteration, remaining, sent))
            t_ms += step_ms
            if remaining <= limit:
                break
            now = min(pages_a_step, remaining - limit)
            remaining, sent = remaining - now, sent + now
        remaining += dirty
    rows.append(sample(t_ms, len(limits) + 1, remaining, sent))
    return mk.Trace.from_rows(rows, TraceMeta(), "by hand")


def sample(t_ms: int, iteration: int, remaining: int, sent: int) -> dict[str, object]:
    return {
        "mono_ns": t_ms * 1_000_000, "wall_ns": 0, "source": "poll", "latency_us": 100, "job_type": 2,
        "time_elapsed_ms": t_ms, "memory_iteration": iteration, "memory_total_bytes": 1000 * PAGE,
        "memory_remaining_bytes": remaining * PAGE, "data_remaining_bytes": remaining * PAGE,
        "memory_processed_bytes": sent * PAGE, "data_processed_bytes": sent * PAGE,
        "memory_normal_pages": sent, "memory_constant_pages": 0, "memory_page_size_bytes": PAGE,
        "memory_dirty_rate_pages_per_s": 7,
    }  # fmt: skip


@given(
    passes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 400)), min_size=1, max_size=6),
    step=st.integers(20, 400),
)
def test_newly_dirty_bytes_are_exact_whatever_the_cadence(passes: list[tuple[int, int]], step: int):
    limits, dirtied = [p[0] for p in passes], [p[1] for p in passes]
    table = mk.stats.iterations(flow(limits=limits, dirtied=dirtied, pages_a_step=step))
    assert list(table["iteration"]) == list(range(1, len(passes) + 2))
    assert list(table["newly_dirty_bytes"].iloc[:-1]) == [d * PAGE for d in dirtied]
    assert np.isnan(table["newly_dirty_bytes"].iloc[-1])


def test_a_non_converging_guest_is_dirtied_as_fast_as_it_is_copied(bundled):
    """The fixed point: whatever the guest writes (200 MB/s here), the dirty rate settles at the bandwidth."""
    steady = mk.stats.iterations(bundled["noconverge_abort"]).query("iteration >= 4 and iteration <= 12")
    assert len(steady) == 9
    assert (steady["dirty_rate_bps"] / steady["bandwidth_bps"]).between(0.98, 1.02).all()
    assert steady["bandwidth_bps"].between(31 * MIB, 33 * MIB).all()


def test_the_dirty_rate_of_a_converging_guest_is_the_rate_it_was_told(bundled):
    """The guest writes 10 MB/s at random places of 64 MB."""
    table = mk.stats.iterations(bundled["precopy_converge_32"]).query("iteration in (1, 2, 3)")
    assert table["dirty_rate_bps"].between(9e6, 12.5e6).all()


def test_iterations_end_where_post_copy_begins(bundled):
    table = mk.stats.iterations(bundled["postcopy_switch"])
    assert list(table["iteration"]) == [1, 2, 3]
    assert np.isnan(table["newly_dirty_bytes"].iloc[-1])


def test_phases_follow_each_other(bundled):
    table = mk.stats.phases(bundled["block_raw"])
    assert list(table["phase"]) == ["prepare", "disk", "ram", "switchover"]
    assert (table["start_s"].iloc[1:].to_numpy() >= table["end_s"].iloc[:-1].to_numpy() - 1e-9).all()
    assert (table["duration_s"] > 0).all()
    assert list(mk.stats.phases(bundled["postcopy_switch"])["phase"]) == ["prepare", "ram", "switchover", "post-copy"]
    assert list(mk.stats.phases(bundled["noconverge_abort"])["phase"]) == ["prepare", "ram"]


def test_a_phase_whose_end_nobody_saw_is_bounded(bundled):
    table = mk.stats.phases(bundled["noconverge_abort"]).set_index("phase")
    assert table.loc["ram", "basis"] == "bounded"
    assert mk.stats.phases(bundled["stall_link"]).set_index("phase").loc["ram", "basis"] == "observed"


def test_a_stall_shows_in_the_flow_while_libvirts_bandwidth_stays_frozen(bundled):
    """The link was down from 3 s to 11 s; TCP came back at 16 s."""
    stalled = mk.stats.rates(bundled["stall_link"]).query("t_s > 5 and t_s < 15")
    assert len(stalled) > 100
    assert (stalled["flow_bandwidth_bps"] == 0).all()
    assert (stalled["reported_bandwidth_bps"] > 20 * MIB).all()


def test_the_summary_knows_what_ended_how(bundled):
    table = mk.stats.summary(bundled.values())
    assert table.loc["noconverge_abort", "outcome"] == "cancelled"
    assert table.loc["postcopy_switch", "post_copy"]
    assert table.loc["postcopy_switch", "downtime_ms"] == 10
    assert table.loc["postcopy_switch", "heartbeat_downtime_ms"] == pytest.approx(418.9)
    assert table.loc["stall_link", "duration_s"] == pytest.approx(31.1, abs=0.1)


def test_downtimes_speak_of_completed_migrations_only(bundled):
    table = mk.stats.downtimes(bundled.values())
    assert {"block_raw", "postcopy_switch", "precopy_converge_32", "stall_link"} <= set(table.index)
    assert "noconverge_abort" not in table.index
    assert table.loc["block_raw", "reported_ms"] == 91


def test_marks_are_named_and_in_time_order(bundled):
    table = mk.stats.marks(bundled["stall_link"])
    assert list(table["label"]) == ["link down", "link up", "switchover"]
    assert table["t_s"].is_monotonic_increasing


def test_a_trace_with_nothing_but_preparation_has_no_iterations_and_one_phase():
    rows = [{"mono_ns": 1, "wall_ns": 0, "source": "poll", "job_type": 2, "time_elapsed_ms": 0, "data_total_bytes": 0}]
    trace = mk.Trace.from_rows(rows, TraceMeta(end=End(outcome="lost")), "short")
    assert mk.stats.iterations(trace).empty
    assert list(mk.stats.phases(trace)["phase"]) == ["prepare"]


def test_a_guest_that_was_suspended_is_not_at_its_switchover(bundled):
    """libvirt tells the same lifecycle event for both."""
    trace = bundled["suspend-midway"]
    assert mk.stats.switchover_start_s(trace) is None
    assert list(mk.stats.marks(trace)["label"]) == ["suspend"]
    assert list(mk.stats.phases(trace)["phase"]) == ["prepare", "ram"]
