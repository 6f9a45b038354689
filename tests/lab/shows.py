"""What a trace must show for its scenario's name to be true; for new recordings and for those that are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import migkit as mk
from migkit import stats
from migkit.lab.scenario import Scenario

MIB = 2**20
FAILED = {
    "link-dead", "socket-cut", "destination-killed", "destination-daemon-restarted", "source-daemon-restarted",
    "block-volume-small", "block-volume-missing",
}  # fmt: skip


def assert_it_shows_its_name(trace: mk.Trace, asked: Scenario) -> None:
    """The outcome, the actions, the heartbeat, and what `SHOWS` says of this scenario."""
    assert trace.meta.end.outcome == outcome(asked)
    done = trace.samples[trace.samples["source"] == "action"]
    wanted = [action.do for action in asked.actions]
    assert [name for name in done["action"] if name in wanted] == wanted
    assert done["succeeded"].all()
    heartbeat, moved = trace.meta.heartbeat, trace.meta.end.outcome == "completed"
    assert heartbeat is not None
    assert (heartbeat.downtime_ms is not None) == (moved or asked.name == "post-copy-socket-cut")
    assert SHOWS[asked.name](trace)


def outcome(asked: Scenario) -> str:
    """How it must end."""
    if asked.name in FAILED:
        return "failed"
    if asked.name == "post-copy-socket-cut":
        return "postcopy-failed"
    return "cancelled" if any(action.do == "abort" for action in asked.actions) else "completed"


def largest(trace: mk.Trace, name: str) -> float:
    """The largest value of a column while the migration ran."""
    return float(np.nanmax(trace.column(name)[trace.active]))


def stall_s(trace: mk.Trace) -> float:
    """The longest time during which no data was sent."""
    sent, t = trace.column("memory_processed_bytes")[trace.active], trace.t_s[trace.active]
    moved = np.flatnonzero(np.diff(sent, prepend=-1) > 0)
    return float(np.diff(t[moved]).max())


def downtime_ms(trace: mk.Trace) -> float:
    """By the guest's own heartbeat."""
    assert trace.meta.heartbeat is not None
    assert trace.meta.heartbeat.downtime_ms is not None
    return trace.meta.heartbeat.downtime_ms


def lifecycle(trace: mk.Trace) -> set[tuple[int, int]]:
    """Events and their details."""
    events = trace.samples[trace.samples["source"] == "lifecycle"]
    return set(zip(events["lifecycle_event"], events["lifecycle_detail"], strict=True))


def duration_s(trace: mk.Trace) -> float:
    """How long it ran."""
    return float(trace.t_s[trace.active][-1])


def slowest_mibps(trace: mk.Trace, window_s: float = 4) -> float:
    """The least that was sent over any `window_s` seconds, in MiB/s."""
    t, sent = trace.t_s[trace.active], trace.column("memory_processed_bytes")[trace.active]
    known = np.isfinite(sent) & (sent > 0)
    grid = np.arange(t[known][0], t[known][-1] - window_s, 0.5)
    ahead, here = np.interp(grid + window_s, t[known], sent[known]), np.interp(grid, t[known], sent[known])
    return float(((ahead - here) / window_s / MIB).min())


def peaks(trace: mk.Trace) -> np.ndarray:
    """Remaining at each iteration's start, in bytes."""
    return stats.iterations(trace)["remaining_start_bytes"].to_numpy()


def runs_long(trace: mk.Trace) -> bool:
    """Long enough for windows of 40 s and 150 s to be met."""
    return duration_s(trace) >= 225


def flat(trace: mk.Trace) -> bool:
    """The level of the passes' starts does not fall below half of what the working set makes of it."""
    level = peaks(trace)[2:]
    return len(level) >= 3 and float(level[-3:].max()) > 0.4 * float(level.max())


SHOWS: dict[str, Callable[[mk.Trace], bool]] = {
    "idle": lambda trace: largest(trace, "memory_iteration") <= 3,
    "converge-fast": lambda trace: 2 <= largest(trace, "memory_iteration") <= 8,
    "converge-slow": lambda trace: largest(trace, "memory_iteration") > 8,
    "converge-late": lambda trace: largest(trace, "memory_iteration") > 20,
    "random-writes": lambda trace: largest(trace, "memory_iteration") > 5,
    "hot-cold": lambda trace: largest(trace, "memory_iteration") >= 3,
    "bursty": lambda trace: largest(trace, "memory_iteration") >= 2,
    "nonconverging-aborted": flat,
    "nonconverging-long": lambda trace: flat(trace) and duration_s(trace) > 170,
    "post-copy": lambda trace: (3, 7) in lifecycle(trace),  # suspended, for post-copy
    "auto-converge": lambda trace: largest(trace, "auto_converge_throttle_percent") >= 40,
    "suspend-midway": lambda trace: downtime_ms(trace) > 1000,
    "downtime-raised": lambda trace: largest(trace, "downtime_ms") > 300,
    "destination-stopped": lambda trace: stall_s(trace) > 4,
    "link-down": lambda trace: stall_s(trace) > 4,
    "bandwidth-lowered": lambda trace: slowest_mibps(trace) < 20,
    "block-then-ram": lambda trace: largest(trace, "disk_total_bytes") == 128 * MIB,
    "zero-pages": lambda trace: largest(trace, "memory_constant_pages") > 256 * 256,
    "growing-working-set": lambda trace: float(peaks(trace)[-3:].max()) > 1.4 * float(peaks(trace)[1:].min()),
    "shrinking-working-set": lambda trace: 15 < duration_s(trace) < 60,
    "near-critical-random": lambda trace: largest(trace, "memory_iteration") > 15,
    "phases-of-seconds": lambda trace: largest(trace, "memory_iteration") > 5,
    "link-limited": lambda trace: slowest_mibps(trace, 2) < 26,
    "bandwidth-raised": lambda trace: float(stats.rates(trace)["flow_bandwidth_bps"].max()) > 40 * MIB,
    "multifd": lambda trace: trace.meta.migration.parameters["parallel.connections"] == 4,
    "xbzrle": lambda trace: largest(trace, "compression_pages") > 1000,
    "pair-large": lambda trace: slowest_mibps(trace) < 20,
    "pair-small": lambda trace: slowest_mibps(trace) < 20,
    "post-copy-early": lambda trace: (3, 7) in lifecycle(trace) and largest(trace, "memory_iteration") <= 2,
    "post-copy-late": lambda trace: (3, 7) in lifecycle(trace) and duration_s(trace) > 40,
    "post-copy-throttled": lambda trace: (3, 7) in lifecycle(trace) and duration_s(trace) > 18,
    "auto-converge-gentle": lambda trace: largest(trace, "auto_converge_throttle_percent") >= 20,
    "auto-converge-brutal": lambda trace: largest(trace, "auto_converge_throttle_percent") >= 80,
    "downtime-steps": lambda trace: trace.meta.end.outcome == "completed" and duration_s(trace) > 15,
    "link-one-percent": lambda trace: slowest_mibps(trace, 8) < 1,
    "link-dead": lambda trace: stall_s(trace) < 30 and duration_s(trace) > 20,
    "port-blocked": lambda trace: stall_s(trace) > 18,
    "socket-cut": lambda trace: duration_s(trace) < 10,
    "post-copy-socket-cut": lambda trace: (3, 8) in lifecycle(trace),
    "destination-killed": lambda trace: duration_s(trace) < 12,
    "destination-daemon-restarted": lambda trace: duration_s(trace) < 12,
    "source-daemon-restarted": lambda trace: duration_s(trace) < 12,
    "user-aborts": lambda trace: largest(trace, "memory_iteration") <= 3,
    "block-volume-small": lambda trace: "different sizes" in trace.meta.end.error_text,
    "block-volume-missing": lambda trace: "pool" in trace.meta.end.error_text,
    "long-nonconverging": lambda trace: runs_long(trace) and flat(trace),
    "long-hot-set": lambda trace: runs_long(trace) and largest(trace, "downtime_ms") > 300,
    "long-phases-minutes": runs_long,
    "long-phase-ends": lambda trace: duration_s(trace) > 205,
    "long-phases-seconds": lambda trace: runs_long(trace) and flat(trace),
    "long-near-critical-below": lambda trace: duration_s(trace) > 150,
    "long-near-critical-at": runs_long,
    "long-near-critical-above": lambda trace: runs_long(trace) and flat(trace),
    "long-idle-2gib": lambda trace: runs_long(trace) and largest(trace, "memory_iteration") <= 6,
    "long-drop-in-the-middle": lambda trace: runs_long(trace) and slowest_mibps(trace, 20) < 2,
    "long-drop-nonconverging": lambda trace: runs_long(trace) and slowest_mibps(trace, 20) < 12,
    "long-destination-stopped": lambda trace: runs_long(trace) and stall_s(trace) > 165,
    "long-link-one-percent": lambda trace: runs_long(trace) and slowest_mibps(trace, 20) < 0.3,
    "long-downtime-steps": runs_long,
}
