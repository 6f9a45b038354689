"""Numbers out of traces: tables with their units in the labels. Nothing is drawn here.

What a sample means is in libvirt's and QEMU's hands (QEMU migration/ram.c, libvirt src/qemu/qemu_migration.c):
remaining moves only by pages sent and by bitmap syncs, and an iteration boundary is such a sync.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd

from migkit.meta import TraceMeta
from migkit.trace import Trace
from migkit.units import MIB, NS_PER_S

Floats = npt.NDArray[np.float64]

# virDomainEventType and details, libvirt include/libvirt/libvirt-domain.h
_SUSPENDED = 3
_SUSPENDED_MIGRATED, _SUSPENDED_POSTCOPY = 1, 7

# An event follows the call that caused it within this time.
_SAME_MOMENT_S = 1.0

ITERATION_COLUMNS = (
    "iteration",
    "start_s",
    "duration_s",
    "remaining_start_bytes",
    "remaining_end_bytes",
    "sent_bytes",
    "newly_dirty_bytes",
    "bandwidth_bps",
    "dirty_rate_bps",
    "reported_dirty_rate_bps",
    "samples",
)
PHASE_COLUMNS = ("phase", "start_s", "end_s", "duration_s", "basis")
# What decides how long the guest stands still.
_DOWNTIME_KINDS = ("pre-copy", "limit raised", "link-limited", "throttled", "post-copy", "suspended")
_LAST_S, _SLOWER = 3.0, 0.8


def iterations(trace: Trace) -> pd.DataFrame:
    """One row an iteration of the pre-copy.

    Returns a table with `ITERATION_COLUMNS`. An iteration reaches from its first sample to the first sample of the
    next one. `newly_dirty_bytes` is what the guest dirtied meanwhile, by the flow identity
    remaining_b - remaining_a + page_size x (pages sent between a and b), exact whatever the moment of the sync;
    it is null for a last iteration that no sample closes. `dirty_rate_bps` is that over the duration,
    `reported_dirty_rate_bps` what libvirt said last within it, pages made bytes.
    """
    pre = _precopy_samples(trace)
    if pre.empty or pre["final"].iloc[0]:
        return pd.DataFrame({name: pd.Series(dtype="float64") for name in ITERATION_COLUMNS})
    closing = pre["final"].to_numpy()
    number = np.where(closing, np.inf, pre["iteration"].to_numpy())
    first = [0, *(int(i) + 1 for i in np.flatnonzero(number[1:] != number[:-1]))]
    rows = [_iteration(pre, a, b) for a, b in zip(first, [*first[1:], len(pre)], strict=True) if not closing[a]]
    return pd.DataFrame(rows, columns=list(ITERATION_COLUMNS)).astype({"iteration": "int64", "samples": "int64"})


def _precopy_samples(trace: Trace) -> pd.DataFrame:
    """Samples of the running pre-copy with memory counters, as floats; the first one after the guest was stopped
    for the switchover (or the final statistics) comes last and is marked `final`."""
    page = trace.column("memory_page_size_bytes")
    compressed = np.nan_to_num(trace.column("compression_pages"))
    pages = trace.column("memory_normal_pages") + trace.column("memory_constant_pages") + compressed
    stopped_s, post_copy_s = switchover_start_s(trace), post_copy_start_s(trace)
    is_job = (trace.samples["source"] == "job").to_numpy(dtype=bool)
    final = is_job | (trace.t_s >= (np.inf if stopped_s is None else stopped_s))
    table = pd.DataFrame(
        {
            "t_s": trace.t_s,
            "iteration": trace.column("memory_iteration"),
            "remaining_bytes": trace.column("memory_remaining_bytes"),
            "sent_pages_bytes": pages * page,
            "sent_bytes": trace.column("memory_processed_bytes"),
            "dirty_rate_bps": trace.column("memory_dirty_rate_pages_per_s") * page,
            "final": final,
        }
    )[trace.active | is_job]
    known = table.dropna(subset=["iteration", "remaining_bytes", "sent_pages_bytes"])
    known = known[known["iteration"] > 0]
    # In post-copy the pages flow for other reasons: nothing there closes a pass of the pre-copy.
    closing = known[known["final"]].head(0 if post_copy_s is not None else 1)
    return pd.concat([known[~known["final"]], closing], ignore_index=True)


def _iteration(pre: pd.DataFrame, first: int, following: int) -> tuple[float, ...]:
    closed = following < len(pre)
    own = pre.iloc[first:following]
    last = pre.iloc[following] if closed else own.iloc[-1]
    begin, end = own.iloc[0], own.iloc[-1]
    duration_s = last["t_s"] - begin["t_s"]
    sent = last["sent_bytes"] - begin["sent_bytes"]
    new = (last["remaining_bytes"] - begin["remaining_bytes"]) + (last["sent_pages_bytes"] - begin["sent_pages_bytes"])
    return (
        begin["iteration"],
        begin["t_s"],
        duration_s,
        own["remaining_bytes"].max(),
        end["remaining_bytes"],
        sent,
        new if closed else np.nan,
        sent / duration_s if duration_s > 0 else np.nan,
        new / duration_s if closed and duration_s > 0 else np.nan,
        end["dirty_rate_bps"],
        float(len(own)),
    )


def phases(trace: Trace) -> pd.DataFrame:
    """The phases a migration went through: prepare, disk, ram, switchover, post-copy; those that happened, in order.

    Returns a table with `PHASE_COLUMNS`. `basis` is "observed" where an event or the counters mark both ends,
    "bounded" where an end is only known to lie no later.
    """
    t, active = trace.t_s, trace.active
    disk, memory = trace.column("disk_total_bytes") > 0, trace.column("memory_total_bytes") > 0
    started = np.flatnonzero(active & (disk | memory))
    end_s = _end_s(trace)
    if not len(started):
        return _phase_table([("prepare", 0.0, end_s, "bounded")])
    found = [("prepare", 0.0, float(t[started[0]]), "observed")]
    in_memory = np.flatnonzero(active & memory)
    ram_s = float(t[in_memory[0]]) if len(in_memory) else end_s
    if (active & disk).any():
        found.append(("disk", float(t[started[0]]), ram_s, "observed"))
    if len(in_memory):
        found += _memory_phases(trace, ram_s, end_s)
    return _phase_table(found)


def _memory_phases(trace: Trace, ram_s: float, end_s: float) -> list[tuple[str, float, float, str]]:
    stopped_s, post_copy_s = switchover_start_s(trace), post_copy_start_s(trace)
    ends = [moment for moment in (stopped_s, post_copy_s) if moment is not None]
    found = [("ram", ram_s, min(ends, default=end_s), "observed" if ends else "bounded")]
    if stopped_s is not None:
        reported_ms = (trace.meta.end.completed or {}).get("downtime")
        resumed_s = end_s if reported_ms is None else min(end_s, stopped_s + reported_ms / 1000)
        found.append(("switchover", stopped_s, resumed_s, "bounded"))
    if post_copy_s is not None:
        found.append(("post-copy", post_copy_s, end_s, "observed"))
    return found


def _phase_table(rows: list[tuple[str, float, float, str]]) -> pd.DataFrame:
    named = [(phase, start, end, end - start, basis) for phase, start, end, basis in rows]
    return pd.DataFrame(named, columns=list(PHASE_COLUMNS))


def _end_s(trace: Trace) -> float:
    """When the job was over by libvirt's final statistics, else at the first row that is no longer active."""
    completed = trace.meta.end.completed or {}
    if "time_elapsed" in completed:
        return float(completed["time_elapsed"]) / 1000
    t = trace.t_s
    last = np.flatnonzero(trace.active)[-1]
    after = np.flatnonzero(trace.samples["job_type"].notna().to_numpy() & (np.arange(len(t)) > last))
    return float(t[after[0]] if len(after) else t[last])


def switchover_start_s(trace: Trace) -> float | None:
    """When the source's guest was stopped for the switchover, or None; from the lifecycle event.

    libvirt tells the same event when somebody suspends the guest during a migration: after such an action it says
    nothing of the switchover."""
    stopped_s = _lifecycle_s(trace, _SUSPENDED, _SUSPENDED_MIGRATED)
    asked = np.flatnonzero((trace.samples["action"] == "suspend").fillna(False).to_numpy(dtype=bool))
    if stopped_s is None or not len(asked):
        return stopped_s
    return None if abs(stopped_s - trace.t_s[asked[0]]) < _SAME_MOMENT_S else stopped_s


def post_copy_start_s(trace: Trace) -> float | None:
    """When post-copy began, or None: the lifecycle event, else a successful start_post_copy action."""
    event_s = _lifecycle_s(trace, _SUSPENDED, _SUSPENDED_POSTCOPY)
    if event_s is not None:
        return event_s
    rows = trace.samples
    asked = (rows["action"] == "start_post_copy") & rows["succeeded"].fillna(True)
    places = np.flatnonzero(asked.fillna(False).to_numpy(dtype=bool))
    return float(trace.t_s[places[0]]) if len(places) else None


def _lifecycle_s(trace: Trace, event: int, detail: int) -> float | None:
    rows = trace.samples
    same = ((rows["lifecycle_event"] == event) & (rows["lifecycle_detail"] == detail)).fillna(False)
    places = np.flatnonzero(same.to_numpy(dtype=bool))
    return float(trace.t_s[places[0]]) if len(places) else None


def rates(trace: Trace) -> pd.DataFrame:
    """Bandwidth and dirty rate over time in the same unit.

    Returns a table with one row an active sample: t_s, reported_bandwidth_bps (memory_bps as libvirt said it, frozen
    in a stall), flow_bandwidth_bps (bytes processed over the last second or longer), dirty_rate_bps (pages made
    bytes). Null where unknown.
    """
    chosen = trace.active
    t, sent = trace.t_s[chosen], trace.column("data_processed_bytes")[chosen]
    page = trace.column("memory_page_size_bytes")[chosen]
    return pd.DataFrame(
        {
            "t_s": t,
            "reported_bandwidth_bps": trace.column("memory_bps")[chosen],
            "flow_bandwidth_bps": _slope(t, sent, window_s=1.0),
            "dirty_rate_bps": trace.column("memory_dirty_rate_pages_per_s")[chosen] * page,
        }
    )


def _slope(t: Floats, value: Floats, *, window_s: float) -> Floats:
    """Difference quotient over the shortest stretch back that is at least `window_s` long; NaN before there is one."""
    result = np.full(len(t), np.nan)
    back = np.searchsorted(t, t - window_s, side="right") - 1
    ok = back >= 0
    result[ok] = (value[ok] - value[back[ok]]) / (t[ok] - t[back[ok]])
    return result


def summary(traces: Iterable[Trace]) -> pd.DataFrame:
    """One row a trace: what ran, how it went, how it ended. The index is the trace's name."""
    rows = [_summary(trace) for trace in traces]
    return pd.DataFrame(rows).set_index("trace") if rows else pd.DataFrame()


def _summary(trace: Trace) -> dict[str, object]:
    meta, chosen = trace.meta, trace.active
    passes, final = iterations(trace), meta.end.completed or {}
    remaining = trace.column("data_remaining_bytes")[chosen]
    flow = rates(trace)
    bandwidth_mib = meta.migration.parameters.get("bandwidth")
    beat = meta.heartbeat
    return {
        "trace": trace.name,
        "outcome": meta.end.outcome,
        "provenance": meta.provenance,
        "duration_s": _end_s(trace),
        "memory_bytes": meta.domain.memory_bytes,
        "bandwidth_limit_bps": None if bandwidth_mib is None else bandwidth_mib * MIB,
        "bandwidth_bps": _median(flow["flow_bandwidth_bps"]),
        "dirty_rate_bps": _median(flow["dirty_rate_bps"][flow["dirty_rate_bps"] > 0]),
        "iterations": int(passes["iteration"].max()) if len(passes) else 0,
        "remaining_last_bytes": float(remaining[-1]) if len(remaining) else None,
        "expected_downtime_ms": _last(trace.column("downtime_ms")[chosen]),
        "downtime_ms": final.get("downtime"),
        "heartbeat_downtime_ms": None if beat is None else beat.downtime_ms,
        "throttle_percent": _largest(trace.column("auto_converge_throttle_percent")[chosen]),
        "post_copy": post_copy_start_s(trace) is not None,
        "samples": int(chosen.sum()),
        "interval_ms": meta.cadence.interval_ms,
    }


def _median(values: pd.Series) -> float | None:
    known = values.dropna()
    return float(known.median()) if len(known) else None


def _last(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else None


def _largest(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else None


def downtimes(traces: Iterable[Trace]) -> pd.DataFrame:
    """What was said of the guest's pause, side by side; one row a trace that completed, in ms.

    Returns kind (what decided it: pre-copy alone, a raised downtime limit, a link slower than libvirt's limit, a
    throttled guest, post-copy, or a suspended guest), expected_ms (QEMU's estimate in the last sample before the
    switchover, or before somebody suspended the guest), reported_ms (libvirt's final statistics), heartbeat_ms (the
    guest's own gap across the switchover), heartbeat_p99_gap_ms (the gap it has anyway) and largest_gap_ms (the longest
    pause anywhere in the migration). Null where unknown.
    """
    rows = [_downtimes(trace) for trace in traces if trace.meta.end.outcome == "completed"]
    numbers = ["expected_ms", "reported_ms", "heartbeat_ms", "heartbeat_p99_gap_ms", "largest_gap_ms"]
    table = pd.DataFrame(rows, columns=["trace", "kind", *numbers]).set_index("trace")
    return table.astype(
        {"kind": pd.CategoricalDtype(list(_DOWNTIME_KINDS), ordered=True), **dict.fromkeys(numbers, "float64")}
    )


def _downtimes(trace: Trace) -> tuple[object, ...]:
    stopped_s = [switchover_start_s(trace), _suspended_s(trace)]
    before = trace.active & (trace.t_s < min((s for s in stopped_s if s is not None), default=np.inf))
    beat = trace.meta.heartbeat
    return (
        trace.name,
        _downtime_kind(trace),
        _last(trace.column("downtime_ms")[before]),
        (trace.meta.end.completed or {}).get("downtime"),
        beat and beat.downtime_ms,
        beat and beat.p99_gap_ms,
        beat and beat.largest_gap_ms,
    )


def _suspended_s(trace: Trace) -> float | None:
    """When somebody suspended the guest to let the migration end: from then on it stands still."""
    rows = trace.samples
    done = (rows["action"] == "suspend").fillna(False) & rows["succeeded"].fillna(True).astype(bool)
    moments = trace.t_s[done.to_numpy(dtype=bool)]
    return float(moments[0]) if len(moments) else None


def _downtime_kind(trace: Trace) -> str:
    """What decides how long the guest stands still; the first that holds."""
    rows = trace.samples
    done = set(rows["action"][rows["succeeded"].fillna(True).astype(bool)].dropna())
    if post_copy_start_s(trace) is not None:
        return "post-copy"
    if "suspend" in done:
        return "suspended"
    if np.isfinite(trace.column("auto_converge_throttle_percent")).any():
        return "throttled"
    if _held_by_the_link(trace):
        return "link-limited"
    return "limit raised" if "set_max_downtime" in done else "pre-copy"


def _held_by_the_link(trace: Trace) -> bool:
    """Whether the link, and not libvirt's limit, set the pace at the end: by the lab's label, else by the flow."""
    truth = trace.meta.lab.truth if trace.meta.lab else {}
    if truth.get("limited_by") == "network" and "fault_from_s" not in truth:
        return True
    rows = trace.samples
    asked = [trace.meta.migration.parameters.get("bandwidth"), *rows["argument"][rows["action"] == "set_bandwidth"]]
    limits_mib = [float(limit) for limit in asked if limit]
    flow = rates(trace).dropna(subset=["flow_bandwidth_bps"])
    last = flow["flow_bandwidth_bps"][flow["t_s"] > flow["t_s"].max() - _LAST_S]
    return bool(limits_mib and len(last) and last.median() < _SLOWER * limits_mib[-1] * MIB)


def downtime_limits(trace: Trace) -> pd.DataFrame:
    """QEMU's downtime limit over time, as far as it is known: t_s, limit_ms, a row each time it changed.

    From the recorder's looks at it, else from the limit at the start and the actions that set it."""
    rows = trace.samples[trace.samples["action"] == "set_max_downtime"]
    done = zip(rows["mono_ns"], rows["argument"], rows["succeeded"].fillna(True), strict=True)
    actions = [
        (int(at) - trace.t0_ns, "set_max_downtime", None if pd.isna(argument) else int(argument), bool(succeeded))
        for at, argument, succeeded in done
    ]
    changed = [(t_ns / NS_PER_S, limit) for t_ns, limit in limit_changes(trace.meta, trace.t0_ns, actions)]
    return pd.DataFrame(changed, columns=["t_s", "limit_ms"])


def limit_changes(
    meta: TraceMeta, t0_ns: int, actions: Iterable[tuple[int, str, int | None, bool]]
) -> list[tuple[int, int]]:
    """QEMU's downtime limit as (ns since the job began, ms), an item each time it changed; `actions` as (ns since the
    job began, action, argument, succeeded)."""
    first = meta.migration.downtime_limit_ms
    known = [(0, first)] if first is not None else []
    noted = meta.notes.get("downtime_limits_ms") or []
    if noted:
        known += [(int(at) - t0_ns, int(limit)) for at, limit in noted]
    else:
        known += [
            (t, limit) for t, what, limit, ok in actions if what == "set_max_downtime" and ok and limit is not None
        ]
    return [pair for i, pair in enumerate(known) if i == 0 or pair[1] != known[i - 1][1]]


def marks(trace: Trace) -> pd.DataFrame:
    """Moments worth a mark on a time axis: what was done to the migration, and what lifecycle events told.

    Returns t_s, kind (action or event) and label, in time order; the migrate call itself is left out.
    """
    rows = trace.samples
    found = []
    done = rows["action"].notna() & ~rows["action"].isin(["migrate_start", "migrate"])
    for i in np.flatnonzero(done.to_numpy(dtype=bool)):
        failed = " (failed)" if rows["succeeded"].iloc[i] is not pd.NA and not rows["succeeded"].iloc[i] else ""
        argument = rows["argument"].iloc[i]
        value = "" if pd.isna(argument) else f" {argument}"
        found.append((trace.t_s[i], "action", str(rows["action"].iloc[i]).replace("_", " ") + value + failed))
    for moment, label in ((switchover_start_s(trace), "switchover"), (post_copy_start_s(trace), "post-copy")):
        if moment is not None:
            found.append((moment, "event", label))
    return pd.DataFrame(sorted(found), columns=["t_s", "kind", "label"])
