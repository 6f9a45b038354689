"""The stall rules from boundary to boundary, in a form that numba compiles.

Up to the first action, the least that remained outside the window depends on the trace and the window alone; where a
stall is found, on these and the margin; the smoothed bandwidth, on its weight alone. Only the boundaries from a stall
on are each setting's own, and the rules' own functions judge them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from migkit.drivers.first.settings import LANES
from migkit.drivers.first.walk import NOWHERE
from migkit.policies import stall
from migkit.policies.base import (
    CANCEL,
    NONE,
    PAUSED,
    PRE_COPY,
    QEMU_DEFAULT_DOWNTIME_MS,
    QEMU_LARGEST_DOWNTIME_MS,
    SET_MAX_DOWNTIME,
    STALL_INITIAL,
    Options,
    PlainState,
    Slot,
)
from migkit.policies.events import triggered

# A wake as the stall rules take it: seconds since the start, the newest record and how many bandwidths were heard,
# this wake's own included; the limit on the record; whether an abort works.
TICK_DTYPE: Final = np.dtype(
    [("elapsed_s", "i8"), ("remaining", "i8"), ("elapsed_ms", "i8"), ("iteration", "i8"), ("heard", "i8"),
     ("limit_ms", "i8"), ("works", "?")]
)  # fmt: skip
# The window at a boundary: the least outside of it, if there is any, and the least inside or outside.
WATCH_DTYPE: Final = np.dtype([("there", "?"), ("outside", "i8"), ("best", "i8")])

# In the place of an action: this is not the whole story, the rules have to walk it.
OPEN: Final = -1


def watch(s: PlainState, slots: list[Slot], ticks: Any, boundaries: Any, begin: int, window_ms: int, seen: Any) -> None:
    """Lets the window slide over the boundaries from the place `begin` on, in a state of zeros; fills `seen`."""
    for b in range(begin, len(boundaries)):
        take(s, ticks[boundaries[b]], 0.0)
        stall.age_out(s, slots, window_ms)
        stall.insert(s, slots)
        seen[b].there, seen[b].outside = stall.outside_set(s), s.outside_remaining
        seen[b].best = stall.least(s, slots)


def take(s: PlainState, tick: Any, ewma_bps: float) -> None:
    """Puts a wake's record and the bandwidth as it is then into the state."""
    s.record_remaining, s.record_elapsed_ms, s.record_iteration = tick.remaining, tick.elapsed_ms, tick.iteration
    s.ewma_bps = ewma_bps


def onset(ticks: Any, boundaries: Any, begin: int, seen: Any, margin: float) -> int:
    """The place of the boundary at which a stall is found, one behind the last for none."""
    for b in range(begin, len(boundaries)):
        if seen[b].there and not stall.fell(seen[b].outside, ticks[boundaries[b]].remaining, margin):
            return b
    return len(boundaries)


def smooth_all(bps: Any, alphas: Any, smooth: Any, lost: Any) -> None:
    """The bandwidth as it is smoothed with LANES weights, after each that was heard: fills `smooth`, shape
    (heard + 1, LANES), and `lost`, how often it fell back to nothing, which begins the rule anew."""
    # Small arrays of its own let the compiler keep all lanes in registers.
    weights, ewma, fell = alphas.copy(), np.zeros(LANES), np.zeros(LANES, dtype=np.int64)
    smooth[0] = ewma
    for u in range(len(bps)):
        latest, after = bps[u], smooth[u + 1]
        for j in range(LANES):
            before = ewma[j]
            ewma[j] = stall.smoothed(before, latest, weights[j])
            fell[j] += 1 if before != 0.0 and ewma[j] == 0.0 else 0
            after[j] = ewma[j]
    lost[:] = fell


def first_action(
    s: PlainState, slots: list[Slot], options: Options, ticks: Any, boundaries: Any, smooth: Any, lane: int, begin: int,
    best: int, due: int, paused: int,
) -> tuple[int, int, int, int, int]:  # fmt: skip
    """The first decisive action as `walk` tells it, or OPEN in the action's place. `begin`: the boundary that
    finds the stall, with the least up to it; `due`: the wake at which the deadline has passed; `paused`: from which
    on the guest is paused."""
    changed = NOWHERE
    if len(ticks) == 0:
        return NOWHERE, NONE, 0, NONE, changed
    limit_ms = min(options.max_downtime_ms, QEMU_DEFAULT_DOWNTIME_MS)
    if limit_ms != ticks[0].limit_ms:
        changed = 0
    if limit_ms > ticks[0].limit_ms:
        return 0, SET_MAX_DOWNTIME, limit_ms, STALL_INITIAL, changed
    s.initial_set = True
    for b in range(begin, len(boundaries)):
        row = boundaries[b]
        if row > due:
            break
        tick = ticks[row]
        take(s, tick, smooth[tick.heard, lane])
        if b == begin:
            stall.detected(s, best, options.window_ms)
        else:
            stall.relax(s, slots, options.decay)
        estimate_ms = stall.estimate_ms(s.record_remaining, s.ewma_bps)
        action, argument, reason = stall.decide(s, options, tick.elapsed_s, estimate_ms)
        if action == NONE:
            continue
        if action == SET_MAX_DOWNTIME and argument != tick.limit_ms and changed == NOWHERE:
            changed = row
        if action == SET_MAX_DOWNTIME and argument <= tick.limit_ms:
            s.switched, s.pending, s.succeeded = True, action, True
            triggered(s, options, tick.elapsed_s)
            due = switchover_due(s, ticks, row, due, paused)
            break
        # On the deadline's own wake another reason may be given for the same abort.
        return row, (OPEN if action == CANCEL and row == due else action), argument, reason, changed
    if due >= len(ticks):
        return NOWHERE, NONE, 0, NONE, changed
    return at_deadline(s, options, ticks[due], smooth[ticks[due].heard, lane], due, due >= paused, changed)


def switchover_due(s: PlainState, ticks: Any, row: int, due: int, paused: int) -> int:
    """The wake at which a switchover that was asked for at the wake `row` is late: by its own deadline, or for a
    paused guest by the job's, at the wake `due`."""
    if s.acceptable_s == 0:
        return len(ticks)
    low, high = row, len(ticks)
    while low < high:
        middle = (low + high) // 2
        if ticks[middle].elapsed_s > s.switch_deadline_s:
            high = middle
        else:
            low = middle + 1
    return low if low < paused else max(paused, due, row)


def at_deadline(
    s: PlainState, options: Options, tick: Any, ewma_bps: float, due: int, paused: bool, changed: int
) -> tuple[int, int, int, int, int]:
    """What is done at the wake at which the deadline has passed; OPEN where that does not end the matter."""
    take(s, tick, ewma_bps)
    s.mode = PAUSED if paused else PRE_COPY
    action, reason = stall.overdue(s, options, tick.elapsed_s)
    if action == NONE or (action == CANCEL and not tick.works):
        return due, OPEN, 0, NONE, changed
    if action != SET_MAX_DOWNTIME:
        return due, action, 0, reason, changed
    if tick.limit_ms >= QEMU_LARGEST_DOWNTIME_MS:
        return due, OPEN, 0, NONE, changed
    return due, action, QEMU_LARGEST_DOWNTIME_MS, reason, (due if changed == NOWHERE else changed)
