"""One trace made ready for many settings."""

from __future__ import annotations

from dataclasses import dataclass

from migkit.drivers.columns import Columns, Ints, columns
from migkit.drivers.record import Record
from migkit.drivers.schedule import Schedule, schedule
from migkit.policies.base import Wakes
from migkit.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a monitor would see of one trace at one phase of its timer.

    Attributes:
        columns: the trace's own columns.
        plan: when the monitor wakes up and which row it reads.
        wakes: what it reads there, arrays of shape (wakes,).
        limit_ms: shape (wakes,), QEMU's downtime limit in force on the record.
        fails: shape (wakes,), a bit `1 << action` for each call that fails on the record.
    """

    columns: Columns
    plan: Schedule
    wakes: Wakes
    limit_ms: Ints
    fails: Ints


def prepare(trace: Trace | Columns, *, events: bool, phase: int = 0) -> Prepared:
    """Lays a monitor's wake-ups over a trace.

    Parameters: the trace, or its columns (`table_columns` makes them of an Arrow table without pandas); `events`,
    whether iteration events wake this monitor (`Policy.hears_iterations`); `phase`, which of the schedule's 8 phases.
    Raises MigkitError when the trace holds no running migration.
    """
    found = trace if isinstance(trace, Columns) else columns(trace)
    plan, record = schedule(found, events=events, phase=phase), Record(found)
    return Prepared(
        columns=found,
        plan=plan,
        wakes=record.wakes(plan),
        limit_ms=record.limits_ms(plan),
        fails=record.failures(plan),
    )
