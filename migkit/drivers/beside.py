"""The monitor beside a recording: its timer, its channel of events, and the migrate call where it makes one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from migkit.capture.clock import Clock
from migkit.capture.outcome import MIGRATE
from migkit.capture.source import Actable, Event, Facts, Source, SourceError
from migkit.drivers.evidence import deadlines, internals
from migkit.drivers.monitor import POLL_NS
from migkit.drivers.wakes import Row, Woken, action_row, decisions_table
from migkit.errors import MigkitError
from migkit.meta import End, Migration, Rule, TraceMeta
from migkit.policies.size import data_size_gb as size_of
from migkit.policies.versions import Policy
from migkit.schema import JOB_UNBOUNDED
from migkit.units import NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    import pandas as pd

# The channel between libvirt's events and the monitor: what does not fit is dropped.
_CHANNEL = 16
# How long the end waits for the migrate call: libvirt clears up on both hosts before it returns.
CALL_S = 15.0
_MIGRATE_THREAD = "migkit-migrate"
# A signal that comes again so soon is the same Ctrl-C: `timeout` or `sudo` pass on what the terminal sends as well.
SAME_SIGNAL_S = 0.3


class Call(Protocol):
    """The migrate call. `migration` is what it asks of libvirt, `notes` what whoever looks on should know of it."""

    migration: Migration
    notes: tuple[str, ...]

    def __call__(self) -> None:
        """Migrates, and returns when that has ended. Raises SourceError, `lost` when only the connection was."""


class Watching(Protocol):
    """Who looks on. Called by the recorder's thread."""

    def begun(self, beside: Beside) -> None:
        """The monitor has been started."""

    def saw(self, row: Row) -> None:
        """A row of the trace."""

    def tick(self) -> None:
        """A few times a second."""

    def said(self, text: str) -> None:
        """Something that is not a decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The monitor after a wake-up: when that was, its values (`evidence.INTERNAL_COLUMNS`), and what its clock alone
    will bring: (what passes, in how many seconds)."""

    t_s: float
    values: dict[str, Any]
    deadlines: list[tuple[str, float]]
    ended: bool


class Beside:
    """A recording's Companion that runs a policy.

    Attributes: `moment`, the newest; `cancelling`, whether Ctrl-C has been answered; `view`, who looks on.
    """

    def __init__(
        self, domain: Source, facts: Facts, policy: Policy, clock: Clock, *, act: bool, data_size_gb: int | None,
        has_vfio: bool | None, limit_s: float | None, call: Call | None,
    ) -> None:  # fmt: skip
        self.policy, self.facts, self.acts = policy, facts, act
        self.view: Watching = _Nobody()
        self._domain, self._clock, self._given_gb = domain, clock, data_size_gb
        self.has_vfio = bool(facts.domain.has_vfio) if has_vfio is None else has_vfio
        self.moment: Moment | None = None
        self._woken: Woken | None = None
        self._start_ns: int | None = None
        self._size_gb: int | None = data_size_gb
        self._limit_ns = None if limit_s is None else clock.now_ns() + int(limit_s * NS_PER_S)
        self._events: queue.Queue[Event | None] = queue.Queue(maxsize=_CHANNEL)
        self._lock = threading.Lock()
        self._call, self._migrate_error = call, ""
        self._failed = self._begun = self.cancelling = False
        self._cancelled_s = 0.0
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    # --- called by the recorder -------------------------------------------------------------------------------------

    def attach(self, put: Callable[[Any], None]) -> None:
        """Begins the migration where that is wanted."""
        self._put = put
        if self._call is not None:
            for note in self._call.notes:
                self._show(lambda view, said=note: view.said(said))  # type: ignore[misc]
            self._start(self._migrate, _MIGRATE_THREAD)

    def hear(self, event: Event) -> None:
        """An iteration event goes into the channel."""
        if event.kind == "iteration" and self.policy.hears_iterations:
            try:
                self._events.put_nowait(event)
            except queue.Full:
                return

    def see(self, row: Row) -> None:
        """The first row of the running job starts the monitor."""
        self._begun = True
        if self._woken is None and row.get("job_type") == JOB_UNBOUNDED:
            if self._start_ns is None:
                self._start_ns = row["mono_ns"] - row.get("time_elapsed_ms", 0) * NS_PER_MS
            self._begin(row, self._start_ns)
        self._show(lambda view: view.saw(row))

    def look(self, end: End | None) -> End | None:
        """A completed migration needs no monitor any more; the time limit ends the recording."""
        if end is not None and end.outcome == "completed":
            self._over.set()
        self._show(lambda view: view.tick())
        if self._limit_ns is None or self._clock.now_ns() < self._limit_ns:
            return None
        if not self._begun:
            raise MigkitError(f"{self.facts.domain.name}: no migration began in time")
        return end or End(outcome="lost", evidence="the time limit was reached")

    def cannot_write(self, error: MigkitError) -> None:
        """Tells whoever looks on."""
        self._show(lambda view: view.said(f"{error}: the recording stops here, the policy goes on"))

    def _show(self, show: Callable[[Watching], None]) -> None:
        """A terminal that has gone is no reason to let go of a migration."""
        try:
            show(self.view)
        except OSError:
            self.view = _Nobody()

    def stop(self, wait_s: float) -> None:
        """Ends the monitor; a migrate call that does not come back is left to itself."""
        self._over.set()
        for thread in self._threads:
            thread.join(max(wait_s, CALL_S) if thread.name == _MIGRATE_THREAD and wait_s >= 1 else wait_s)

    def told(self, meta: TraceMeta) -> TraceMeta:
        """The metadata with the rule and what it decided, and what was asked of libvirt."""
        woken = self._woken
        rule = Rule(
            policy=self.policy.name, options=dict(self.policy.options), data_size_gb=self._size_gb,
            has_vfio=self.has_vfio, acted=self.acts, decisions=tuple(woken.told if woken else ()), result=self.result(),
        )  # fmt: skip
        if self._call is not None:
            asked, hidden = self._call.migration, ("migrate_uri",) if meta.cadence.names_masked else ()
            parameters = {name: value for name, value in asked.parameters.items() if name not in hidden}
            limit_ms = meta.migration.downtime_limit_ms
            meta = replace(meta, migration=replace(asked, parameters=parameters, downtime_limit_ms=limit_ms))
        return replace(meta, rule=rule)

    # --- asked from outside -----------------------------------------------------------------------------------------

    @property
    def unanswered(self) -> bool:
        """Whether the migrate call made from here has not come back yet."""
        return any(thread.name == _MIGRATE_THREAD and thread.is_alive() for thread in self._threads)

    @property
    def may_run(self) -> bool:
        """Whether a migration was seen, or one that was asked for here may still begin."""
        return self._begun or self.unanswered

    @property
    def starts_it(self) -> bool:
        """Whether the migration is begun from here."""
        return self._call is not None

    def interrupted(self) -> bool:
        """Ctrl-C: True where it is answered by cancelling the migration, the first time; may be called from a signal
        handler at any moment."""
        if self._call is None or self._over.is_set():
            return False
        if self.cancelling:
            return time.monotonic() - self._cancelled_s < SAME_SIGNAL_S
        self.cancelling, self._cancelled_s = True, time.monotonic()
        self._start(self._cancel, "migkit-cancel")
        return True

    def decided(self, since: int) -> list[Row]:
        """The decisions from number `since` on."""
        return [] if self._woken is None else self._woken.told[since:]

    def decisions(self) -> pd.DataFrame:
        """One row a call so far."""
        return decisions_table(self.decided(0))

    def result(self) -> str:
        """How the monitor ended."""
        return "running" if self._woken is None else self._woken.result()

    # --- threads of its own -----------------------------------------------------------------------------------------

    def _start(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _begin(self, row: Row, start_ns: int) -> None:
        """Starts the monitor with the job's clock, once the size behind its deadline can be known."""
        size_gb = self._size(row)
        if size_gb is None:
            return
        self._size_gb = size_gb
        domain: Any = self._domain if self.acts else None
        self._woken = Woken(
            self.policy, data_size_gb=size_gb, has_vfio=self.has_vfio, start_ns=start_ns, domain=domain,
            clock=self._clock.now_ns, keep=self._put,
        )  # fmt: skip
        self._start(self._live, "migkit-monitor")
        self._show(lambda view: view.begun(self))

    def _size(self, row: Row) -> int | None:
        """Memory, and the disks that the statistics speak of, as a replay of the trace will have it. They are all zeros
        while libvirt prepares the migration."""
        if self._given_gb is not None:
            return self._given_gb
        copied = row.get("disk_total_bytes") or 0
        writable = [disk for disk in self.facts.domain.disks if not disk.read_only]
        counts = self.policy.counts_migrated_volumes
        if counts and writable and not copied and not row.get("memory_total_bytes"):
            return None
        return size_of(memory=self.facts.domain.memory_bytes, migrated_bytes=[copied if counts else 0])

    def _live(self) -> None:
        assert self._woken is not None
        try:
            due_ns = max(self._clock.now_ns(), self._woken.start_ns + POLL_NS)
            while not self._over.is_set() and not self._woken.monitor.finished:
                event = self._next_event(due_ns)
                if self._over.is_set():
                    return
                due_ns = self._wake(self._woken, event) + POLL_NS
        except Exception as error:
            self._put(error)

    def _wake(self, woken: Woken, event: Event | None) -> int:
        begin_ns, stats, failure = self._clock.now_ns(), None, None
        try:
            stats = self._domain.job_stats()
        except SourceError as error:
            failure = error
        latency_us = (self._clock.now_ns() - begin_ns) // 1000
        state = self._state()
        with self._lock:
            now_ns, error_text = self._clock.now_ns(), self._migrate_error if self._failed else None
        woken.wake(
            now_ns, stats, state, iteration=None if event is None else event.iteration, error=failure,
            migrate_error=error_text, latency_us=latency_us,
        )  # fmt: skip
        t_ns = now_ns - woken.start_ns
        values, passing = internals(woken.monitor, t_ns), deadlines(woken.monitor, t_ns)
        self.moment = Moment(t_s=t_ns / NS_PER_S, values=values, deadlines=passing, ended=woken.monitor.finished)
        return now_ns

    def _state(self) -> tuple[int, int] | None:
        try:
            return self._domain.state()
        except SourceError:
            return None

    def _next_event(self, due_ns: int) -> Event | None:
        """An iteration event, or None when the timer is first or all is over."""
        while not self._over.is_set():
            left_s = self._clock.real_s(due_ns - self._clock.now_ns())
            if left_s <= 0:
                return None
            try:
                # Not longer than the end may have to wait for this thread.
                return self._events.get(timeout=min(left_s, 0.1))
            except queue.Empty:
                continue
        return None

    def _migrate(self) -> None:
        assert self._call is not None
        error: MigkitError | None = None
        try:
            self._call()
        except MigkitError as raised:
            error = raised
        with self._lock:
            row = action_row(self._clock.now_ns(), MIGRATE, None, _as_source_error(error))
            lost = isinstance(error, SourceError) and error.lost
            row["succeeded"] = None if lost else error is None
            self._failed, self._migrate_error = error is not None and not lost, row.get("error_text", "")
        self._put(row)
        if error is None:
            self._over.set()

    def _cancel(self) -> None:
        domain: Actable = self._domain  # type: ignore[assignment]
        error = None
        try:
            domain.abort_job()
        except SourceError as raised:
            error = raised
        self._put(action_row(self._clock.now_ns(), "abort", None, error))


class _Nobody:
    """A Watching that does nothing."""

    def begun(self, beside: Beside) -> None:
        pass

    def saw(self, row: Row) -> None:
        pass

    def tick(self) -> None:
        pass

    def said(self, text: str) -> None:
        pass


def _as_source_error(error: MigkitError | None) -> SourceError | None:
    return error if error is None or isinstance(error, SourceError) else SourceError(0, str(error))
