"""Every migration on a host recorded: one process, one read-only connection, a recording for each migration.

A migration is noticed by its first iteration event, which comes as its memory begins to be copied, or by the
look-round, which asks every running domain for its job: no event tells of disks that are copied first. A recording
has the recorder's own threads; of its journal another process makes the trace (`migkit.capture.finisher`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from migkit.capture import source as s
from migkit.capture.finisher import Finisher
from migkit.capture.journal import Annotate, Recording, journal_path
from migkit.capture.masking import Mask
from migkit.capture.recorder import signals_to
from migkit.capture.sampler import in_background
from migkit.capture.session import Session
from migkit.capture.stats_row import row_from_stats
from migkit.capture.watch_folder import Folder, Keep
from migkit.errors import MigkitError, UsageError
from migkit.meta import Domain, Host
from migkit.schema import JOB_BOUNDED, JOB_UNBOUNDED, OPERATION_MIGRATION_OUT
from migkit.units import NS_PER_MS, NS_PER_S, format_s

# The look-round begins once a second, and asks no more than 20 domains a second: at half a millisecond of the daemon's
# processor time each that is one percent of a core, however many domains there are.
LOOK_S: Final = 1.0
PACE_S: Final = 0.05
HOUSEKEEPING_S: Final = 60.0
# For so long a recording waits for the daemon: what became of the migration is known when it is back.
RECONNECT_S: Final = 3600.0
BACK_OFF_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
STOP_S: Final = 15.0
# Two looks at one job put its beginning no further apart.
_SAME_JOB_NS: Final = 2 * NS_PER_S

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A migration whose trace is written, by the domain's own name. `recovered`: an earlier watcher had begun it."""

    domain: str
    recording: Recording
    recovered: bool = False


def watch(
    host: s.Hypervisor | str = "qemu:///system",
    *,
    output: str | os.PathLike[str],
    interval_ms: float = 100,
    keep: Keep | None = None,
    mask_names: bool = False,
    via: str | None = None,
    via_socket: str | None = None,
    annotate: Annotate | None = None,
    on_end: Callable[[Ended], None] = lambda ended: None,
    on_notice: Callable[[str], None] = lambda line: None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Records every migration out of a host until Ctrl-C or SIGTERM, which end it in order.

    Parameters: `host` a libvirt URI or an open Hypervisor; `output` the folder of the traces, one watcher's alone;
    `interval_ms` between polls of a migrating domain; `keep` how much of finished traces, the oldest go first;
    `mask_names`, `via`, `via_socket` as in `record`; `annotate` adds to a trace's metadata (`mk.Shadow(...)`); `on_end`
    gets each migration once its trace is written, `on_notice` a line about anything else, both on threads of their
    own; `on_ready` is called once it watches. Migrations under way at the end are kept, outcome `interrupted`.
    Raises MigkitError when the host cannot be reached or the folder is not to be had.
    """
    if not 0 < interval_ms <= 60_000:
        raise UsageError(f"interval {interval_ms:g} ms: must be more than 0 and at most 60000")
    with contextlib.ExitStack() as signals, contextlib.ExitStack() as stack:
        folder = Folder(output)
        stack.callback(folder.close)
        opened: s.Hypervisor
        if isinstance(host, str):
            uri = host
            opened = in_background(lambda: s.open_hypervisor(uri, via=via, via_socket=via_socket))
            stack.callback(opened.close)
        else:
            opened = host
        watcher = Watcher(
            opened, folder, interval_ms=interval_ms, keep=keep or Keep(), mask_names=mask_names, annotate=annotate,
            on_end=on_end, on_notice=on_notice,
        )  # fmt: skip
        signals.enter_context(signals_to(watcher.stop, hangup=lambda: None))
        watcher.run(on_ready)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """A recording under way."""

    uuid: str
    name: str
    source: s.Source
    session: Session
    target: Path
    thread: threading.Thread


class Watcher:
    """Watches a host until it is told to stop; see `watch`."""

    def __init__(
        self, host: s.Hypervisor, folder: Folder, *, interval_ms: float, keep: Keep, mask_names: bool,
        annotate: Annotate | None, on_end: Callable[[Ended], None], on_notice: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._host, self._folder, self._keep = host, folder, keep
        self._interval_ms, self._mask_names = interval_ms, mask_names
        self._on_end, self._notice = on_end, on_notice
        self._finisher = Finisher(self._finished, annotate)
        self._lock, self._rotating = threading.Lock(), threading.Lock()
        self._open: dict[str, _Open] = {}
        self._ended_jobs: dict[str, int] = {}
        self._names: dict[Path, str] = {}
        self._handed: set[Path] = set()
        self._tries: dict[Path, tuple[int, float]] = {}
        self._told: set[object] = set()
        self._full_told_s = -HOUSEKEEPING_S
        self._commands: SimpleQueue[None] = SimpleQueue()
        self._stopping = threading.Event()
        self._failure: Exception | None = None

    def stop(self) -> None:
        """Ends the watching; may be called from a signal handler, at any moment."""
        self._commands.put(None)

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Watches until `stop`, then ends the recordings and makes the last traces."""
        try:
            with self._folder_trouble():
                self._folder.sweep()
            self._keep_house()
            in_background(lambda: self._host.subscribe(self._heard))
            threading.Thread(target=self._look, name="migkit-look-round", daemon=True).start()
            on_ready()
            while not self._stopped():
                self._keep_house()
        finally:
            self._end()
        if self._failure is not None:
            raise self._failure

    def _stopped(self) -> bool:
        """Waits for `stop` as long as there is nothing to tidy up. A signal that another thread was given does not
        wake this one, hence the short waits."""
        due_s = time.monotonic() + HOUSEKEEPING_S
        while (left_s := due_s - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                self._commands.get(timeout=min(left_s, LOOK_S))
                return True
        return False

    def _end(self) -> None:
        self._stopping.set()
        with self._lock:
            last = list(self._open.values())
        for one in last:
            one.session.stop()
        deadline_s = time.monotonic() + STOP_S
        for one in last:
            one.thread.join(max(0.0, deadline_s - time.monotonic()))
        self._finisher.close()

    def _fail(self, error: Exception) -> None:
        """Ends the watching by an error."""
        self._failure = self._failure or error
        self.stop()

    # Noticing

    def _heard(self, uuid: str, name: str, event: s.Event) -> None:
        """An event of a domain that is not being recorded; on libvirt's own thread, so nothing may be asked here."""
        if event.kind == "iteration":
            self._begin(uuid, name, event)

    def _look(self) -> None:
        pace_s = 0.0
        while not self._stopping.is_set():
            begin_s = time.monotonic()
            try:
                self._look_round(pace_s)
                pace_s = PACE_S
            except s.SourceError as error:
                if error.lost:
                    self._reconnect(error)
                    pace_s = 0.0
                else:
                    self._once(str(error), f"the domains cannot be listed: {error}")
            except Exception as error:
                self._fail(MigkitError(f"a defect of migkit, please report it: {error!r}"))
                return
            self._stopping.wait(max(0.0, begin_s + LOOK_S - time.monotonic()))

    def _look_round(self, pace_s: float) -> None:
        running = self._host.running()
        present = {uuid for uuid, _ in running}
        with self._lock:
            self._ended_jobs = {uuid: job for uuid, job in self._ended_jobs.items() if uuid in present}
            todo = [(uuid, name) for uuid, name in running if uuid not in self._open]
        for uuid, name in todo:
            if self._stopping.is_set():
                return
            self._look_at(uuid, name)
            self._stopping.wait(pace_s)

    def _look_at(self, uuid: str, name: str) -> None:
        begin_ns = time.monotonic_ns()
        try:
            stats = self._host.source(uuid, name).job_stats()
        except s.SourceError as error:
            if error.lost:
                raise
            if error.code in s.NEVER:
                self._once((uuid, error.code), f"{name}: job stats cannot be had: {error.text}")
            return
        now_ns = time.monotonic_ns()
        active = stats.get("type") in (JOB_BOUNDED, JOB_UNBOUNDED)
        if not active or stats.get("operation", OPERATION_MIGRATION_OUT) != OPERATION_MIGRATION_OUT:
            return
        # A job whose end was seen may stay: a migration that failed in post-copy does.
        start_ns = now_ns - int(stats.get("time_elapsed", 0)) * NS_PER_MS
        if abs(start_ns - self._ended_jobs.get(uuid, -_SAME_JOB_NS)) < _SAME_JOB_NS:
            return
        row: Row = {"mono_ns": now_ns, "wall_ns": time.time_ns(), "source": "poll"}
        self._begin(uuid, name, row | {"latency_us": (now_ns - begin_ns) // 1000} | row_from_stats(stats))

    def _reconnect(self, lost: s.SourceError) -> None:
        since_s = time.monotonic()
        self._notice(f"the connection was lost ({lost.text}), trying to connect again")
        tries = 0
        while not self._stopping.wait(BACK_OFF_S[min(tries, len(BACK_OFF_S) - 1)]):
            tries += 1
            try:
                self._host.reopen()
            except s.SourceError:
                continue
            self._notice(f"connected again after {format_s(time.monotonic() - since_s)}")
            return

    # Recording

    def _begin(self, uuid: str, name: str, first: Row | s.Event) -> None:
        with self._lock:
            if self._stopping.is_set() or uuid in self._open:
                return
            source = self._host.source(uuid, name)
            target = self._folder.free(self._mask(uuid, name), time.time_ns())
            session = Session(
                source, target, interval_ms=self._interval_ms, mask_names=self._mask_names, recorder="migkit watch",
                patient=self._cannot_write, reconnect_s=RECONNECT_S,
            )  # fmt: skip
            thread = threading.Thread(target=self._record, args=(uuid,), name=f"migkit-{name}", daemon=True)
            one = _Open(uuid=uuid, name=name, source=source, session=session, target=target, thread=thread)
            self._open[uuid] = one
            session.start(first)
            thread.start()

    def _mask(self, uuid: str, name: str) -> str:
        return Mask(_bare_facts(uuid, name)).name if self._mask_names else name

    def _record(self, uuid: str) -> None:
        with self._lock:
            one = self._open[uuid]
        try:
            one.session.run(self._facts(one), lambda journal: None)
        except MigkitError as error:
            self._cannot_write(error)
        except Exception as error:
            self._notice(f"{one.name}: a defect of migkit, please report it: {type(error).__name__}: {error}")
        finally:
            one.source.close()
            self._hand(journal_path(one.target), one.name)
            with self._lock:
                del self._open[uuid]
                if one.session.job_start_ns is not None:
                    self._ended_jobs[uuid] = one.session.job_start_ns

    def _facts(self, one: _Open) -> s.Facts:
        """Asked while it is already being sampled. What is left of them when the domain has gone is its name."""
        while True:
            try:
                return one.source.facts()
            except s.SourceError as error:
                if not error.lost or self._stopping.wait(LOOK_S):
                    return _bare_facts(one.uuid, one.name)

    def _cannot_write(self, error: MigkitError) -> None:
        """A line a minute where there is no room, however many recordings want it."""
        if " cannot be written (" in str(error):
            if time.monotonic() - self._full_told_s < HOUSEKEEPING_S:
                return
            self._full_told_s = time.monotonic()
        self._notice(f"{error}; what is recorded stays, and watching goes on")

    # Finishing and keeping

    def _hand(self, journal: Path, name: str = "") -> None:
        with self._lock:
            if journal in self._handed or not journal.exists():
                return
            self._handed.add(journal)
            if name:
                self._names[journal] = name
        self._finisher.put(journal)

    def _finished(self, journal: Path, recording: Recording | None, wrong: str) -> None:
        with self._lock:
            self._handed.discard(journal)
            name = self._names.get(journal, "") if wrong else self._names.pop(journal, "")
        if wrong:
            self._once(journal, wrong)
            count = self._tries.get(journal, (0, 0.0))[0] + 1
            self._tries[journal] = count, time.monotonic() + HOUSEKEEPING_S * min(2 ** (count - 1), 60)
        elif recording is not None:
            self._tries.pop(journal, None)
            domain = name or recording.meta.domain.name
            try:
                self._on_end(Ended(domain=domain, recording=recording, recovered=not name))
            except Exception as error:
                self._fail(error)
            self._rotate()

    def _keep_house(self) -> None:
        """What was left, by an earlier watcher or for want of room, is tried again; what is too old goes."""
        self._rotate()
        with self._lock:
            busy = {journal_path(one.target) for one in self._open.values()}
        with self._folder_trouble():
            for journal in self._folder.journals():
                if journal not in busy and self._retry(journal):
                    self._hand(journal)

    def _retry(self, journal: Path) -> bool:
        """Whether a journal of which no trace could be made is to be tried again: ever more seldom."""
        known = self._tries.get(journal)
        return known is None or time.monotonic() >= known[1]

    def _rotate(self) -> None:
        gone: list[Path] = []
        with self._folder_trouble(), self._rotating:
            gone = self._folder.rotate(self._keep, time.time())
        if gone:
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            self._notice(f"removed {gone[0].name}{more}, the oldest")

    @contextlib.contextmanager
    def _folder_trouble(self) -> Iterator[None]:
        try:
            yield
        except MigkitError as error:
            self._once("folder", str(error))

    def _once(self, key: object, line: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._notice(line)


def _bare_facts(uuid: str, name: str) -> s.Facts:
    return s.Facts(domain=Domain(name=name, uuid=uuid), host=Host(), provenance="recorded", origin="libvirt")
