"""The values behind a monitor's decisions: a line for a person, a row for a table."""

from __future__ import annotations

from typing import Any

from migkit.drivers.monitor import Monitor
from migkit.policies import base, events, stall
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


def deadlines(monitor: Monitor, t_ns: int) -> list[tuple[str, float]]:
    """What the monitor's clock alone will bring: (what passes, seconds from now), the next first."""
    s, options = monitor.state, monitor.options
    if monitor.finished or s.mode == base.POST_COPY or events.abort_in_progress(s.abort_status):
        return []
    found = []
    if s.acceptable_s:
        switching = options.stall and s.mode != base.PAUSED and s.switch_deadline_s != s.acceptable_s
        at_s = s.switch_deadline_s if options.stall and s.mode != base.PAUSED else s.acceptable_s
        # A deadline of whole seconds has passed with the first whole second behind it.
        found.append(("switchover deadline" if switching else "completion deadline", at_s + 1 - t_ns / NS_PER_S))
    if options.progress_timeout_s and not options.stall:
        until_ns = s.last_progress_ns + (options.progress_timeout_s + 1) * NS_PER_S
        found.append(("progress timeout", (until_ns - t_ns) / NS_PER_S))
    return sorted(found, key=lambda pair: pair[1])


def _threshold(monitor: Monitor) -> float:
    outside = unsigned_to_float(monitor.state.outside_remaining)
    return unsigned_to_float(float_to_unsigned(outside * (1 - monitor.options.margin)))


def _target(monitor: Monitor) -> float:
    best = unsigned_to_float(monitor.state.best)
    return unsigned_to_float(float_to_unsigned(best * (1 + monitor.options.margin)))


def evidence(monitor: Monitor, t_ns: int) -> str:
    """The numbers that made the call in progress, in words: those of the rule that made it."""
    reason = monitor.calling_for
    if reason == "downtime-tuning":
        return _tuning(monitor)
    if reason == "initial-downtime":
        limit_ms = min(monitor.options.max_downtime_ms, base.QEMU_DEFAULT_DOWNTIME_MS)
        left = _left(monitor) if monitor.state.remaining else "libvirt has not begun to count what is left"
        return f"the first limit while stall detection is on: {format_ms(limit_ms)}; {left}"
    if reason == "stuck":
        idle_s = (t_ns - monitor.state.last_progress_ns) / NS_PER_S
        return (f"remaining not lower for {idle_s:.1f} s, more than {monitor.options.progress_timeout_s} s; "
                f"{_left(monitor)}; {_elapsed(monitor, t_ns)}")  # fmt: skip
    if reason.startswith("stall-"):
        return f"{_stall(monitor)}; {_pause(monitor)}; {_elapsed(monitor, t_ns)}"
    paused_for = f"; {_pause(monitor)}" if monitor.options.stall else ""
    return f"{_elapsed(monitor, t_ns)}; {_left(monitor)}{paused_for}"


def _left(monitor: Monitor) -> str:
    return f"{format_bytes(unsigned_to_float(monitor.state.remaining))} left"


def _elapsed(monitor: Monitor, t_ns: int) -> str:
    """The deadline that is compared: with stall detection the switchover's, unless the guest is paused."""
    s = monitor.state
    switching = monitor.options.stall and s.mode != base.PAUSED
    deadline_s = s.switch_deadline_s if switching else s.acceptable_s
    name = "switchover deadline" if switching and deadline_s != s.acceptable_s else "completion deadline"
    return f"{t_ns / NS_PER_S:.1f} s elapsed, {name} {deadline_s} s"


def _tuning(monitor: Monitor) -> str:
    options, now_ms = monitor.options, monitor.state.downtime_ms
    if monitor.state.last_tuned_ns == base.NEVER:
        return f"the first limit, {format_ms(options.tuning_initial_ms)}, before any iteration"
    step_ms = max((options.max_downtime_ms - options.tuning_initial_ms) // options.tuning_steps, 1)
    cooldown_s = options.tuning_cooldown_ns // NS_PER_S
    return (f"{format_ms(now_ms)} did not suffice for {cooldown_s} s, past iteration {options.tuning_start_after}; "
            f"steps of {format_ms(step_ms)} up to {format_ms(options.max_downtime_ms)}; {_left(monitor)}")  # fmt: skip


def _stall(monitor: Monitor) -> str:
    s, options = monitor.state, monitor.options
    record, outside, best = (
        format_bytes(unsigned_to_float(value)) for value in (s.record_remaining, s.outside_remaining, s.best)
    )
    window_s = options.window_ms / 1000
    kept = 1 - options.margin
    target = f", target best x {1 + options.margin:g}" if options.search_minima else ""
    judged = f"remaining {record} at the iteration's end, not below {outside} x {kept:g} of {window_s:g} s before"
    return f"{judged}; best {best}{target}"


def _pause(monitor: Monitor) -> str:
    s, options = monitor.state, monitor.options
    if s.ewma_bps == 0:
        return "no bandwidth known yet"
    estimate_ms = stall.estimate_ms(s.record_remaining, s.ewma_bps)
    limit = f"{format_ms(options.max_downtime_ms)} x {options.precopy_factor:g}"
    return f"smoothed bandwidth {format_bps(s.ewma_bps)}: sending it takes {format_ms(estimate_ms)}, accepted {limit}"
