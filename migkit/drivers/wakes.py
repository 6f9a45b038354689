"""A monitor that is woken by hand, and keeps its wake-ups and calls as rows of a trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from migkit.capture.source import PAUSED, PAUSED_MIGRATION, RUNNING, Actable, SourceError
from migkit.capture.stats_row import row_from_stats
from migkit.drivers.evidence import evidence
from migkit.drivers.monitor import ACTIONS, Monitor
from migkit.policies import base
from migkit.policies.base import Wakes
from migkit.policies.integers import wrap
from migkit.policies.versions import Policy
from migkit.schema import JOB_UNBOUNDED
from migkit.units import NS_PER_S

if TYPE_CHECKING:
    import pandas as pd

LIVE_COLUMNS = ("t_s", "action", "argument", "succeeded", "reason", "evidence")

Row = dict[str, Any]

_METHODS = {
    "AbortJob": "abort_job",
    "MigrateStartPostCopy": "start_post_copy",
    "Suspend": "suspend",
    "MigrateSetMaxDowntime": "set_max_downtime",
}


class Woken:
    """A monitor that is woken by hand. `domain` gets its calls where one is given, else they only count as made;
    `clock` stamps them. Each row, a wake-up or a call really made, goes to `keep` at once (default: into `rows`)."""

    def __init__(
        self, policy: Policy, *, data_size_gb: int, has_vfio: bool, start_ns: int, domain: Actable | None = None,
        clock: Callable[[], int] = time.monotonic_ns, keep: Callable[[Row], None] | None = None,
    ) -> None:  # fmt: skip
        self._domain, self._clock, self.start_ns = domain, clock, start_ns
        self.rows: list[Row] = []
        self._keep = keep or self.rows.append
        self._wakes = Wakes(*([] for _ in Wakes._fields))
        self._error = ""
        self.told: list[Row] = []
        options = policy.computed(data_size_gb=data_size_gb, has_vfio=has_vfio)
        self.monitor = Monitor(policy.family, options, self, errors=lambda row: self._error)

    def wake(
        self, now_ns: int, stats: dict[str, Any] | None, state: tuple[int, int] | None, *, iteration: int | None = None,
        error: SourceError | None = None, migrate_error: str | None = None, latency_us: int | None = None,
    ) -> None:  # fmt: skip
        """One wake-up with what could be read; makes the calls that follow from it. `error` is why there are no stats,
        `migrate_error` what the migrate call has failed with by now."""
        row: Row = {"mono_ns": now_ns, "wall_ns": time.time_ns(), "source": "wake", **row_from_stats(stats or {})}
        if latency_us is not None:
            row["latency_us"] = latency_us
        if iteration is not None:
            row["event_iteration"] = iteration
        if state is not None:
            row["domain_state"], row["domain_reason"] = state
        if error is not None:
            row["error_code"], row["error_text"] = error.code, error.text
        self._keep(row)
        self._error = migrate_error or ""
        self._grow(row, _domain_code(state), event=iteration is not None, failed=migrate_error is not None)
        number = len(self._wakes.t_ns) - 1
        self.monitor.run(self._wakes, number, number + 1)

    def _grow(self, row: Row, domain: int, *, event: bool, failed: bool) -> None:
        self.monitor.slots.append(base.Slot())
        values: list[Any] = [row["mono_ns"] - self.start_ns, event, "job_type" in row, row.get("job_type", 0)]
        for name in ("data_remaining_bytes", "time_elapsed_ms", "memory_iteration", "memory_bps"):
            value = row.get(name)
            values += [0 if value is None else wrap(int(value)), value is not None]
        for column, value in zip(self._wakes, [*values, domain, failed], strict=True):
            column.append(value)

    @property
    def t_ns(self) -> int:
        """When the newest wake-up was, since the monitor's start."""
        return int(self._wakes.t_ns[-1])

    def call(self, row: int, name: str, argument: int | None) -> bool:
        """Performs a call of the monitor's, or lets it count as made."""
        if row < 0:
            return True
        said = evidence(self.monitor, self._wakes.t_ns[row])
        reason = self.monitor.calling_for
        succeeded = self._domain is None or self._made(self._domain, name, argument)
        values = (self._wakes.t_ns[row] / NS_PER_S, ACTIONS[name], argument, succeeded, reason, said)
        self.told.append(dict(zip(LIVE_COLUMNS, values, strict=True)))
        return succeeded

    def _made(self, domain: Actable, name: str, argument: int | None) -> bool:
        now_ns, error = self._clock(), None
        try:
            getattr(domain, _METHODS[name])(*([] if argument is None else [argument]))
        except SourceError as raised:
            error = raised
        self._keep(action_row(now_ns, ACTIONS[name], argument, error))
        return error is None

    def job_type(self, row: int) -> int | None:
        """The type that this wake-up read; the active one where it read nothing."""
        return self._wakes.job_type[row] if self._wakes.stats[row] else JOB_UNBOUNDED

    def decisions(self) -> pd.DataFrame:
        """One row a call so far."""
        return decisions_table(self.told)

    def result(self) -> str:
        """How the monitor ended."""
        result = self.monitor.result
        if not result.ended:
            return "running"
        return f"failed: {result.reason}" if result.failed else "succeeded"


def action_row(mono_ns: int, action: str, argument: int | None, error: SourceError | None) -> Row:
    """The row of something done to the migration, or tried. Whether a call succeeded of which only the connection was
    lost is unknown."""
    row: Row = {"mono_ns": mono_ns, "wall_ns": time.time_ns(), "source": "action", "action": action}
    row |= {"argument": argument, "succeeded": error is None}
    if error is not None:
        row |= {"error_code": error.code, "error_text": error.text}
    return row


def decisions_table(told: list[Row]) -> pd.DataFrame:
    """Decisions as a table of LIVE_COLUMNS."""
    import pandas as pd

    return pd.DataFrame(told, columns=list(LIVE_COLUMNS)).astype({"argument": "Int64"})


def _domain_code(state: tuple[int, int] | None) -> int:
    if state is None:
        return base.DOMAIN_UNKNOWN
    if state == (PAUSED, PAUSED_MIGRATION):
        return base.DOMAIN_PAUSED_FOR_MIGRATION
    return base.DOMAIN_RUNNING if state[0] == RUNNING else base.DOMAIN_OTHER
