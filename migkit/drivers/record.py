"""A trace as a monitor reads it: its columns as arrays, prepared once for all phases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from migkit.capture.outcome import MIGRATE
from migkit.drivers.monitor import ACTIONS
from migkit.drivers.schedule import Schedule
from migkit.policies import base
from migkit.policies.base import Wakes
from migkit.trace import Trace

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# virDomainState, its reason, virDomainEventType and its detail: libvirt include/libvirt/libvirt-domain.h
_STATE_RUNNING, _STATE_PAUSED, _PAUSED_FOR_MIGRATION = 1, 3, 2
_LIFECYCLE_SUSPENDED, _LIFECYCLE_RESUMED, _SUSPENDED_MIGRATED = 3, 4, 1
_READ = ("job_type", "data_remaining_bytes", "time_elapsed_ms", "memory_iteration", "memory_bps")


class Record:
    """What a trace has to say to a monitor. `actions`: (ns since the job began, action, argument, succeeded) of what
    was really done of the kinds that a monitor does; `error`: what the migrate call failed with, where that is known.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._columns = [_column(trace.samples[name]) for name in _READ]
        self._state_ns, self._states = _states(trace)
        self.actions = _actions(trace)
        self._failed_ns, self.error = _migrate_error(trace)

    def wakes(self, plan: Schedule) -> Wakes:
        """The columns of a schedule's wake-ups."""
        read = plan.row >= 0
        places = np.where(read, plan.row, 0)
        columns: list[Any] = [plan.t_ns, plan.event]
        for index, (values, there) in enumerate(self._columns):
            known = there[places] & read
            chosen = np.where(known, values[places], 0)
            columns += [known, chosen] if index == 0 else [chosen, known]
        if plan.recorded:
            columns.append(_codes(self.trace.samples.iloc[plan.wake]))
        else:
            columns.append(self._states[np.searchsorted(self._state_ns, plan.t_ns, side="right") - 1])
        columns.append(plan.t_ns >= self._failed_ns)
        return Wakes(*columns)


def _column(column: pd.Series[Any]) -> tuple[Ints, Bools]:
    """Its values, unsigned ones by their bits, and where there are any."""
    unsigned = str(column.dtype) == "UInt64"
    values = column.to_numpy(dtype=np.uint64 if unsigned else np.int64, na_value=0)
    return values.view(np.int64) if unsigned else values, column.notna().to_numpy(dtype=bool)


def _states(trace: Trace) -> tuple[Ints, Ints]:
    """What GetState would have told, and since when: running, as guests do, until a row or an event says otherwise."""
    at, codes = [np.iinfo(np.int64).min], [base.DOMAIN_RUNNING]
    mono = trace.samples["mono_ns"].to_numpy(dtype=np.int64) - trace.t0_ns
    columns = ("domain_state", "domain_reason", "lifecycle_event", "lifecycle_detail")
    state, reason, event, detail = (trace.samples[name].to_numpy(dtype=np.int64, na_value=-1) for name in columns)
    for i in np.flatnonzero((state >= 0) | np.isin(event, (_LIFECYCLE_SUSPENDED, _LIFECYCLE_RESUMED))):
        if state[i] >= 0:
            paused = state[i] == _STATE_PAUSED and reason[i] == _PAUSED_FOR_MIGRATION
            running = state[i] == _STATE_RUNNING
        else:
            paused = event[i] == _LIFECYCLE_SUSPENDED and detail[i] == _SUSPENDED_MIGRATED
            running = event[i] == _LIFECYCLE_RESUMED
        seen = base.DOMAIN_RUNNING if running else base.DOMAIN_OTHER
        at.append(int(mono[i]))
        codes.append(base.DOMAIN_PAUSED_FOR_MIGRATION if paused else seen)
    return np.asarray(at, dtype=np.int64), np.asarray(codes, dtype=np.int64)


def _codes(wakes: pd.DataFrame) -> Ints:
    """What GetState told at the wake-ups themselves."""
    state, reason = (wakes[name].to_numpy(dtype=np.int64, na_value=-1) for name in ("domain_state", "domain_reason"))
    paused = (state == _STATE_PAUSED) & (reason == _PAUSED_FOR_MIGRATION)
    codes = np.where(state == _STATE_RUNNING, base.DOMAIN_RUNNING, base.DOMAIN_OTHER)
    codes = np.where(paused, base.DOMAIN_PAUSED_FOR_MIGRATION, codes)
    return np.where(state < 0, base.DOMAIN_UNKNOWN, codes).astype(np.int64)


def _migrate_error(trace: Trace) -> tuple[int, str]:
    """When the migrate call returned with an error (ns since the job began), and which."""
    rows = trace.samples
    failed = (rows["action"] == MIGRATE) & (rows["succeeded"] == False)  # noqa: E712
    places = np.flatnonzero(failed.fillna(False).to_numpy(dtype=bool))
    if not len(places):
        return np.iinfo(np.int64).max, ""
    row = rows.iloc[places[0]]
    return int(row["mono_ns"]) - trace.t0_ns, "" if pd.isna(row["error_text"]) else str(row["error_text"])


def _actions(trace: Trace) -> list[tuple[int, str, int | None, bool]]:
    chosen = trace.samples[trace.samples["action"].isin(list(ACTIONS.values()))]
    rows: Iterator[Any] = chosen.itertuples()
    return [
        (
            int(row.mono_ns) - trace.t0_ns,
            str(row.action),
            None if pd.isna(row.argument) else int(row.argument),
            bool(pd.isna(row.succeeded) or row.succeeded),
        )
        for row in rows
    ]
