"""The walk for many settings of one trace, compiled by numba or plain."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from migkit.drivers.first import walk as walks
from migkit.drivers.first.found import Firsts, nothing_found
from migkit.drivers.first.prepare import Prepared
from migkit.drivers.first.walk import believed, options_at, walk
from migkit.policies import base, compiled, events, polling
from migkit.policies.base import Options, PlainState, Slot, Wakes, begin


def two_states() -> Any:
    """A state for the compiled form to work with, and one that stays zero."""
    return np.zeros(2, dtype=compiled.STATE_DTYPE).view(np.recarray)


def slots_for(prepared: Prepared) -> Any:
    """Slots for the compiled form, enough for the trace."""
    return compiled.new_slots(int(prepared.wakes.event.sum()) + 1)


def compiled_walks(prepared: Prepared, rules: str, records: Any) -> Firsts:
    """Each setting walked through by the compiled rules."""
    found = nothing_found(len(records))
    _compiled(rules)(
        two_states(), slots_for(prepared), records, prepared.wakes, prepared.limit_ms, prepared.fails, found
    )
    return found


@functools.cache
def _compiled(rules: str) -> Callable[..., None]:
    made: Callable[..., None] = compiled.compile_kept(_many, rules, (walks,))
    return made


def _many(advance: walks.Advance, sources: str) -> Callable[..., None]:
    def many(states: Any, slots: Any, records: Any, wakes: Wakes, limit_ms: Any, fails: Any, found: Firsts) -> None:
        _ = sources
        s = states[0]
        for k in range(len(records)):
            options = options_at(records[k])
            states[0] = states[1]
            begin(s, options)
            wake, action, argument, reason, changed = walk(advance, s, slots, options, wakes, limit_ms, fails)
            found.wake[k], found.action[k], found.argument[k] = wake, action, argument
            found.reason[k], found.changed_wake[k] = reason, changed
            found.estimate_ms[k], found.ewma_bps[k] = believed(s, options, wake)

    return many


def plain_walks(prepared: Prepared, rules: str, records: Any) -> Firsts:
    """The same by the plain rules: slow."""
    advance = {"polling": polling.advance, "events": events.advance}[rules]
    wakes = Wakes(*(column.tolist() for column in prepared.wakes))
    limit_ms, fails = prepared.limit_ms.tolist(), prepared.fails.tolist()
    slots = [Slot() for _ in range(int(prepared.wakes.event.sum()) + 1)]
    found = nothing_found(len(records))
    for k, setting in enumerate(records.tolist()):
        state, options = PlainState(), Options(*setting)
        base.reset(state, options)
        one = walk(advance, state, slots, options, wakes, limit_ms, fails)
        for column, value in zip(found, (*one, *believed(state, options, one[0])), strict=True):
            column[k] = value
    return found
