"""Runs a decision rule on a migration as it happens: watching, or acting where that was asked for.

Every wake-up is kept with what it read, so a replay of the trace that comes out decides exactly what was decided here.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from migkit.capture.outcome import Ending
from migkit.capture.source import (
    NEVER,
    NO_DOMAIN,
    NOT_RUNNING,
    PAUSED,
    PAUSED_MIGRATION,
    RUNNING,
    Event,
    Facts,
    Source,
    SourceError,
)
from migkit.capture.stats_row import row_from_stats
from migkit.drivers.evidence import evidence
from migkit.drivers.monitor import ACTIONS, Monitor
from migkit.drivers.replay import checked_size
from migkit.drivers.schedule import POLL_NS
from migkit.errors import MigkitError, UsageError
from migkit.failures import with_failure
from migkit.meta import Cadence, End, Migration, TraceMeta
from migkit.policies import base
from migkit.policies.base import Wakes
from migkit.policies.integers import wrap
from migkit.policies.size import data_size_gb as size_of
from migkit.policies.versions import Policy
from migkit.schema import JOB_UNBOUNDED
from migkit.trace import Trace
from migkit.units import NS_PER_MS, NS_PER_S

LIVE_COLUMNS = ("t_s", "action", "argument", "succeeded", "reason", "evidence")
# The channel between libvirt's events and the monitor: what does not fit is dropped.
_CHANNEL = 16

Row = dict[str, Any]


class Actable(Source, Protocol):
    """A domain that can also be acted on. Every call may raise SourceError."""

    def abort_job(self) -> None:
        """Cancels the migration."""

    def start_post_copy(self) -> None:
        """Switches to post-copy."""

    def suspend(self) -> None:
        """Pauses the guest; the migration goes on."""

    def set_max_downtime(self, limit_ms: int) -> None:
        """Sets the downtime limit."""


@dataclass(frozen=True, kw_only=True)
class Live:
    """What a policy did to a running migration, or would have done.

    Attributes: `decisions`, one row a call (`LIVE_COLUMNS`); `trace`, every wake-up with what it read, the events and
    the actions really taken; `result`, how the monitor ended, or "running" when the migration ended first; `acted`.
    """

    trace: Trace
    policy: Policy
    decisions: pd.DataFrame
    result: str
    acted: bool


class Session:
    """A monitor that is woken by hand. `domain` gets its calls when `act`, else they only count as made; `clock` stamps
    them. `rows` are the wake-ups and the calls really made."""

    def __init__(
        self, policy: Policy, *, data_size_gb: int, has_vfio: bool, start_ns: int, act: bool = False,
        domain: Actable | None = None, clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        self._domain, self._act, self._clock, self.start_ns = domain, act, clock, start_ns
        self.rows: list[Row] = []
        self._wakes = Wakes(*([] for _ in Wakes._fields))
        self._said: list[str] = []
        options = policy.computed(data_size_gb=data_size_gb, has_vfio=has_vfio)
        self.monitor = Monitor(policy.family, options, self)

    def wake(
        self, now_ns: int, stats: dict[str, Any] | None, state: tuple[int, int] | None, *, iteration: int | None = None
    ) -> Row:
        """One wake-up with what could be read; makes the calls that follow from it. Returns its row."""
        row: Row = {"mono_ns": now_ns, "wall_ns": time.time_ns(), "source": "wake", **row_from_stats(stats or {})}
        if iteration is not None:
            row["event_iteration"] = iteration
        if state is not None:
            row["domain_state"], row["domain_reason"] = state
        self.rows.append(row)
        self._grow(row, _domain_code(state), iteration is not None)
        number = len(self._wakes.t_ns) - 1
        self.monitor.run(self._wakes, number, number + 1)
        return row

    def _grow(self, row: Row, domain: int, event: bool) -> None:
        self.monitor.slots.append(base.Slot())
        values: list[Any] = [row["mono_ns"] - self.start_ns, event, "job_type" in row, row.get("job_type", 0)]
        for name in ("data_remaining_bytes", "time_elapsed_ms", "memory_iteration", "memory_bps"):
            value = row.get(name)
            values += [0 if value is None else wrap(int(value)), value is not None]
        for column, value in zip(self._wakes, [*values, domain, False], strict=True):
            column.append(value)

    def call(self, row: int, name: str, argument: int | None) -> bool:
        """Performs a call of the monitor's, or lets it count as made."""
        if row < 0:
            return True
        self._said.append(evidence(self.monitor, self._wakes.t_ns[row]))
        if not self._act or self._domain is None:
            return True
        now_ns, error = self._clock(), None
        try:
            if argument is None:
                getattr(self._domain, _METHODS[name])()
            else:
                getattr(self._domain, _METHODS[name])(argument)
        except SourceError as raised:
            error = raised
        done: Row = {"mono_ns": now_ns, "wall_ns": time.time_ns(), "source": "action", "action": ACTIONS[name]}
        done |= {"argument": argument, "succeeded": error is None}
        if error is not None:
            done |= {"error_code": error.code, "error_text": error.text}
        self.rows.append(done)
        return error is None

    def job_type(self, row: int) -> int | None:
        """The type that this wake-up read; the active one where it read nothing."""
        return self._wakes.job_type[row] if self._wakes.stats[row] else JOB_UNBOUNDED

    def decisions(self) -> pd.DataFrame:
        """One row a call so far."""
        rows = [
            (self._wakes.t_ns[c.row] / NS_PER_S, ACTIONS[c.name], c.argument, c.succeeded, c.reason, said)
            for c, said in zip(self.monitor.calls, self._said, strict=True)
        ]
        return pd.DataFrame(rows, columns=list(LIVE_COLUMNS)).astype({"argument": "Int64"})

    def result(self) -> str:
        """How the monitor ended."""
        result = self.monitor.result
        if not result.ended:
            return "running"
        return f"failed: {result.reason}" if result.failed else "succeeded"


_METHODS = {
    "AbortJob": "abort_job",
    "MigrateStartPostCopy": "start_post_copy",
    "Suspend": "suspend",
    "MigrateSetMaxDowntime": "set_max_downtime",
}


def _domain_code(state: tuple[int, int] | None) -> int:
    if state is None:
        return base.DOMAIN_UNKNOWN
    if state == (PAUSED, PAUSED_MIGRATION):
        return base.DOMAIN_PAUSED_FOR_MIGRATION
    return base.DOMAIN_RUNNING if state[0] == RUNNING else base.DOMAIN_OTHER


def live(
    domain: Actable,
    policy: Policy,
    *,
    act: bool = False,
    data_size_gb: int | None = None,
    has_vfio: bool | None = None,
    speed: float = 1.0,
    limit_s: float = 24 * 3600,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Live:
    """Waits for a migration of the domain and lives through it under a policy.

    Parameters: `act`, whether calls are really made, else the policy only says what it would do; `data_size_gb`,
    `has_vfio`, where the domain's own facts are not to be used; `speed`, how many seconds of the domain's world pass
    in one of ours (fake domains); `limit_s` of that world, after which it stops; `on_row`, called with every row.
    The recording goes on to the migration's end when the monitor has ended before; Ctrl-C ends both and keeps what
    there is. Raises MigkitError when the guest's memory is unknown, it goes away, or no migration begins in time.
    """
    if speed <= 0:
        raise UsageError(f"speed {speed}: must be more than 0")
    facts = domain.facts()
    given = None if data_size_gb is None else checked_size(data_size_gb)
    if given is None and facts.domain.memory_bytes is None:
        raise MigkitError(f"{facts.domain.name}: the guest's memory is unknown; pass data_size_gb")
    vfio = bool(facts.domain.has_vfio) if has_vfio is None else has_vfio
    loop = _Loop(domain, speed=speed, limit_s=limit_s, hears=policy.hears_iterations, on_row=on_row)
    first, start_ns = loop.first_sample()
    size = given if given is not None else _size(facts, policy, first)
    session = Session(
        policy, data_size_gb=size, has_vfio=vfio, start_ns=start_ns, act=act, domain=domain, clock=loop.now_ns
    )
    end = with_failure(loop.run(session, first))
    meta = TraceMeta(
        provenance=facts.provenance, origin=facts.origin, domain=facts.domain, host=facts.host, end=end,
        migration=Migration(downtime_limit_ms=loop.limit_ms),
        cadence=Cadence(recorder=f"migkit live, {policy.name}", interval_ms=POLL_NS / NS_PER_MS,
                        iteration_events=policy.hears_iterations, read_only=not act, gaps=tuple(loop.gaps)),
    )  # fmt: skip
    rows = sorted([*session.rows, *loop.other_rows], key=lambda row: row["mono_ns"])
    trace = Trace.from_rows(rows, meta, facts.domain.name)
    return Live(trace=trace, policy=policy, decisions=session.decisions(), result=session.result(), acted=act)


def _size(facts: Facts, policy: Policy, first: dict[str, Any]) -> int:
    """As a replay of the trace will have it: memory, and the disks that the first statistics speak of."""
    copied = int(first.get("disk_total") or 0) if policy.counts_migrated_volumes else 0
    return size_of(memory=facts.domain.memory_bytes, migrated_bytes=[copied])


class _Loop:
    """The monitor's timer and its channel of events, in the time of the domain's world."""

    def __init__(
        self, domain: Actable, *, speed: float, limit_s: float, hears: bool, on_row: Callable[[Row], None]
    ) -> None:
        self._domain, self._speed, self._hears, self._on_row = domain, speed, hears, on_row
        self._zero_ns = time.monotonic_ns()
        self._limit_ns = self._zero_ns + int(limit_s * NS_PER_S)
        self._events: queue.Queue[Event] = queue.Queue(maxsize=_CHANNEL)
        self._ending = Ending()
        self.other_rows: list[Row] = []
        self.limit_ms: int | None = None
        self._told, self._woken_ns = 0, 0
        self._lost_ns: int | None = None
        self.gaps: list[tuple[int, int]] = []
        domain.subscribe(self._heard)

    def now_ns(self) -> int:
        """The time of the domain's world."""
        return self._zero_ns + int((time.monotonic_ns() - self._zero_ns) * self._speed)

    def _heard(self, event: Event) -> None:
        if event.kind == "iteration":
            try:
                self._events.put_nowait(event)
            except queue.Full:
                return
            return
        row: Row = {"mono_ns": self.now_ns(), "wall_ns": event.wall_ns, "source": event.kind}
        if event.lifecycle is not None:
            row["lifecycle_event"], row["lifecycle_detail"] = event.lifecycle
        self.other_rows.append(row | row_from_stats(event.stats))

    def first_sample(self) -> tuple[dict[str, Any], int]:
        """The first stats of a running job, and when that job began."""
        while self.now_ns() < self._limit_ns:
            stats, error = self._ask()
            if error is not None and (error.code in (NO_DOMAIN, NOT_RUNNING) or error.code in NEVER):
                raise MigkitError(f"no migration to live through: {error.text}")
            if stats is not None and stats.get("type") == JOB_UNBOUNDED:
                self.limit_ms = self._domain.max_downtime_ms()
                return stats, self.now_ns() - int(stats.get("time_elapsed", 0)) * NS_PER_MS
            self._sleep(POLL_NS // 4)
        raise MigkitError("no migration began in time")

    def run(self, session: Session, first: dict[str, Any]) -> End:
        """Wakes the monitor until it has ended, and lives on until the migration has."""
        # The job's clock in the trace is that of its first row: the first wake reads exactly this sample.
        begun_ns = session.start_ns + int(first.get("time_elapsed", 0)) * NS_PER_MS
        self._note(session.wake(begun_ns, first, self._state()))
        self._woken_ns = self.now_ns()
        try:
            while self.now_ns() < self._limit_ns and not self._over(self.now_ns()):
                self._wake(session)
        except KeyboardInterrupt:
            return self._ending.end or End(outcome="interrupted", evidence="the monitor was stopped while the job ran")
        late = "the time limit was reached" if self.now_ns() >= self._limit_ns else "nobody said how it ended"
        return self._ending.end or End(outcome="lost", evidence=late)

    def _wake(self, session: Session) -> None:
        """One wake-up of the monitor; once that has ended, a row like a recorder's."""
        event = self._next_event(self._woken_ns + POLL_NS)
        stats, error = self._ask()
        self._woken_ns = now_ns = self.now_ns()
        if session.monitor.finished:
            row: Row = {"mono_ns": now_ns, "wall_ns": time.time_ns(), "source": "poll", **row_from_stats(stats or {})}
            self.other_rows.append(row)
        else:
            iteration = None if event is None else event.iteration
            row = session.wake(now_ns, stats, self._state(), iteration=iteration)
        if error is not None:
            row["error_code"], row["error_text"] = error.code, error.text
            if error.lost:
                self._reconnect(now_ns)
        self._note(row)

    def _reconnect(self, since_ns: int) -> None:
        """Opens a lost connection again; at the next wake, if not now. What lies between is a gap of the trace."""
        try:
            self._domain.reopen()
        except SourceError:
            self._lost_ns = self._lost_ns or since_ns
        else:
            self.gaps.append((self._lost_ns or since_ns, self.now_ns()))
            self._lost_ns = None

    def _note(self, row: Row) -> None:
        for seen in self.other_rows[self._told :]:
            self._told += 1
            self._ending.see(seen)
            self._on_row(seen)
        if row["source"] == "wake":
            self._ending.see(row)
            self._on_row(row)

    def _over(self, now_ns: int) -> bool:
        return self._ending.settled(now_ns) or self._ending.overdue(now_ns)

    def _next_event(self, due_ns: int) -> Event | None:
        """An iteration event, or None when the timer is first."""
        while True:
            left_s = (due_ns - self.now_ns()) / NS_PER_S / self._speed
            if left_s <= 0:
                return None
            try:
                event = self._events.get(timeout=left_s)
            except queue.Empty:
                return None
            if self._hears:
                return event

    def _ask(self) -> tuple[dict[str, Any] | None, SourceError | None]:
        try:
            return self._domain.job_stats(), None
        except SourceError as error:
            return None, error

    def _state(self) -> tuple[int, int] | None:
        try:
            return self._domain.state()
        except SourceError:
            return None

    def _sleep(self, duration_ns: int) -> None:
        time.sleep(duration_ns / NS_PER_S / self._speed)
