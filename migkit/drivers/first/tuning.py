"""Downtime tuning without a walk: it climbs from one limit to the next, and only the wakes in between matter."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from migkit.drivers.columns import Bools
from migkit.drivers.first import walk as walks
from migkit.drivers.first.found import Firsts
from migkit.drivers.first.prepare import Prepared
from migkit.drivers.first.settings import ManyOptions
from migkit.drivers.first.walk import NOWHERE, Advance
from migkit.policies import base, compiled


def tune(prepared: Prepared, settings: ManyOptions, found: Firsts) -> Bools:
    """Puts downtime tuning before what was found of the settings that have it, where it comes first or on the same
    wake. Returns where that is sure: where there is a limit to begin with."""
    wakes = prepared.wakes
    known = np.flatnonzero(wakes.stats & wakes.iteration_set)
    iterations = wakes.iteration[known]
    sure: Bools = ~settings.tuning | (settings.tuning_initial_ms > 0)
    # The place in `known` of the next wake that tells an iteration; the first place with an iteration late enough.
    following = np.searchsorted(known, np.arange(len(wakes.t_ns)), side="left")
    begin = np.searchsorted(np.maximum.accumulate(iterations), settings.tuning_start_after, side="left")
    who = np.flatnonzero(settings.tuning & sure)
    climb_all = _compiled() if compiled.available() else climb_each
    climb_all(
        who, settings.tuning_initial_ms, settings.max_downtime_ms, settings.tuning_steps, settings.tuning_cooldown_ns,
        settings.tuning_start_after, begin, wakes.t_ns, prepared.limit_ms, known, iterations, following, found,
    )  # fmt: skip
    return sure


@functools.cache
def _compiled() -> Callable[..., None]:
    made: Callable[..., None] = compiled.compile_kept(_all, "events", (walks, sys.modules[__name__]))
    return made


def _all(advance: Advance, sources: str) -> Callable[..., None]:
    def all_settings(
        who: Any, initial_ms: Any, max_ms: Any, steps: Any, cooldown_ns: Any, start_after: Any, begin: Any, t_ns: Any,
        limit_ms: Any, known: Any, iterations: Any, following: Any, found: Firsts,
    ) -> None:  # fmt: skip
        _ = sources
        climb_each(
            who, initial_ms, max_ms, steps, cooldown_ns, start_after, begin, t_ns, limit_ms, known, iterations,
            following, found,
        )  # fmt: skip

    return all_settings


def climb_each(
    who: Any, initial_ms: Any, max_ms: Any, steps: Any, cooldown_ns: Any, start_after: Any, begin: Any, t_ns: Any,
    limit_ms: Any, known: Any, iterations: Any, following: Any, found: Firsts,
) -> None:  # fmt: skip
    """Climbs until a limit is above the record's, nothing is left to climb, or the deadline's action comes first."""
    for k in who:
        target_ms, row = initial_ms[k], 0
        step_ms = max((max_ms[k] - target_ms) // steps[k], 1)
        last = len(t_ns) - 1 if found.wake[k] == NOWHERE else found.wake[k]
        while row <= last:
            # A deadline's own limit was noted at its wake: a step before that comes first.
            if target_ms != limit_ms[row] and (found.changed_wake[k] == NOWHERE or row < found.changed_wake[k]):
                found.changed_wake[k] = row
            if target_ms > limit_ms[row]:
                found.wake[k], found.argument[k] = row, target_ms
                found.action[k], found.reason[k] = base.SET_MAX_DOWNTIME, base.TUNING
                break
            now_ms, target_ms = target_ms, min(target_ms + step_ms, max_ms[k])
            row = cooled(t_ns, row, cooldown_ns[k])
            if target_ms <= now_ms or row > last:
                break
            place = max(following[row], begin[k])
            while place < len(known) and iterations[place] < start_after[k]:
                place += 1
            row = known[place] if place < len(known) else last + 1


def cooled(t_ns: Any, row: int, cooldown_ns: int) -> int:
    """The first wake behind `row` that is at least a cooldown later; the number of wakes for none."""
    ready, count = row + 1, len(t_ns)
    stride = 64
    while stride > 0:
        while ready + stride <= count and t_ns[ready + stride - 1] - t_ns[row] < cooldown_ns:
            ready += stride
        stride //= 4
    return ready
