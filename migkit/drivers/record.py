"""A trace as a monitor reads it: its columns as arrays, prepared once for all phases."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from migkit import stats
from migkit.drivers.columns import Bools, Columns, Ints, columns
from migkit.drivers.monitor import ACTIONS, CALLS
from migkit.drivers.schedule import Schedule
from migkit.policies import base
from migkit.policies.base import Wakes
from migkit.trace import Trace
from migkit.units import NS_PER_S

# A recorded action is the same as a replayed one when they are no further apart than a wake and a recorder's delay.
SAME_NS: Final = 1 * NS_PER_S
# The code of an action by the name that a trace has for it.
CODES: Final = {ACTIONS[call]: code for code, call in CALLS.items()}

# virDomainState, its reason, virDomainEventType and its detail: libvirt include/libvirt/libvirt-domain.h
_STATE_RUNNING, _STATE_PAUSED, _PAUSED_FOR_MIGRATION = 1, 3, 2
_LIFECYCLE_SUSPENDED, _LIFECYCLE_RESUMED, _SUSPENDED_MIGRATED = 3, 4, 1
_READ = ("job_type", "data_remaining_bytes", "time_elapsed_ms", "memory_iteration", "memory_bps")


class Record:
    """What a trace has to say to a monitor. `actions`: (ns since the job began, action, argument, succeeded) of what
    was really done of the kinds that a monitor does."""

    def __init__(self, trace: Trace | Columns) -> None:
        self.columns = trace if isinstance(trace, Columns) else columns(trace)
        self.actions = self.columns.actions
        self._state_ns, self._states = _states(self.columns)

    def wakes(self, plan: Schedule) -> Wakes:
        """The columns of a schedule's wake-ups."""
        read = plan.row >= 0
        places = np.where(read, plan.row, 0)
        made: list[Any] = [plan.t_ns, plan.event]
        for name in _READ:
            values, there = self.columns.numbers[name]
            known = there[places] & read
            chosen = np.where(known, values[places], 0)
            made += [known, chosen] if name == "job_type" else [chosen, known]
        made.append(self._states[np.searchsorted(self._state_ns, plan.t_ns, side="right") - 1])
        made.append(np.zeros(len(places), dtype=bool))
        return Wakes(*made)

    def failures(self, plan: Schedule) -> Ints:
        """The calls that fail at each wake, a bit `1 << action` for each: the record's first action of the kind within
        a second of it did."""
        found: Ints = np.zeros(len(plan.t_ns), dtype=np.int64)
        for at_ns, name, _, succeeded in reversed(self.actions):
            near, bit = np.abs(plan.t_ns - at_ns) <= SAME_NS, 1 << CODES[name]
            found[near] = found[near] & ~bit | (0 if succeeded else bit)
        return found

    def limits_ms(self, plan: Schedule) -> Ints:
        """QEMU's downtime limit in force at each wake, its default where nobody told another."""
        changes = stats.limit_changes(self.columns.meta, self.columns.t0_ns, self.actions)
        at_ns, limits = [np.iinfo(np.int64).min], [base.QEMU_DEFAULT_DOWNTIME_MS]
        for t_ns, limit_ms in changes:
            at_ns.append(max(t_ns, at_ns[-1]))
            limits.append(limit_ms)
        return np.array(limits, dtype=np.int64)[np.searchsorted(at_ns, plan.t_ns, side="right") - 1]


def _states(trace: Columns) -> tuple[Ints, Ints]:
    """What GetState would have told, and since when: running, as guests do, until a row or an event says otherwise."""
    names = ("domain_state", "domain_reason", "lifecycle_event", "lifecycle_detail")
    state, reason, event, detail = (np.where(known, values, -1) for values, known in map(trace.numbers.get, names))  # type: ignore[misc]
    told: Bools = state >= 0
    rows = np.flatnonzero(told | (event == _LIFECYCLE_SUSPENDED) | (event == _LIFECYCLE_RESUMED))
    paused = np.where(
        told,
        (state == _STATE_PAUSED) & (reason == _PAUSED_FOR_MIGRATION),
        (event == _LIFECYCLE_SUSPENDED) & (detail == _SUSPENDED_MIGRATED),
    )
    running = np.where(told, state == _STATE_RUNNING, event == _LIFECYCLE_RESUMED)
    seen = np.where(running, base.DOMAIN_RUNNING, base.DOMAIN_OTHER)
    codes = np.where(paused, base.DOMAIN_PAUSED_FOR_MIGRATION, seen)
    at_ns = np.concatenate([[np.iinfo(np.int64).min], trace.t_ns[rows]])
    return at_ns, np.concatenate([[base.DOMAIN_RUNNING], codes[rows]])
