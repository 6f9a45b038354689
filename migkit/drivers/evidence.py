"""The values behind a monitor's decisions: a line for a person, a row for a table."""

from __future__ import annotations

from typing import Any

from migkit.drivers.monitor import Monitor
from migkit.policies import base, stall
from migkit.policies.integers import float_to_unsigned, unsigned_to_float
from migkit.units import NS_PER_S, format_bps, format_bytes, format_ms

INTERNAL_COLUMNS = (
    "t_s", "mode", "abort_status", "remaining_bytes", "no_progress_s", "deadline_s", "switch_deadline_s", "ewma_bps",
    "estimate_ms", "window_minimum_bytes", "threshold_bytes", "stalled", "best_bytes", "target_bytes",
    "relax_deadline_s", "downtime_ms",
)  # fmt: skip


def internals(monitor: Monitor, t_ns: int) -> dict[str, Any]:
    """The monitor's values now; None where they mean nothing (yet)."""
    s, options = monitor.state, monitor.options
    outside = options.stall and stall.outside_set(s)
    stalled = options.stall and bool(s.stalled)
    return {
        "t_s": t_ns / NS_PER_S,
        "mode": base.MODE_NAMES[s.mode],
        "abort_status": monitor.abort_status,
        "remaining_bytes": unsigned_to_float(s.remaining),
        "no_progress_s": (t_ns - s.last_progress_ns) / NS_PER_S,
        "deadline_s": s.acceptable_s or None,
        "switch_deadline_s": s.switch_deadline_s if options.stall and s.acceptable_s else None,
        "ewma_bps": s.ewma_bps if options.stall and s.ewma_bps else None,
        "estimate_ms": stall.estimate_ms(s.record_remaining, s.ewma_bps) if options.stall and s.ewma_bps else None,
        "window_minimum_bytes": unsigned_to_float(s.outside_remaining) if outside else None,
        "threshold_bytes": _threshold(monitor) if outside else None,
        "stalled": stalled,
        "best_bytes": unsigned_to_float(s.best) if stalled else None,
        "target_bytes": _target(monitor) if stalled and options.search_minima else None,
        "relax_deadline_s": s.relax_deadline_ms / 1000 if stalled else None,
        "downtime_ms": s.downtime_ms or None,
    }


def _threshold(monitor: Monitor) -> float:
    outside = unsigned_to_float(monitor.state.outside_remaining)
    return unsigned_to_float(float_to_unsigned(outside * (1 - monitor.options.margin)))


def _target(monitor: Monitor) -> float:
    best = unsigned_to_float(monitor.state.best)
    return unsigned_to_float(float_to_unsigned(best * (1 + monitor.options.margin)))


def evidence(monitor: Monitor, t_ns: int) -> str:
    """The numbers that made the call in progress, in words."""
    s, options = monitor.state, monitor.options
    elapsed = f"{t_ns / NS_PER_S:.1f} s elapsed, deadline {s.acceptable_s} s"
    left = f"{format_bytes(unsigned_to_float(s.remaining))} left"
    if not options.stall:
        idle_s = (t_ns - s.last_progress_ns) / NS_PER_S
        idle = f"remaining not lower for {idle_s:.1f} s, limit {options.progress_timeout_s} s"
        return f"{elapsed}; {idle}; {left}"
    if s.ewma_bps == 0:
        return f"{elapsed}; no bandwidth known yet; {left}"
    estimate = stall.estimate_ms(s.record_remaining, s.ewma_bps)
    bandwidth = f"bandwidth {format_bps(s.ewma_bps)}, pause would be {format_ms(estimate)}"
    if not s.stalled:
        return f"{elapsed}; {bandwidth}; {left}"
    boundary = f"remaining {format_bytes(unsigned_to_float(s.record_remaining))} at the iteration's end"
    outside, best = (format_bytes(unsigned_to_float(value)) for value in (s.outside_remaining, s.best))
    known = f"least before the window {outside}, best {best}"
    return f"stalled: {boundary}, {known}; {bandwidth} against {format_ms(options.max_downtime_ms)}; {elapsed}"
