"""The walk for many settings of one trace, compiled by numba or plain."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from migkit.drivers.first import walk as walks
from migkit.drivers.first.prepare import Prepared
from migkit.drivers.first.walk import NOWHERE, believed, walk
from migkit.policies import base, compiled, events, polling
from migkit.policies.base import Options, PlainState, Slot, Wakes, begin

_FLOATS = ("margin", "alpha", "precopy_factor", "decay", "completion_factor")
_FLAGS = (
    "ends_with_job", "disruption_gate", "allow_post_copy", "allow_workload_disruption", "has_vfio", "tuning", "stall",
    "search_minima",
)  # fmt: skip
OPTIONS_DTYPE = np.dtype(
    [(name, "f8" if name in _FLOATS else "?" if name in _FLAGS else "i8") for name in Options._fields]
)
# One setting's first decisive action and what was believed then.
FOUND_DTYPE = np.dtype(
    [("wake", "i8"), ("action", "i8"), ("argument", "i8"), ("reason", "i8"), ("changed_wake", "i8"),
     ("estimate_ms", "i8"), ("ewma_bps", "f8")]
)  # fmt: skip


def records(options: Options) -> Any:
    """Options of arrays as an array of records, shape (settings,)."""
    columns = np.broadcast_arrays(*options)
    made = np.empty(columns[0].shape, dtype=OPTIONS_DTYPE)
    for name, column in zip(Options._fields, columns, strict=True):
        made[name] = column
    return made.view(np.recarray)


def options_at(record: Any) -> Options:
    """One setting's options, as local values."""
    return Options(
        record.ends_with_job, record.disruption_gate, record.progress_timeout_s, record.acceptable_s,
        record.allow_post_copy, record.allow_workload_disruption, record.has_vfio, record.max_downtime_ms,
        record.tuning, record.tuning_initial_ms, record.tuning_steps, record.tuning_start_after,
        record.tuning_cooldown_ns, record.stall, record.margin, record.window_ms, record.switchover_s, record.alpha,
        record.precopy_factor, record.decay, record.completion_factor, record.search_minima,
    )  # fmt: skip


def compiled_walks(prepared: Prepared, rules: str, settings: Any) -> Any:
    """Each setting walked through by the compiled rules: records of FOUND_DTYPE."""
    found = np.zeros(len(settings), dtype=FOUND_DTYPE).view(np.recarray)
    slots = compiled.new_slots(int(prepared.plan.event.sum()) + 1)
    _compiled(rules)(two_states(), slots, settings, prepared.wakes, prepared.limit_ms, prepared.fails, found)
    return found


def two_states() -> Any:
    """A state to work with, and one that stays zero."""
    return np.zeros(2, dtype=compiled.STATE_DTYPE).view(np.recarray)


@functools.cache
def _compiled(rules: str) -> Callable[..., None]:
    made: Callable[..., None] = compiled.compile_kept(_many, rules, (walks,))
    return made


def _many(advance: walks.Advance, sources: str) -> Callable[..., None]:
    from numba.extending import register_jitable

    at = register_jitable(options_at)

    def many(states: Any, slots: Any, settings: Any, wakes: Wakes, limit_ms: Any, fails: Any, found: Any) -> None:
        _ = sources
        s = states[0]
        for k in range(len(settings)):
            options = at(settings[k])
            states[0] = states[1]
            begin(s, options)
            wake, action, argument, reason, changed = walk(
                advance, s, slots, options, wakes, limit_ms, fails, 0, NOWHERE
            )
            one = found[k]
            one.wake, one.action, one.argument, one.reason, one.changed_wake = wake, action, argument, reason, changed
            one.estimate_ms, one.ewma_bps = believed(s, options, wake)

    return many


def plain_walks(prepared: Prepared, rules: str, settings: Any) -> Any:
    """The same by the plain rules: slow."""
    advance = {"polling": polling.advance, "events": events.advance}[rules]
    wakes = Wakes(*(column.tolist() for column in prepared.wakes))
    limit_ms, fails = prepared.limit_ms.tolist(), prepared.fails.tolist()
    slots = [Slot() for _ in range(int(prepared.plan.event.sum()) + 1)]
    found = np.zeros(len(settings), dtype=FOUND_DTYPE).view(np.recarray)
    for k, setting in enumerate(settings.tolist()):
        state, options = PlainState(), Options(*setting)
        base.reset(state, options)
        one = walk(advance, state, slots, options, wakes, limit_ms, fails, 0, NOWHERE)
        found[k] = (*one, *believed(state, options, one[0]))
    return found
