"""One recording of a migration: what the sampler and the events bring goes into the journal.

Loads neither pandas nor numpy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar

from migkit.capture import journal_file
from migkit.capture import source as s
from migkit.capture.clock import Clock
from migkit.capture.journal import Journal, advice, journal_path
from migkit.capture.masking import Mask
from migkit.capture.outcome import MIGRATE, Ending
from migkit.capture.sampler import Inbox, Limit, Sampler, in_background
from migkit.errors import MigkitError, RefusedError
from migkit.failures import in_a_line, readable, with_failure
from migkit.meta import Cadence, End, TraceMeta
from migkit.schema import JOB_BOUNDED, JOB_UNBOUNDED, OPERATION_MIGRATION_OUT
from migkit.units import NS_PER_MS, NS_PER_S

LOOK_S: Final = 0.25
LAST_CALL_S: Final = 3.0
DESTINATION_S: Final = 5.0
FULL_PAUSE_NS: Final = 5 * NS_PER_S

_STOP: Final = object()

Row = dict[str, Any]
R = TypeVar("R")


class Companion(Protocol):
    """Works beside a recording on threads of its own and brings rows of its own. It is called by the recorder's
    thread, but for `hear`. A recording with a companion goes on when its journal cannot be written any more."""

    def attach(self, put: Callable[[Row], None]) -> None:
        """The recorder listens: rows may be put from now on."""

    def hear(self, event: s.Event) -> None:
        """An event, on the source's thread."""

    def see(self, row: Row) -> None:
        """Every row that belongs to the migration, its own ones too."""

    def look(self, end: End | None) -> End | None:
        """Called a few times a second with the verdict so far; what it returns ends the recording."""

    def cannot_write(self, error: MigkitError) -> None:
        """The journal cannot be written any more; the recording goes on in memory."""

    def stop(self, wait_s: float) -> None:
        """The end; waits at most so long for a call that hangs. No row is put any more once this returns."""

    def told(self, meta: TraceMeta) -> TraceMeta:
        """The metadata with what it knows."""


class Session:
    """One recording from attaching to the end of its journal.

    A journal that cannot be written ends the recording, unless it is `patient` (what is called, once an outage; rows
    are kept again as soon as that succeeds, and the time between is a gap) or has a `companion` (it goes on in memory).
    `reconnect_s`, `clock` as a Sampler's.

    Attributes: `meta`, the metadata so far; `ended`, whether the end is known and in it; `unwritten`, why the journal
    could not be written any more, and `unwritten_rows` those that it lacks since; `job_start_ns`, when the job began.
    """

    def __init__(
        self, source: s.Source, target: Path, *, interval_ms: float, destination: s.Witness | None = None,
        mask_names: bool = False, recorder: str = "migkit", patient: Callable[[MigkitError], None] | None = None,
        reconnect_s: float | None = None, companion: Companion | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self._target, self._recorder, self._patient = target, recorder, patient
        self._companion, self._clock = companion, clock or Clock()
        self._interval_ms, self._mask_names = interval_ms, mask_names
        self._witnesses = {"destination": destination, "source": source}
        self._ending = Ending()
        self._inbox: Inbox = SimpleQueue()
        self._sampler = Sampler(
            source, self._inbox, interval_ms, reconnect_s=reconnect_s, clock=self._clock,
            hear=None if companion is None else companion.hear,
        )  # fmt: skip
        self._gaps: list[tuple[int, int]] = []
        self._limits: list[tuple[int, int]] = []
        self._full_ns: int | None = None
        self._started = self._begun = self._written = False
        self.stopped = self.ended = False
        self.job_start_ns: int | None = None
        self.unwritten: MigkitError | None = None
        self.unwritten_rows: list[Row] = []

    def start(self, first: Row | s.Event | None = None) -> None:
        """Begins to sample; what comes waits for `run`. `first` is what told of the migration, if something did."""
        self._started = True
        if isinstance(first, s.Event):
            self._sampler.take_event(first)
        elif first is not None:
            self._inbox.put(first)
        self._sampler.start()

    def run(
        self, facts: s.Facts, ended: Callable[[Journal], R], *, wait: bool = True,
        on_ready: Callable[[], None] | None = None,
    ) -> R:  # fmt: skip
        """Records to the end; returns what `ended` makes of the whole journal, which is closed afterwards."""
        self._attach(facts)
        self._journal = Journal(journal_path(self._target), self.meta)
        try:
            if not self._started:
                self.start()
            if self._companion is not None:
                self._companion.attach(self._inbox.put)
            if on_ready is not None:
                on_ready()
            self._finish(self._follow(wait=wait))
            return ended(self._journal)
        except MigkitError as error:
            raise self._told(error) from None
        finally:
            self._sampler.stop()
            if self._companion is not None:
                self._companion.stop(0)
            self._journal.close(remove=not self._begun)

    def _attach(self, facts: s.Facts) -> None:
        self._facts = facts
        self._mask = Mask(facts) if self._mask_names else None
        # Stats of an earlier migration may still lie there: only what is new counts in the end.
        self._old = {who: _completed_stats(witness) for who, witness in self._witnesses.items()}
        self.meta = self._first_meta()

    def stop(self) -> None:
        """Ends the recording and keeps it; may be called from a signal handler, at any moment."""
        self.stopped = True
        self._inbox.put(_STOP)

    def _follow(self, *, wait: bool) -> End:
        """Takes rows until the end is known."""
        while True:
            try:
                item = self._inbox.get(timeout=LOOK_S)
            except Empty:
                item = None
            if item is _STOP:
                return self._interrupted()
            if isinstance(item, Exception):
                return self._connection_lost(item)
            self._accept(item, wait=wait)
            if self._companion is not None and (end := self._companion.look(self._ending.end)) is not None:
                return end
            now_ns = self._clock.now_ns()
            if self._ending.settled(now_ns) or self._ending.overdue(now_ns):
                return self._ending.end or self._from_witnesses()

    def _accept(self, item: Any, *, wait: bool) -> None:
        match item:
            case dict():
                self._take(item, wait=wait)
            case Limit():
                self._note_limit(item)
            case tuple():
                self._gaps.append(item)

    def _take(self, row: Row, *, wait: bool) -> None:
        first = not self._begun
        if first and not self._begins(row, wait=wait):
            return
        if self._mask is not None:
            row = self._mask.row(row)
        self._keep(row)
        self._ending.see(row)
        if row.get("job_type") == JOB_UNBOUNDED:
            self.job_start_ns = int(row["mono_ns"]) - int(row.get("time_elapsed_ms", 0)) * NS_PER_MS
        if self._companion is not None:
            self._companion.see(row)
            if first:
                self.meta = self._companion.told(self.meta)
                self._wrote(lambda: self._journal.note(self.meta), int(row["mono_ns"]))

    def _keep(self, row: Row) -> None:
        now_ns = int(row["mono_ns"])
        if self._full_ns is not None and now_ns < self._try_ns:
            return
        if not self._wrote(lambda: self._journal.append(row), now_ns):
            if self.unwritten is not None:
                self.unwritten_rows.append(row)
        elif self._full_ns is not None:
            self._gaps.append((self._full_ns, now_ns))
            self._full_ns = None

    def _wrote(self, write: Callable[[], None], now_ns: int) -> bool:
        """Whether the journal took it. Where somebody works beside the recording a full disk does not end it."""
        if self.unwritten is None:
            try:
                write()
            except MigkitError as error:
                if self._companion is not None:
                    self.unwritten = error
                    self._companion.cannot_write(error)
                elif self._patient is not None:
                    self._put_off(self._patient, error, now_ns)
                else:
                    raise
            else:
                return True
        return False

    def _put_off(self, tell: Callable[[MigkitError], None], error: MigkitError, now_ns: int) -> None:
        """It is tried again after a while; the time until then is a gap."""
        self._journal.forgive()
        self._try_ns = now_ns + FULL_PAUSE_NS
        if self._full_ns is None:
            self._full_ns = now_ns
            tell(error)

    def _begins(self, row: Row, *, wait: bool) -> bool:
        """Whether this row belongs to a migration out of this host, and is thus the first to be kept."""
        ours = row.get("operation") in (None, OPERATION_MIGRATION_OUT)
        active = row.get("job_type") in (JOB_BOUNDED, JOB_UNBOUNDED) or row["source"] in ("iteration", "job")
        active |= row.get("action") == MIGRATE and bool(row["succeeded"])
        if ours and active:
            self._begun = True
            return True
        name = self._facts.domain.name
        if row.get("action") == MIGRATE:
            code, text = row["error_code"], row["error_text"]
            failure = readable(code, text)
            todo = f"; to do: {failure.do}" if failure.why else ""
            said = f"{name}: the migration did not begin: {in_a_line(failure)}{todo}"
            raise RefusedError(said, error_code=code, error_text=text)
        if row.get("error_code") == s.NO_DOMAIN:
            raise MigkitError(f"{name}: the domain went away before a migration began")
        if row.get("error_code") in s.NEVER:
            raise MigkitError(f"{name}: job stats cannot be had: {row['error_text']}")
        if not wait and row["source"] == "poll":
            raise MigkitError(f"{name}: no migration is running; leave out --no-wait to wait for one")
        return False

    def _interrupted(self) -> End:
        if not self._begun:
            raise MigkitError(f"{self._facts.domain.name}: stopped before a migration began, nothing was recorded")
        return self._ending.end or End(outcome="interrupted", evidence="the recorder was stopped while the job ran")

    def _connection_lost(self, error: Exception) -> End:
        if not isinstance(error, s.SourceError):
            raise MigkitError(f"a defect of migkit, please report it: {type(error).__name__}: {error}") from error
        if not self._begun:
            raise MigkitError(f"{self._facts.domain.name}: the connection was lost: {error}")
        known = self._ending.end or self._from_witnesses()
        return known if known.outcome != "lost" else dataclasses.replace(known, evidence="the connection was lost")

    def _finish(self, end: End) -> None:
        """Waits for a call that hangs, keeps what came meanwhile, writes the final word."""
        stopped = self.stopped
        late = self._sampler.stop(0.05 if stopped else LAST_CALL_S)
        if self._companion is not None:
            self._companion.stop(0.05 if stopped else LAST_CALL_S)
        while not self._inbox.empty():
            self._accept(self._inbox.get(), wait=True)
        for row in late:
            self._take(row, wait=True)
        end = self._ending.end or end
        if not stopped:
            end = self._completed(end)
        if self._full_ns is not None:
            self._gaps.append((self._full_ns, time.monotonic_ns()))
        cadence = dataclasses.replace(self.meta.cadence, gaps=tuple(self._gaps))
        self.meta = dataclasses.replace(self.meta, end=with_failure(end), cadence=cadence)
        if self._companion is not None:
            self.meta = self._companion.told(self.meta)
        self.ended = True
        if self.unwritten is not None:
            raise self.unwritten
        self._journal.finish(self.meta)
        self._written = True

    def _completed(self, end: End) -> End:
        """A completed migration whose event was missed: others may know its final stats."""
        if end.outcome != "completed" or end.completed is not None:
            return end
        told = self._from_witnesses()
        return dataclasses.replace(end, completed=told.completed, completed_from=told.completed_from)

    def _from_witnesses(self) -> End:
        """The end as the destination's or a persistent source's final stats prove it; else lost."""
        deadline_ns = time.monotonic_ns() + int(DESTINATION_S * NS_PER_S)
        while True:
            for who, witness in self._witnesses.items():
                stats = _completed_stats(witness)
                if stats and stats != self._old[who]:
                    evidence = f"final stats of the {who}"
                    return End(outcome="completed", evidence=evidence, completed=stats, completed_from=who)
            if self._witnesses["destination"] is None or time.monotonic_ns() > deadline_ns:
                break
            time.sleep(LOOK_S)
        code, text = self._ending.last_error()
        return End(outcome="lost", evidence="nobody said how it ended", error_code=code, error_text=text)

    def _first_meta(self) -> TraceMeta:
        facts = self._facts
        cadence = Cadence(
            recorder=self._recorder, interval_ms=self._interval_ms, iteration_events=True, read_only=facts.read_only,
            via=facts.via,
        )  # fmt: skip
        meta = TraceMeta(
            provenance=facts.provenance, origin=facts.origin, domain=facts.domain, host=facts.host, cadence=cadence
        )
        return meta if self._mask is None else self._mask.meta(meta)

    def _note_limit(self, found: Limit) -> None:
        """The downtime limit as the migration begins; later ones with the moment when they were seen."""
        self._limits.append((found.mono_ns, found.limit_ms))
        notes = {"downtime_limits_ms": self._limits} if len(self._limits) > 1 else {}
        first = dataclasses.replace(self.meta.migration, downtime_limit_ms=self._limits[0][1])
        self.meta = dataclasses.replace(self.meta, migration=first, notes=notes)
        self._wrote(lambda: self._journal.note(self.meta), found.mono_ns)

    def _told(self, error: MigkitError) -> MigkitError:
        if not self._begun or self._written:
            return error
        try:
            command = advice(journal_file.kept(self._journal.fd, self._journal.path), self._target)
        except MigkitError as gone:
            return MigkitError(f"{error}: recording stopped; {gone}")
        return MigkitError(f"{error}: recording stopped, {self._journal.rows} rows are kept: {command}")


def _completed_stats(witness: s.Witness | None) -> dict[str, Any] | None:
    """None also where nobody answers in time: a connection may be dead without knowing it."""
    if witness is None:
        return None
    try:
        stats: dict[str, Any] | None = in_background(witness.completed_stats, DESTINATION_S)
    except s.SourceError as error:
        if error.lost:
            with contextlib.suppress(s.SourceError):
                in_background(witness.reopen, DESTINATION_S)
        return None
    return stats
