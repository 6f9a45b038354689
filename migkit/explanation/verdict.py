"""What held a migration up, whether it converges, and when a fault lasted: one word where the trace can tell, else the
candidates it leaves.

The words are those of the lab's labels. A migration's time is what its memory takes once, plus what is sent again
because it was dirtied, plus what stalls and a slow path lost: the largest hindrance names the verdict. One that does
not end by itself is judged by what its passes come to rest at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from migkit.explanation.course import Course
from migkit.explanation.flow import Window
from migkit.explanation.trend import Trend

LIMITS = ("nothing", "bandwidth", "dirty rate", "downtime limit", "destination", "network", "source")
YES, NO, CANNOT_TELL = "yes", "no", "cannot tell"

# Shares of the time. Below the first, sending again cost little; from the second on it cost as much as all the rest.
_LITTLE_RATIO, _MOST_RATIO = 0.35, 0.5
# A fault that lost less of the time than this did not hold the migration up.
_FAULT_RATIO = 0.2
# The longest pause that KubeVirt grants by its defaults (900 ms x 1.5), and one that nobody would: a set that takes
# less to send is held by the downtime limit, one that takes more by its being dirtied; between them it may be either.
_PAUSE_GRANTED_S, _PAUSE_REFUSED_S = 1.35, 2.5
# What lasts longer than this share of the time is no fault but how the path is.
_ALWAYS_RATIO = 0.8
# Newly dirtied over sent: from here on nothing is gained.
_STANDS_STILL_RATIO = 0.9
# A level counts once it has held for this share of the time, and only this far above what would be let through.
_LEVEL_RATIO, _WELL_ABOVE_RATIO = 0.25, 1.5
# Short passes can be told apart by samples this close together.
_FINE_INTERVAL_S = 0.25
# Fewer samples tell nothing of where the time went.
_FEW_SAMPLES = 5
# A switchover within this time (or two passes) of a change is its work.
_AT_ONCE_S = 5.0
# libvirt's daemons cut a link on which no answer came for 5 s, six times (qemu.conf, keepalive_interval and _count).
_KEEPALIVE_S = 30.0
# A passing over of zero pages that fills more than this of the time: nothing held it up.
_SKIMMED_RATIO = 0.5

# What an error proves, by what its text contains. A write that fails, or a closed connection, may be either's fault.
_BY_ERROR: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("image have different sizes", ("destination",)),
    ("to be smaller or equal to the actual size", ("destination",)),
    ("Storage pool not found", ("destination",)),
    ("No space left", ("destination",)),
    ("qemu unexpectedly closed the monitor", ("destination",)),
    ("End of file while reading data", ("source", "destination", "network")),
    ("Cannot recv data", ("source", "destination", "network")),
    ("domain is not running", ("source",)),
    ("client socket is closed", ("destination", "network")),
    ("Unable to write to socket", ("destination", "network")),
    ("post-copy phase", ("network", "destination")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`limited_by`: the candidates of `LIMITS` that the trace leaves, the likeliest first; none: it cannot tell.
    `because` says on which ground, `converges` is yes, no (of one that did not fail: not as long as its guest writes as
    it did; what it would have done later no trace tells) or cannot tell, `because_converges` why. The fault is the
    longest loss (or the failure), from `fault_from_s` to `fault_until_s`, None while it lasts."""

    limited_by: tuple[str, ...]
    because: str
    converges: str
    because_converges: str
    fault_from_s: float | None
    fault_until_s: float | None


def verdict(course: Course, trend: Trend | None) -> Verdict:
    """The verdict over a migration."""
    limited_by, because = _limited_by(course, trend)
    converges, why = _converges(course, trend)
    fault_from_s, fault_until_s = _fault(course)
    return Verdict(
        limited_by=limited_by,
        because=because,
        converges=converges,
        because_converges=why,
        fault_from_s=fault_from_s,
        fault_until_s=fault_until_s,
    )


Ground = tuple[tuple[str, ...], str]


def _limited_by(course: Course, trend: Trend | None) -> Ground:
    if course.outcome in ("failed", "postcopy-failed"):
        return _by_failure(course)
    if course.by_itself:
        return _by_time(course)
    lost = lost_ratio(course)
    if lost >= _FAULT_RATIO and (trend is None or trend.dirty_ratio < _MOST_RATIO):
        return suspects(course), "the time lost while less was sent than could be"
    found, because = _by_experiment(course, trend) or _by_passes(course, trend)
    if lost >= _FAULT_RATIO and found:
        return (*found, *(s for s in suspects(course) if s not in found)), because
    return found, because


def _by_failure(course: Course) -> Ground:
    """From the error. Where it leaves two, a stall to the end points at the link; where a connection broke and the
    recorder, which talks to the source, lost its own too, it was the source."""
    end = course.trace.meta.end
    found = next((who for text, who in _BY_ERROR if text in end.error_text), ())
    stalled = any(w.open_end for w in course.windows)
    if not found and stalled:
        return suspects(course), "the stall in which it failed"
    if len(found) == 2 and stalled:
        found = ("network", "destination")
    if "source" in found and course.trace.meta.cadence.gaps:
        return ("source",), "the error it failed with, while the recorder lost its connection too"
    return found, "the error it failed with" if found else "the error does not say it"


def suspects(course: Course) -> tuple[str, ...]:
    """Who may have caused the longest loss. A destination that stands still and a dead link look the same to the
    source. Where the two daemons' own connection outlived their keepalive, the link between the hosts was not dead."""
    worst = max(course.windows, key=lambda w: w.lost_s, default=None)
    outlived = worst is not None and worst.kind == "stall" and worst.duration_s > _KEEPALIVE_S and not worst.open_end
    return ("destination", "network") if outlived else ("network", "destination")


def lost_ratio(course: Course) -> float:
    """The share of the copying time that was lost in stalls and slow windows."""
    lost = sum(w.lost_s for w in course.windows if w.start_s < course.until_s)
    return lost / course.until_s if course.until_s > 0 else 0.0


def resent_ratio(course: Course) -> tuple[float, float]:
    """The share of the memory's time that sending again would take at the best bandwidth seen: (least, most)."""
    again = course.tail[course.tail["iteration"] >= 2]
    if course.first_pass_s is None or again.empty or course.ram_duration_s <= 0 or course.flow.best_bps <= 0:
        return 0.0, min(course.flow.interval_s / course.ram_duration_s, 1.0) if course.ram_duration_s > 0 else 1.0
    known_bytes = float(again["sent_bytes"].sum())
    seen_s = float(again["start_s"].iloc[-1] + again["duration_s"].iloc[-1])
    unseen_s = course.first_pass_s[1] - course.first_pass_s[0] + max(course.until_s - seen_s, 0.0)
    room_bytes = course.flow.best_bps * course.ram_duration_s
    return known_bytes / room_bytes, (known_bytes + unseen_s * course.flow.best_bps) / room_bytes


def _by_time(course: Course) -> Ground:
    """One that completed by itself: what its time went into."""
    lost, (least, most) = lost_ratio(course), resent_ratio(course)
    if lost >= _FAULT_RATIO:
        also = ("dirty rate",) if most > lost else ()
        return (*suspects(course), *also), "the time lost while less was sent than could be"
    if course.flow.samples < _FEW_SAMPLES or course.ram_s is None:
        return (), "too few samples"
    if course.flow.skimming_ratio > _SKIMMED_RATIO:
        return ("nothing",), "mostly pages of zeros were passed over"
    if least >= _MOST_RATIO:
        return ("dirty rate",), "the time that went into sending memory again"
    if most > _LITTLE_RATIO:
        return ("dirty rate", "bandwidth"), "the time that went into sending memory again"
    carrier = ("bandwidth",) if _limit_known(course) else ("bandwidth", "network")
    if course.flow.interval_s > _FINE_INTERVAL_S:
        return (*carrier, "dirty rate"), "its time, with samples too far apart to see the last passes"
    if (hot := hot_tail_ratio(course)) is not None and hot >= _MOST_RATIO:
        return (*carrier, "dirty rate"), "the last passes, which were dirtied almost as fast as they were sent"
    what = "disks and memory" if np.nan_to_num(course.trace.column("disk_processed_bytes")).any() else "memory"
    return carrier, f"the time that went into sending {what} once"


def _limit_known(course: Course) -> bool:
    return any(limit for _, limit in course.flow.limits)


def hot_tail_ratio(course: Course) -> float | None:
    """How fast the last closed pass was dirtied, beside the best bandwidth; None where no short pass was seen, or what
    was dirtied weighed nothing (pages of zeros)."""
    again = course.tail[(course.tail["iteration"] >= 2) & course.tail["newly_dirty_bytes"].notna()]
    again = again[again["duration_s"] >= course.flow.interval_s]
    if again.empty or course.flow.best_bps <= 0 or weightless(course):
        return None
    last = again.iloc[-1]
    return float(last["newly_dirty_bytes"] / last["duration_s"] / course.flow.best_bps)


def weightless(course: Course) -> bool:
    """Whether what was sent again was mostly pages of zeros."""
    again = course.passes[course.passes["iteration"] >= 2]
    pages = float(again["sent_pages_bytes"].sum())
    return pages > 0 and float(again["sent_bytes"].sum()) < _MOST_RATIO * pages


def _by_experiment(course: Course, trend: Trend | None) -> Ground | None:
    """A migration that completed as soon as a limit was raised was held by that limit."""
    last = course.helps[-1] if course.helps else None
    if course.outcome != "completed" or last is None:
        return None
    if last.kind == "bandwidth" and resent_ratio(course)[1] < _MOST_RATIO:
        return ("bandwidth",), "its end once the bandwidth was raised"
    soon_s = max(_AT_ONCE_S, 2 * trend.pause_s if trend else 0.0)
    if last.kind == "downtime limit" and course.until_s - last.t_s <= soon_s:
        small = trend is not None and trend.pause_low_s <= _PAUSE_GRANTED_S
        return (("downtime limit",) if small else ("downtime limit", "dirty rate")), (
            "its end as soon as the downtime limit was raised"
        )
    return None


def _by_passes(course: Course, trend: Trend | None) -> Ground:
    """One that was cut short or helped: what its passes had come to."""
    if trend is None:
        return _by_first_pass(course)
    ratio = trend.dirty_ratio * trend.bandwidth_bps / max(course.flow.best_bps, trend.bandwidth_bps)
    if trend.direction in ("flat", "rising") and trend.dirty_ratio >= _STANDS_STILL_RATIO:
        return _by_pause(trend), "the level at which its passes stayed"
    if ratio >= _MOST_RATIO:
        return _dirty_or_limit(trend), "how much of what it sent was dirtied anew"
    return ("bandwidth", "dirty rate"), "the passes so far"


def _by_pause(trend: Trend) -> tuple[str, ...]:
    if trend.pause_s <= _PAUSE_GRANTED_S:
        return ("downtime limit",)
    return ("dirty rate",) if trend.pause_s >= _PAUSE_REFUSED_S else ("dirty rate", "downtime limit")


def _dirty_or_limit(trend: Trend) -> tuple[str, ...]:
    return ("dirty rate",) if trend.pause_s >= _PAUSE_REFUSED_S else ("dirty rate", "downtime limit")


def _by_first_pass(course: Course) -> Ground:
    """Only the first pass is whole: what was dirtied in it is the least that later ones will be dirtied, per second."""
    first = course.passes[course.passes["iteration"] == 1]
    if first.empty:
        return (), "its first pass was not over"
    new, duration_s = float(first["newly_dirty_bytes"].iloc[0]), float(first["duration_s"].iloc[0])
    if float(first["sent_bytes"].iloc[0]) < _MOST_RATIO * float(first["sent_pages_bytes"].iloc[0]):
        return (), "only its first pass was over, and most of it were pages of zeros"
    if course.flow.best_bps <= 0 or new / duration_s < _MOST_RATIO * course.flow.best_bps:
        return (), "only its first pass was over"
    pause_s = new / course.flow.best_bps
    found = ("dirty rate",) if pause_s >= _PAUSE_REFUSED_S else ("dirty rate", "downtime limit")
    return found, "what was dirtied in the first pass"


def _converges(course: Course, trend: Trend | None) -> tuple[str, str]:
    """Whether it ended, or at its guest's load would have ended, without anybody's help."""
    if course.by_itself:
        return YES, "it completed by itself"
    if course.outcome in ("failed", "postcopy-failed"):
        return NO, "it failed"
    if course.outcome not in ("completed", "cancelled"):
        return CANNOT_TELL, "its end was not seen"
    if trend is None or trend.direction is None:
        return CANNOT_TELL, "too few passes were over"
    if np.isfinite(course.throttle).any():
        return CANNOT_TELL, "its guest was being throttled"
    if trend.direction in ("flat", "rising") and trend.dirty_ratio >= _STANDS_STILL_RATIO and _settled(course, trend):
        return NO, "its passes stayed at one level"
    if trend.rests_at_bytes is not None:
        return NO, "its passes were coming to rest above the downtime limit"
    falling = trend.direction == "falling"
    return CANNOT_TELL, "its passes were still falling" if falling else "its passes had not settled"


def _settled(course: Course, trend: Trend) -> bool:
    """Whether the level has held for a good part of the time, well above what the downtime limit would let through had
    nobody raised it: a lower limit makes longer passes, and a higher level."""
    lasted_s = 0.0 if trend.settled_s is None else trend.until_s - trend.settled_s
    above = trend.pause_s > _WELL_ABOVE_RATIO * course.first_limit_ms / 1000
    return above and lasted_s >= _LEVEL_RATIO * course.ram_duration_s


def _fault(course: Course) -> tuple[float | None, float | None]:
    """The longest loss, unless the path was slow all the time; a failure without a loss begins where it ended."""
    passing = [w for w in course.windows if w.duration_s < _ALWAYS_RATIO * course.until_s or w.kind == "stall"]
    worst: Window | None = max(passing, key=lambda w: w.lost_s, default=None)
    failed = course.outcome in ("failed", "postcopy-failed")
    if worst is not None and (worst.open_end or not failed):
        return worst.start_s, None if worst.open_end else worst.end_s
    return (course.end_s, None) if failed else (None, None)
