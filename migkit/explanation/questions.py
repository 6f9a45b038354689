"""The operator's questions to a migration, answered from its course: yes, no or cannot tell, with the figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from migkit import stats
from migkit.explanation.answer import Answer, Figure
from migkit.explanation.course import Course, Floats, Help, has_assigned_devices
from migkit.explanation.flow import STALL_S, Window
from migkit.explanation.thresholds import NO_EFFECT
from migkit.explanation.trend import Trend, since_s
from migkit.explanation.verdict import CANNOT_TELL, NO, YES
from migkit.units import MIB

Figures = dict[str, Figure]

# Newly dirtied over sent: what comes closer to 1 than this gains nothing.
_TOO_HIGH_RATIO = 0.9
# Short passes scatter: so many are taken together.
_SMOOTHED = 5


def answers(course: Course, trend: Trend | None) -> tuple[Answer, ...]:
    """All answers that need no replay, in the order in which they are asked."""
    return (
        remaining_falls(course, trend),
        dirty_rate_too_high(course, trend),
        stalled(course),
        slow_path(course),
        post_copy_helps(course, trend),
        auto_converge_helps(course, trend),
        helped(course),
        policy_acted(course),
        paused(course),
        throttled(course),
        disk_copied(course),
        failed(course),
    )


def remaining_falls(course: Course, trend: Trend | None) -> Answer:
    """By the level of the peaks, pass by pass: how fast, and where that leads."""
    name = "remaining falls"
    if trend is None or trend.direction is None:
        closed = len(course.passes)
        if course.by_itself:
            return Answer(question=name, answer=YES, basis="observed", figures={"passes": len(course.tail)})
        return Answer(question=name, answer=CANNOT_TELL, basis="unknowable", figures={"passes": closed})
    figures: Figures = {
        "passes": trend.passes,
        "level_bytes": trend.level_bytes,
        "slope_bytes_a_minute": 60 * trend.slope_bps,
        "slope_low_bytes_a_minute": 60 * trend.slope_low_bps,
        "slope_high_bytes_a_minute": 60 * trend.slope_high_bps,
        "settled_s": None if trend.direction == "falling" else trend.settled_s,
        "fits_after_s": None,
        "fits_after_low_s": None,
        "fits_after_high_s": None,
        "rests_at_bytes": trend.rests_at_bytes,
        "ended_by_itself": YES if course.by_itself else NO,
    }
    falls = trend.direction == "falling"
    if falls and not course.by_itself and trend.level_bytes is not None:
        figures["fits_after_s"] = _fits_after_s(course, trend, trend.slope_bps)
        figures["fits_after_low_s"] = _fits_after_s(course, trend, trend.slope_low_bps)
        figures["fits_after_high_s"] = _fits_after_s(course, trend, trend.slope_high_bps)
    return Answer(question=name, answer=YES if falls else NO, basis="observed", from_s=trend.since_s,
                  until_s=trend.until_s, figures=figures)  # fmt: skip


def _fits_after_s(course: Course, trend: Trend, slope_bps: float) -> float:
    """When the peaks reach what the downtime limit lets through: at an even dirty rate they fall in a straight line."""
    last = float(course.passes["remaining_start_bytes"].iloc[-1])
    fits = course.downtime_limit_ms / 1000 * trend.bandwidth_bps
    return float(course.passes["start_s"].iloc[-1]) + max(last - fits, 0.0) / -slope_bps


def dirty_rate_too_high(course: Course, trend: Trend | None) -> Answer:
    """By what was really dirtied from pass to pass. QEMU's own rate counts a page once a pass: it settles at the
    bandwidth however fast the guest writes, so the excess is only known to be at least this."""
    name = "dirty rate too high"
    if trend is None:
        return _dirty_in_first_pass(course)
    above, limit_s = _above(course.passes), course.downtime_limit_ms / 1000
    figures: Figures = {
        "dirty_bps": trend.dirty_bps,
        "bandwidth_bps": trend.bandwidth_bps,
        "dirty_ratio": trend.dirty_ratio,
        "least_dirty_bps": trend.least_dirty_bps,
        "above_s": float(above["duration_s"].sum()),
        "pause_s": trend.pause_s,
        # Had it once been less than the limit, QEMU would have switched over.
        "pause_low_s": max(trend.pause_low_s, min(limit_s, trend.pause_s)),
        "pause_high_s": trend.pause_high_s,
        "downtime_limit_ms": course.downtime_limit_ms,
        "ended_by_itself": YES if course.by_itself else NO,
        "throttled": YES if course.throttled else NO,
    }
    answer, basis = _too_high(course, trend)
    later = course.passes[course.passes["iteration"] >= 2]
    summed = later[["newly_dirty_bytes", "sent_pages_bytes"]].rolling(_SMOOTHED, center=True, min_periods=1).sum()
    gains_nothing = (summed["newly_dirty_bytes"] >= _TOO_HIGH_RATIO * summed["sent_pages_bytes"]).to_numpy(dtype=bool)
    begin_s = since_s(later, gains_nothing) if answer == YES else trend.since_s
    return Answer(question=name, answer=answer, basis=basis, from_s=begin_s, until_s=trend.until_s, figures=figures)


def _too_high(course: Course, trend: Trend) -> tuple[str, str]:
    """A shorter pass is dirtied faster, never more slowly: what gains now may come to a standstill later. So only a
    migration that ended, or clearly falls, denies it; and only where the guest writes as it likes, not throttled."""
    if course.by_itself:
        return (CANNOT_TELL, "unknowable") if course.throttled else (NO, "observed")
    if trend.dirty_ratio >= _TOO_HIGH_RATIO and trend.direction in ("flat", "rising"):
        return YES, "bounded"
    if trend.rests_at_bytes is not None:
        return YES, "modelled"
    falls = trend.direction == "falling" and trend.dirty_ratio < _TOO_HIGH_RATIO and not course.throttled
    return (NO, "observed") if falls else (CANNOT_TELL, "unknowable")


def _dirty_in_first_pass(course: Course) -> Answer:
    """The first pass alone: enough to say that it is too high, never that it is not."""
    name, first = "dirty rate too high", course.passes[course.passes["iteration"] == 1]
    figures: Figures = {"first_pass_dirty_bps": None, "bandwidth_bps": course.flow.bandwidth_bps,
                        "throttled": YES if course.throttled else NO}  # fmt: skip
    if len(first):
        figures["first_pass_dirty_bps"] = float(first["newly_dirty_bytes"].iloc[0] / first["duration_s"].iloc[0])
    if course.by_itself and not course.throttled:
        return Answer(question=name, answer=NO, basis="observed", figures=figures)
    return Answer(question=name, answer=CANNOT_TELL, basis="unknowable", figures=figures)


def _above(passes: pd.DataFrame) -> pd.DataFrame:
    """Passes after the first that were dirtied faster than they were sent."""
    later = passes[passes["iteration"] >= 2]
    return later[later["newly_dirty_bytes"] > later["sent_pages_bytes"]]


def stalled(course: Course) -> Answer:
    """Whether nothing at all moved for a while."""
    found = [w for w in course.windows if w.kind == "stall"]
    if found:
        return _stall(found)
    if course.flow.samples < 3:
        few: Figures = {"samples": float(course.flow.samples)}
        return Answer(question="stalled", answer=CANNOT_TELL, basis="unknowable", figures=few)
    pause_s = max((w.longest_pause_s for w in course.windows), default=0.0)
    figures: Figures = {
        "none_longer_than_s": max(STALL_S, 3 * course.flow.interval_s, pause_s),
        "trickled": YES if pause_s else NO,
    }
    return Answer(question="stalled", answer=NO, basis="bounded", figures=figures)


def _stall(found: list[Window]) -> Answer:
    worst = max(found, key=lambda w: w.duration_s)
    figures: Figures = {
        "stalls": float(len(found)),
        "longest_s": worst.duration_s,
        "spread_s": worst.spread_s,
        "total_s": sum(w.duration_s for w in found),
        "to_the_end": YES if worst.open_end else NO,
    }
    return _windowed("stalled", worst, figures)


def slow_path(course: Course) -> Answer:
    """Whether less was carried than the limit allows. Without a limit only a change can be seen."""
    found = [w for w in course.windows if w.kind == "slow"]
    figures: Figures = {"bandwidth_bps": course.flow.bandwidth_bps, "limit_bps": _limit_bps(course),
                        "limit_changed": YES if len(course.flow.limits) > 1 else NO}  # fmt: skip
    if found:
        worst = max(found, key=lambda w: w.lost_s)
        figures |= {"bandwidth_bps": worst.bandwidth_bps, "limit_bps": worst.limit_bps, "lost_s": worst.lost_s,
                    "spread_s": worst.spread_s}  # fmt: skip
        return _windowed("slow path", worst, figures)
    unknown = figures["limit_bps"] is None or not np.isfinite(course.flow.bandwidth_bps)
    answer, basis = (CANNOT_TELL, "unknowable") if unknown else (NO, "observed")
    return Answer(question="slow path", answer=answer, basis=basis, figures=figures)


def _limit_bps(course: Course) -> float | None:
    """The limit that held longest: the usual bandwidth is that under it."""
    limits = course.flow.limits
    ends_s = [begin_s for begin_s, _ in limits[1:]] + [course.until_s]
    lasted_s = [
        min(end_s, course.until_s) - max(begin_s, 0.0) for (begin_s, _), end_s in zip(limits, ends_s, strict=True)
    ]
    return limits[int(np.argmax(lasted_s))][1]


def _windowed(name: str, window: Window, figures: Figures) -> Answer:
    return Answer(question=name, answer=YES, basis="observed", from_s=window.start_s, until_s=window.end_s,
                  figures=figures)  # fmt: skip


def post_copy_helps(course: Course, trend: Trend | None) -> Answer:
    """Post-copy ends the race as long as the data flows; what is left then has to be sent once."""
    name, meta = "post-copy would help", course.trace.meta
    used = next((one for one in course.helps if one.kind == "post-copy"), None)
    allowed = YES if "VIR_MIGRATE_POSTCOPY" in meta.migration.flag_names else NO
    figures: Figures = {"allowed": allowed if meta.migration.flag_names else None}
    if used is not None:
        ended = meta.end.outcome == "completed"
        figures |= {"took_s": course.end_s - used.t_s}
        return Answer(question=name, answer=YES if ended else NO, basis="observed", from_s=used.t_s,
                      until_s=course.end_s, figures=figures | {"used": YES})  # fmt: skip
    if course.by_itself:
        return Answer(question=name, answer=NO, basis="observed", figures=figures | {"needed": NO})
    if has_assigned_devices(course.trace):
        return Answer(question=name, answer=NO, basis="observed", figures=figures | {"has_vfio": YES})
    if course.outcome == "failed":
        began = YES if course.flow.samples and course.ram_s is not None else NO
        return Answer(
            question=name, answer=NO, basis="modelled", figures=figures | {"failed": YES, "memory_began": began}
        )
    if any(w.open_end for w in course.windows):
        return Answer(question=name, answer=NO, basis="modelled", figures=figures | {"flows": NO})
    rest_s = _rest_s(course, trend) if trend else None
    answer, basis = (YES, "modelled") if rest_s is not None else (CANNOT_TELL, "unknowable")
    return Answer(question=name, answer=answer, basis=basis, figures=figures | {"at_most_s": rest_s})


def _rest_s(course: Course, trend: Trend) -> float:
    """How long post-copy sends at most: it may have a bandwidth of its own, and has no limit else."""
    own_bps = float(course.trace.meta.migration.parameters.get("bandwidth.postcopy") or 0) * MIB
    return trend.pause_high_s * (max(trend.bandwidth_bps / own_bps, 1.0) if own_bps > 0 else 1.0)


def auto_converge_helps(course: Course, trend: Trend | None) -> Answer:
    """Throttling helps a guest whose writing slows with its processors; how far it must go is only bounded below."""
    name, throttle = "auto-converge would help", course.throttle[np.isfinite(course.throttle)]
    if len(throttle):
        figures: Figures = {"throttle_percent": float(throttle.max())}
        answer, basis = (YES, "observed") if course.by_itself else (CANNOT_TELL, "unknowable")
        return Answer(question=name, answer=answer, basis=basis, figures=figures)
    if course.by_itself:
        return Answer(question=name, answer=NO, basis="observed", figures={"needed": NO})
    if trend is None or trend.dirty_ratio < _TOO_HIGH_RATIO:
        return Answer(question=name, answer=CANNOT_TELL, basis="unknowable", figures={"at_least_percent": None})
    needed = max(0.0, 1 - trend.bandwidth_bps / trend.least_dirty_bps)
    return Answer(question=name, answer=CANNOT_TELL, basis="bounded", figures={"at_least_percent": 100 * needed})


def helped(course: Course) -> Answer:
    """What was done to it, in time order: what let it end (post-copy, pause, throttling, a limit raised), for which the
    answer is yes, and what did not (a limit lowered, an abort)."""
    lets_end = [*course.helps]
    if course.throttled:
        lets_end.append(Help(t_s=float(_throttled(course)[0][0]), kind="throttle"))
    figures: Figures = {}
    for number, one in enumerate(sorted([*lets_end, *course.others], key=lambda one: one.t_s), 1):
        figures |= {f"what_{number}": one.kind, f"at_{number}_s": one.t_s}
        if one.kind in ("downtime limit", "bandwidth"):
            unit = "ms" if one.kind == "downtime limit" else "bps"
            figures |= {f"from_{number}_{unit}": one.before, f"to_{number}_{unit}": one.after}
    moments, answer = [one.t_s for one in lets_end], YES if lets_end else NO
    return Answer(question="helped", answer=answer, basis="observed", from_s=min(moments, default=None),
                  until_s=max(moments, default=None), figures=figures)  # fmt: skip


def policy_acted(course: Course) -> Answer:
    """What the rule of migkit's that ran beside it did, or would have done where it only looked on."""
    name, rule = "policy acted", course.trace.meta.rule
    if rule is None:
        return Answer(question=name, answer=NO, basis="observed", figures={"policy": None})
    figures: Figures = {"policy": rule.policy, "acts": YES if rule.acted else NO}
    if not rule.result and not rule.decisions:
        return Answer(question=name, answer=CANNOT_TELL, basis="unknowable", figures=figures)
    made = [one for one in rule.decisions if one.get("reason") != NO_EFFECT]
    for number, one in enumerate(made, 1):
        argument, done = one.get("argument"), one.get("succeeded", True)
        figures |= {f"action_{number}": str(one["action"]), f"at_{number}_s": float(one["t_s"]),
                    f"argument_{number}_ms": None if argument is None else float(argument),
                    f"reason_{number}": str(one["reason"]), f"because_{number}": str(one["evidence"]),
                    f"succeeded_{number}": YES if done else NO}  # fmt: skip
    acted = rule.acted and any(figures[f"succeeded_{number}"] == YES for number in range(1, 1 + len(made)))
    moments = [float(one["t_s"]) for one in made]
    return Answer(question=name, answer=YES if acted else NO, basis="observed", from_s=min(moments, default=None),
                  until_s=max(moments, default=None), figures=figures)  # fmt: skip


def paused(course: Course) -> Answer:
    """How long the guest stood still: by its own heartbeat, and as libvirt's final statistics report it, which after
    post-copy leave out that it waits for pages. QEMU's estimate while it ran is neither."""
    name, meta = "guest paused", course.trace.meta
    beat, switched = meta.heartbeat, course.outcome == "completed"
    why = next((one for one in course.helps if one.kind in ("pause", "post-copy")), None)
    gap_ms = beat.downtime_ms if beat else None
    longest_ms = beat.largest_gap_ms if beat else None
    figures: Figures = {
        "reported_ms": (meta.end.completed or {}).get("downtime"),
        "heartbeat_ms": gap_ms,
        "elsewhere_ms": longest_ms if longest_ms is not None and longest_ms > (gap_ms or 0.0) else None,
        "how": why.kind if why else "switchover",
        "throttled": YES if course.throttled else NO,
    }
    if switched or why is not None:
        begin_s = why.t_s if why else course.until_s
        return Answer(question=name, answer=YES, basis="observed", from_s=begin_s, figures=figures)
    seen = course.outcome in ("cancelled", "failed")
    answer, basis = (NO, "observed") if seen else (CANNOT_TELL, "unknowable")
    return Answer(question=name, answer=answer, basis=basis, figures=figures)


def _throttled(course: Course) -> tuple[Floats, Floats]:
    """Seconds and percent of the samples that told of a throttle."""
    known = np.isfinite(course.throttle)
    return course.trace.t_s[course.trace.active][known], course.throttle[known]


def throttled(course: Course) -> Answer:
    """Auto-converge at work, and what it cost the guest: how much of its processors' time, and the gaps in its
    heartbeat where there was one. The gap across the switchover is both's, and cannot be divided."""
    if not course.throttled:
        return Answer(question="throttled", answer=NO, basis="observed", figures={})
    (t, value), beat = _throttled(course), course.trace.meta.heartbeat
    lasted_s = float(t[-1] - t[0])
    elsewhere_ms = paused(course).figures["elsewhere_ms"]
    figures: Figures = {
        "first_percent": float(value[0]),
        "highest_percent": float(value.max()),
        "mean_percent": float((value[:-1] * np.diff(t)).sum() / lasted_s) if lasted_s > 0 else float(value[0]),
        "throttled_s": lasted_s,
        "p99_gap_ms": beat.p99_gap_ms if beat else None,
        "largest_gap_ms": beat.largest_gap_ms if beat else None,
        "elsewhere_gap_ms": elsewhere_ms,
        "switchover_gap_ms": beat.downtime_ms if beat else None,
        "downtime_ms": (course.trace.meta.end.completed or {}).get("downtime"),
    }
    return Answer(question="throttled", answer=YES, basis="observed", from_s=float(t[0]), until_s=float(t[-1]),
                  figures=figures)  # fmt: skip


def disk_copied(course: Course) -> Answer:
    """Whether disks were copied, and their share of bytes and time."""
    trace = course.trace
    disk = trace.column("disk_processed_bytes")[trace.active]
    asked = any("NON_SHARED" in name for name in trace.meta.migration.flag_names)
    if not np.nan_to_num(disk).any():
        unknown = asked or not np.isfinite(disk).any()
        answer, basis = (CANNOT_TELL, "unknowable") if unknown else (NO, "observed")
        return Answer(question="disk copied", answer=answer, basis=basis, figures={"asked": YES if asked else NO})
    sent = float(np.nanmax(trace.column("data_processed_bytes")[trace.active]))
    phases = stats.phases(trace).set_index("phase")
    begin_s, until_s = float(phases["start_s"].get("disk", 0.0)), float(phases["end_s"].get("disk", 0.0))
    copied = float(np.nanmax(disk))
    figures: Figures = {
        "disk_bytes": copied,
        "bytes_percent": 100 * copied / max(sent, 1.0),
        "disk_s": until_s - begin_s,
        "time_percent": 100 * (until_s - begin_s) / max(course.end_s, 1e-3),
    }
    return Answer(question="disk copied", answer=YES, basis="observed", from_s=begin_s, until_s=until_s,
                  figures=figures)  # fmt: skip


def failed(course: Course) -> Answer:
    """How it ended, in libvirt's words."""
    end = course.trace.meta.end
    figures: Figures = {"outcome": end.outcome, "error_code": end.error_code, "error": end.error_text or None}
    answer = {"completed": NO, "lost": CANNOT_TELL, "interrupted": CANNOT_TELL}.get(end.outcome, YES)
    basis = "unknowable" if answer == CANNOT_TELL else "observed"
    return Answer(question="failed", answer=answer, basis=basis, until_s=course.end_s, figures=figures)
