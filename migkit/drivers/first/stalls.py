"""The shortcut of the stall rules: what settings share is worked out once, see `boundaries`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from migkit.drivers.columns import Ints
from migkit.drivers.first import boundaries as by_boundaries
from migkit.drivers.first import walk as walks
from migkit.drivers.first.boundaries import (
    OPEN,
    TICK_DTYPE,
    WATCH_DTYPE,
    first_action,
    onset,
    smooth_all,
    watch,
)
from migkit.drivers.first.found import Firsts, nothing_found
from migkit.drivers.first.kernel import slots_for, two_states
from migkit.drivers.first.prepare import Prepared
from migkit.drivers.first.settings import LANES, Shared
from migkit.drivers.first.walk import NOWHERE, believed, options_at, walk
from migkit.policies import base, compiled
from migkit.policies.base import NS_PER_S, Wakes, begin


class Course(NamedTuple):
    """What a trace shows every setting: its `ticks`, which of them are `boundaries` that feed the stall detector, the
    first place among these with a bandwidth known, the bandwidths that were heard, and from which wake on the guest is
    paused for the migration."""

    ticks: Any
    boundaries: Ints
    begin: int
    bps: Any
    paused: int


def stall_firsts(prepared: Prepared, records: Any, shared: Shared) -> Firsts:
    """The first actions of monitors with stall detection. On this trace time must not go back
    and no call may fail."""
    course, found = course_of(prepared), nothing_found(len(records))
    deadline, last = records.acceptable_s, len(course.ticks)
    due = np.where(deadline == 0, last, np.searchsorted(course.ticks["elapsed_s"], deadline, side="right"))
    seen = np.zeros((len(shared.windows), len(course.boundaries)), dtype=WATCH_DTYPE).view(np.recarray)
    smooth = np.empty((len(course.bps) + 1, LANES), dtype=np.float64)
    _compiled()(
        two_states(), slots_for(prepared), records, shared, prepared.wakes, prepared.limit_ms, prepared.fails, course,
        due, seen, smooth, found,
    )  # fmt: skip
    return found


def course_of(prepared: Prepared) -> Course:
    """The wakes of a trace as the stall rules take them."""
    wakes = prepared.wakes
    number, running = np.arange(len(wakes.t_ns)), wakes.stats & (wakes.job_type == base.JOB_TYPE_ACTIVE)
    complete = running & wakes.remaining_set & wakes.elapsed_set & wakes.iteration_set
    stopped = np.flatnonzero(wakes.domain == base.DOMAIN_PAUSED_FOR_MIGRATION)
    paused = int(stopped[0]) if len(stopped) else len(number)
    # A paused guest's polls make the record instead of the bandwidth.
    hears = complete & ~wakes.event & wakes.bps_set & (number < paused)
    newest = np.maximum.accumulate(np.where(complete & (wakes.event | (number >= paused)), number, NOWHERE))
    bps = wakes.bps[hears].view(np.uint64).astype(np.float64)
    ticks = np.empty(len(number), dtype=TICK_DTYPE)
    ticks["elapsed_s"], ticks["heard"] = wakes.t_ns // NS_PER_S, np.cumsum(hears)
    for name in ("remaining", "elapsed_ms", "iteration"):
        ticks[name] = np.where(newest >= 0, getattr(wakes, name)[newest], 0)
    ticks["limit_ms"], ticks["works"] = prepared.limit_ms, running | ~wakes.stats
    boundaries = np.flatnonzero(complete & wakes.event)
    silent = int(np.argmax(bps != 0)) if bps.any() else len(bps)
    begin = int(np.searchsorted(ticks["heard"][boundaries], silent, side="right"))
    return Course(ticks.view(np.recarray), boundaries, begin, bps, paused)


@functools.cache
def _compiled() -> Callable[..., None]:
    made: Callable[..., None] = compiled.compile_kept(_all, "events", (walks, by_boundaries))
    return made


def _all(advance: walks.Advance, sources: str) -> Callable[..., None]:
    def every_setting(
        states: Any, slots: Any, records: Any, shared: Shared, wakes: Wakes, limit_ms: Any, fails: Any, course: Course,
        due: Any, seen: Any, smooth: Any, found: Firsts,
    ) -> None:  # fmt: skip
        _ = sources
        s, ticks, ends = states[0], course.ticks, course.boundaries
        for w in range(len(shared.windows)):
            states[0] = states[1]
            watch(s, slots, ticks, ends, course.begin, shared.windows[w], seen[w])
        onsets = np.empty(len(shared.pair_margin), dtype=np.int64)
        for p in range(len(onsets)):
            onsets[p] = onset(ticks, ends, course.begin, seen[shared.pair_window[p]], shared.pair_margin[p])
        lost, place = np.zeros(LANES, dtype=np.int64), 0
        for first in range(0, len(shared.alphas), LANES):
            smooth_all(course.bps, shared.alphas[first : first + LANES], smooth, lost)
            while place < len(shared.order) and shared.alpha[shared.order[place]] < first + LANES:
                k = shared.order[place]
                place += 1
                options, lane = options_at(records[k]), shared.alpha[k] - first
                b, w = onsets[shared.pair[k]], shared.pair_window[shared.pair[k]]
                best = seen[w, b].best if b < len(ends) else 0
                states[0] = states[1]
                begin(s, options)
                row, action, argument, reason, changed = first_action(
                    s, slots, options, ticks, ends, smooth, lane, b, best, due[k], course.paused
                )
                if lost[lane] or action == OPEN:
                    states[0] = states[1]
                    begin(s, options)
                    row, action, argument, reason, changed = walk(advance, s, slots, options, wakes, limit_ms, fails)
                found.wake[k], found.action[k], found.argument[k] = row, action, argument
                found.reason[k], found.changed_wake[k] = reason, changed
                found.estimate_ms[k], found.ewma_bps[k] = believed(s, options, row)

    return every_setting
