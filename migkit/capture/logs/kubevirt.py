"""KubeVirt's virt-launcher log, of v0.55.0 or later, into one trace a migration.

The monitor writes its statistics every tenth look, 4 s apart; with stall detection at every iteration too. Amounts are
whole MiB from v1.0.1 on, rates whole Mbps, which v1.0.1 to v1.2.0 print 64 times too small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from migkit.capture.logs import kubevirt_trace
from migkit.capture.logs.base import Context, Imported, Line
from migkit.capture.logs.kubevirt_jobs import Job, Timeline, home, jobs_of, shares
from migkit.capture.logs.kubevirt_lines import (
    NOTED,
    STATISTICS,
    Entry,
    Event,
    Sample,
    Statistics,
    done,
    entry,
    migration_of,
    statistics,
)
from migkit.schema import LONGEST_MS
from migkit.units import MIB, NS_PER_S

ORIGIN = kubevirt_trace.ORIGIN
# Whatever a monitor writes has one of these in it, or comes from a file named so.
NEEDLES: tuple[bytes, ...] = (
    b"igration", b"max downtime", b"max_downtime", b"Signal", b"stall detected", b"relaxed best",
    b"completion timeout reached", b"post copy", b"reconciling VM pause", b"convergence action is nothing",
    b"downtime tuning", b"failed to get domain job info",
)  # fmt: skip

# So many samples are held at most before guests that have gone quiet are written out, until so many are left.
_MOST_HELD, _THEN_HELD = 100_000, 75_000
_QUIET_NS = 3600 * NS_PER_S


def matches(head: bytes) -> bool:
    """A log of virt-launcher or virt-handler, or any text with a monitor's line of statistics in it."""
    known = (b'"component":"virt-launcher"', b'"component":"virt-handler"', STATISTICS.encode())
    return any(words in head for words in known)


@dataclass(slots=True)
class _Guest:
    entry: Entry
    events: list[Event] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    last_order: int = 0
    last_wall_ns: int = 0


def read(lines: Iterator[Line], context: Context) -> Iterator[Imported]:
    """The migrations of a log, or of several logs one after the other; interleaved ones are told apart by the
    migration's UID, other lines belong to the migration of their guest that ran at the time."""
    log = _Log(context)
    for order, line in enumerate(lines):
        log.add(order, line)
        if log.held > _MOST_HELD:
            yield from log.release()
    yield from log.release(everything=True)


class _Log:
    """What was read and not yet written out."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._guests: dict[str, _Guest] = {}
        self._named: dict[str, set[str]] = {}
        self._first_place: dict[str, str] = {}
        self._loose: list[Event] = []
        self.held = 0

    def add(self, order: int, line: Line) -> None:
        item = entry(line.text)
        if item is None:
            self._context.skipped["line of a log that is cut short or damaged"] += 1
            return
        if STATISTICS in item.message:
            self._add_statistics(order, item, line.place)
        elif not NOTED.match(item.message) and not done(item.message):
            self._context.skipped["line that tells nothing of a migration's course"] += 1
        elif item.guest:
            guest = self._guest(item.guest, item)
            guest.events.append(Event(order, item, line.place))
            self._touch(guest, order, item)
        else:
            self._loose.append(Event(order, item, line.place, migration_of(item.message)))
            self.held += 1

    def _add_statistics(self, order: int, item: Entry, place: str) -> None:
        said = statistics(item.message)
        if said is None:
            self._context.skipped["statistics that are cut short or of an unknown form"] += 1
            return
        if not _possible(said):
            self._context.skipped["statistics with a number that cannot be"] += 1
            return
        if item.guest:
            self._named.setdefault(said.migration, set()).add(item.guest)
        key = item.guest or self._first_place.setdefault(said.migration, place)
        guest = self._guest(key, item)
        final = said.downtime_ms is not None
        named = bool(item.guest)
        sample = Sample(order, item.wall_ns, item.source, item.iteration, said, final, place, named, item.told)
        guest.samples.setdefault(said.migration, []).append(sample)
        self._touch(guest, order, item)

    def _guest(self, key: str, item: Entry) -> _Guest:
        guest = self._guests.get(key)
        if guest is None:
            guest = self._guests[key] = _Guest(entry=item)
        if item.name and not guest.entry.name:
            guest.entry = item
        return guest

    def _touch(self, guest: _Guest, order: int, item: Entry) -> None:
        self.held += 1
        guest.last_order = order
        guest.last_wall_ns = max(guest.last_wall_ns, item.wall_ns or 0)

    def release(self, *, everything: bool = False) -> Iterator[Imported]:
        """The migrations of guests that were last heard of long ago; of those silent longest where all are loud."""
        self._join()
        self._settle_loose()
        newest_ns = max((guest.last_wall_ns for guest in self._guests.values()), default=0)
        for key in sorted(self._guests, key=lambda key: self._guests[key].last_order):
            quiet = everything or self._guests[key].last_wall_ns < newest_ns - _QUIET_NS
            if quiet or self.held > _THEN_HELD:
                guest = self._guests.pop(key)
                self.held -= sum(map(len, guest.samples.values())) + len(guest.events)
                yield from _migrations(key, guest, self._context)

    def _join(self) -> None:
        """Lines of statistics that name no guest go to the one guest that other lines of their migration name."""
        for key, guest in list(self._guests.items()):
            if guest.entry.guest:
                continue
            for migration in list(guest.samples):
                owners = self._named.get(migration, set())
                owner = self._guests.get(next(iter(owners))) if len(owners) == 1 else None
                if owner is not None:
                    joined = owner.samples.get(migration, []) + guest.samples.pop(migration)
                    owner.samples[migration] = sorted(joined, key=lambda sample: sample.order)
                    owner.last_order = max(owner.last_order, guest.last_order)
            if not guest.samples and not guest.events:
                del self._guests[key]

    def _settle_loose(self) -> None:
        """Gives each line without a guest to the migration that it must be of."""
        if not self._loose:
            return
        jobs = [
            job for key, guest in self._guests.items()
            for job in jobs_of(key, bool(guest.entry.guest), guest.samples, Counter())
        ]  # fmt: skip
        of_place: dict[str, list[Job]] = {}
        of_uid: dict[str, list[Job]] = {}
        for each in jobs:
            of_uid.setdefault(each.migration, []).append(each)
            for place in each.places:
                of_place.setdefault(place, []).append(each)
        only = Timeline(jobs if len(self._guests) == 1 else [])
        timelines = {place: Timeline(here) for place, here in of_place.items()}
        for event in self._loose:
            named = of_uid.get(event.migration) if event.migration else None
            job, reason = home(event, Timeline(named) if named else timelines.get(event.place, only))
            if job is None:
                self._context.skipped[reason] += 1
                self.held -= 1
            else:
                self._guests[job.key].events.append(event._replace(migration=job.migration))
        self._loose = []


def _possible(said: Statistics) -> bool:
    """Whether the numbers are those of a migration on earth."""
    largest = max(said[1:7]) * (MIB if said.in_mib else 1)
    counts = [*said[7:14], said.disk_rate, said.expected_ms or 0, said.downtime_ms or 0, said.downtime_net_ms or 0]
    return said.elapsed_ms < LONGEST_MS and largest < 2**62 and max(counts) < 2**40


def _migrations(key: str, guest: _Guest, context: Context) -> Iterator[Imported]:
    """A guest's migrations in time order, each with the events that fall to it."""
    told = jobs_of(key, bool(guest.entry.guest), guest.samples, context.skipped)
    jobs = sorted(told, key=lambda job: (job.samples[0].wall_ns or 0, job.samples[0].order))
    shared = shares(jobs, guest.events, context.skipped)
    for job, events in zip(jobs, shared, strict=True):
        if all(sample.final for sample in job.samples):
            context.skipped["final statistics of a migration without any others"] += len(job.samples)
            continue
        yield kubevirt_trace.assemble(guest.entry, job.samples, events, context)
