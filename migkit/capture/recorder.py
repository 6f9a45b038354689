"""Records one migration: what the sampler and the events bring goes into the journal, and at the end into a trace.

Loads neither pandas nor numpy; pyarrow only at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from migkit.capture import journal_file
from migkit.capture import source as s
from migkit.capture.journal import Journal, Recording, advice, finalise, journal_path, writable
from migkit.capture.masking import Mask
from migkit.capture.outcome import Ending
from migkit.capture.sampler import Inbox, Limit, Sampler, in_background
from migkit.errors import MigkitError, UsageError
from migkit.failures import with_failure
from migkit.meta import Cadence, End, Migration, TraceMeta
from migkit.schema import JOB_BOUNDED, JOB_UNBOUNDED, OPERATION_MIGRATION_OUT
from migkit.units import NS_PER_S

LOOK_S: Final = 0.25
LAST_CALL_S: Final = 3.0
DESTINATION_S: Final = 5.0

_STOP: Final = object()

Row = dict[str, Any]
W = TypeVar("W", bound=s.Witness)


def record(
    source: s.Source | str,
    *,
    output: str | os.PathLike[str],
    uri: str = "qemu:///system",
    interval_ms: float = 100,
    wait: bool = True,
    destination: s.Witness | str | None = None,
    via: str | None = None,
    via_socket: str | None = None,
    mask_names: bool = False,
    force: bool = False,
    on_ready: Callable[[], None] | None = None,
) -> Recording:
    """Records the running or the next migration of a domain to its end.

    Parameters: `source` a domain's name or uuid at the libvirt `uri`, or an open Source; `output` the trace to write;
    `interval_ms` between polls; `wait` for a migration to begin, else there must be one; `destination` libvirt URI of
    the host it goes to, asked for the final stats where the source cannot tell them any more; `via`, `via_socket` as
    in `open_source`; `mask_names` leaves out what names guests and hosts; `force` overwrites; `on_ready` is called
    once attached. Ctrl-C and SIGTERM end the recording and keep it, outcome `interrupted`.

    Returns a Recording. Raises MigkitError when it cannot begin, or cannot write; what is in the journal then stays.

    >>> import migkit as mk
    >>> mk.record("guest", uri="fake:///fast?speed=20", output="/tmp/fast.parquet", force=True).meta.end.outcome
    'completed'
    """
    target = writable(output, force=force)
    if not 0 < interval_ms <= 60_000:
        raise UsageError(f"interval {interval_ms:g} ms: must be more than 0 and at most 60000")
    # The outer stack is the last to unwind: from the session's beginning until all is closed, Ctrl-C is a message.
    with contextlib.ExitStack() as signals, contextlib.ExitStack() as stack:
        opened = _opened(stack, source, lambda name: s.open_source(name, uri, via=via, via_socket=via_socket))
        facts = in_background(opened.facts)
        far = None
        if destination is not None:
            far = _opened(stack, destination, lambda there: s.open_witness(_identity(facts), there))
        session = _Session(opened, facts, target, interval_ms=interval_ms, destination=far, mask_names=mask_names)
        signals.enter_context(_signals_to(session.stop))
        recording = session.run(wait=wait, on_ready=on_ready, force=force)
    return dataclasses.replace(recording, stopped=session.stopped)


def _opened(stack: contextlib.ExitStack, source: W | str, open_it: Callable[[str], W]) -> W:
    """The source itself, or one opened for this recording and closed after it."""
    if not isinstance(source, str):
        return source
    name = source
    opened: W = in_background(lambda: open_it(name))
    stack.callback(opened.close)
    return opened


def _identity(facts: s.Facts) -> str:
    return facts.domain.uuid or facts.domain.name


class _Session:
    """One recording from attaching to the trace."""

    def __init__(
        self, source: s.Source, facts: s.Facts, target: Path, *, interval_ms: float,
        destination: s.Witness | None, mask_names: bool,
    ) -> None:  # fmt: skip
        self._source, self._facts, self._target = source, facts, target
        self._witnesses = {"destination": destination, "source": source}
        # Stats of an earlier migration may still lie there: only what is new counts in the end.
        self._old = {who: _completed_stats(witness) for who, witness in self._witnesses.items()}
        self._mask = Mask(facts) if mask_names else None
        self._ending = Ending()
        self._inbox: Inbox = SimpleQueue()
        self._sampler = Sampler(source, self._inbox, interval_ms)
        self._gaps: list[tuple[int, int]] = []
        self._limits: list[tuple[int, int]] = []
        self._begun = self._written = False
        self.stopped = False
        self._meta = self._first_meta(interval_ms)

    def run(self, *, wait: bool, on_ready: Callable[[], None] | None, force: bool) -> Recording:
        self._journal = Journal(journal_path(self._target), self._meta)
        try:
            self._sampler.start()
            if on_ready is not None:
                on_ready()
            self._finish(self._follow(wait=wait))
            return finalise(self._journal.fd, self._journal.path, self._target, force=force)
        except MigkitError as error:
            raise self._told(error) from None
        finally:
            self._sampler.stop()
            self._journal.close(remove=not self._begun)

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
            now_ns = time.monotonic_ns()
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
        if not self._begun and not self._begins(row, wait=wait):
            return
        if self._mask is not None:
            row = self._mask.row(row)
        self._journal.append(row)
        self._ending.see(row)

    def _begins(self, row: Row, *, wait: bool) -> bool:
        """Whether this row belongs to a migration out of this host, and is thus the first to be kept."""
        ours = row.get("operation") in (None, OPERATION_MIGRATION_OUT)
        active = row.get("job_type") in (JOB_BOUNDED, JOB_UNBOUNDED) or row["source"] in ("iteration", "job")
        if ours and active:
            self._begun = True
            return True
        name = self._facts.domain.name
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
        while not self._inbox.empty():
            self._accept(self._inbox.get(), wait=True)
        for row in late:
            self._take(row, wait=True)
        end = self._ending.end or end
        if not stopped:
            end = self._completed(end)
        cadence = dataclasses.replace(self._meta.cadence, gaps=tuple(self._gaps))
        self._journal.finish(dataclasses.replace(self._meta, end=with_failure(end), cadence=cadence))
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

    def _first_meta(self, interval_ms: float) -> TraceMeta:
        facts = self._facts
        cadence = Cadence(
            recorder="migkit", interval_ms=interval_ms, iteration_events=True, read_only=facts.read_only, via=facts.via
        )
        meta = TraceMeta(
            provenance=facts.provenance, origin=facts.origin, domain=facts.domain, host=facts.host, cadence=cadence
        )
        return meta if self._mask is None else self._mask.meta(meta)

    def _note_limit(self, found: Limit) -> None:
        """The downtime limit as the migration begins; later ones with the moment when they were seen."""
        self._limits.append((found.mono_ns, found.limit_ms))
        notes = {"downtime_limits_ms": self._limits} if len(self._limits) > 1 else {}
        first = Migration(downtime_limit_ms=self._limits[0][1])
        self._meta = dataclasses.replace(self._meta, migration=first, notes=notes)
        self._journal.note(self._meta)

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


@contextlib.contextmanager
def _signals_to(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal become a call: nothing is torn apart in the middle of a write."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop()) for number in numbers}
    try:
        yield
    finally:
        # Ctrl-C last: from then on it may cut this short.
        for number, handler in reversed(before.items()):
            signal.signal(number, handler)
