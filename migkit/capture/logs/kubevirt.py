"""KubeVirt's virt-launcher log, of v0.55.0 or later, into one trace a migration.

The monitor writes its statistics every tenth look, 4 s apart; with stall detection at every iteration too. Amounts are
whole MiB from v1.0.1 on, rates whole Mbps, which v1.0.1 to v1.2.0 print 64 times too small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from migkit.capture.logs import kubevirt_trace
from migkit.capture.logs.base import LONGEST_MS, Context, Imported, Line
from migkit.capture.logs.kubevirt_lines import (
    NOTED,
    OPENING,
    STATISTICS,
    Entry,
    Event,
    Sample,
    Statistics,
    done,
    entry,
    migration_of,
    outcome,
    statistics,
)
from migkit.units import MIB, NS_PER_MS, NS_PER_S

ORIGIN = kubevirt_trace.ORIGIN
# Whatever a monitor writes has one of these in it, or comes from a file named so.
NEEDLES: tuple[bytes, ...] = (
    b"igration", b"max downtime", b"max_downtime", b"Signal", b"stall detected", b"relaxed best",
    b"completion timeout reached", b"post copy", b"reconciling VM pause", b"convergence action is nothing",
    b"downtime tuning", b"failed to get domain job info",
)  # fmt: skip

_INITIATING = "Initiating live migration"
# So many samples are held at most before guests that have gone quiet are written out, until so many are left.
_MOST_HELD, _THEN_HELD = 100_000, 75_000
_QUIET_NS = 3600 * NS_PER_S
# Lines around a migration's samples that still belong to it.
_BEFORE_NS, _AFTER_NS = 120 * NS_PER_S, 90 * NS_PER_S
# A monitor's first lines are written about when libvirt's job begins.
_AROUND_NS = 5 * NS_PER_S
# A monitor that is silent for three of its intervals has ended, most likely.
_SURELY_NS, _SURELY_ROUNDS = 12 * NS_PER_S, 3


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


@dataclass(slots=True)
class _Job:
    """One migration's samples by libvirt's clock: of which guest, between which times and lines, in which files."""

    key: str
    named: bool
    samples: list[Sample]
    span_ns: tuple[int, int] | None
    orders: tuple[int, int]
    places: set[str]

    @property
    def migration(self) -> str:
        """The migration's UID."""
        return self.samples[0].said.migration


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
        jobs = [job for key, guest in self._guests.items() for job in _jobs(key, guest)]
        of_place: dict[str, list[_Job]] = {}
        of_uid: dict[str, list[_Job]] = {}
        for job in jobs:
            of_uid.setdefault(job.migration, []).append(job)
            for place in job.places:
                of_place.setdefault(place, []).append(job)
        only = jobs if len(self._guests) == 1 else []
        for event in self._loose:
            named = of_uid.get(event.migration) if event.migration else None
            home, reason = _home(event, named or of_place.get(event.place, only))
            if home is None:
                self._context.skipped[reason] += 1
                self.held -= 1
            else:
                self._guests[home.key].events.append(event._replace(migration=home.migration))
        self._loose = []


def _possible(said: Statistics) -> bool:
    """Whether the numbers are those of a migration on earth."""
    largest = max(said[1:7]) * (MIB if said.in_mib else 1)
    counts = [*said[7:14], said.disk_rate, said.expected_ms or 0, said.downtime_ms or 0, said.downtime_net_ms or 0]
    return said.elapsed_ms < LONGEST_MS and largest < 2**62 and max(counts) < 2**40


def _migrations(key: str, guest: _Guest, context: Context) -> Iterator[Imported]:
    """A guest's migrations in time order, each with the events that fall to it."""
    jobs = sorted(_jobs(key, guest), key=lambda job: (job.samples[0].wall_ns or 0, job.samples[0].order))
    shares = _shares(jobs, guest.events, context)
    for job, events in zip(jobs, shares, strict=True):
        if all(sample.final for sample in job.samples):
            context.skipped["final statistics of a migration without any others"] += len(job.samples)
            continue
        yield kubevirt_trace.assemble(guest.entry, job.samples, events, context)


def _jobs(key: str, guest: _Guest) -> Iterator[_Job]:
    """A guest's migrations, those of one UID in the order in which they came."""
    for samples in guest.samples.values():
        for part in _parts(samples):
            walls = [(s.wall_ns - s.said.elapsed_ms * NS_PER_MS, s.wall_ns) for s in part if s.wall_ns is not None]
            span_ns = (min(start for start, _ in walls), max(end for _, end in walls)) if walls else None
            orders = [sample.order for sample in part]
            yield _Job(
                key=key, named=bool(guest.entry.guest), samples=sorted(_with_final(part), key=_by_clock),
                span_ns=span_ns, orders=(min(orders), max(orders)), places={sample.place for sample in part},
            )  # fmt: skip


def _parts(samples: list[Sample]) -> Iterator[list[Sample]]:
    """The samples of one UID, migration by migration."""
    job: list[Sample] = []
    for sample in samples:
        if job and _anew(job[-1], sample):
            yield job
            job = []
        job.append(sample)
    if job:
        yield job


def _anew(last: Sample, sample: Sample) -> bool:
    """Whether libvirt began a second job: its clock and what was sent both start anew while the wall clock goes on, or
    its clock is no further though the job began after the last line."""
    elapsed_ms, wall_ns = sample.said.elapsed_ms, sample.wall_ns
    if elapsed_ms < last.said.elapsed_ms and sample.said.processed < last.said.processed:
        return (wall_ns or 1) > (last.wall_ns or 0)
    if wall_ns is None or last.wall_ns is None or elapsed_ms > last.said.elapsed_ms:
        return False
    return wall_ns - elapsed_ms * NS_PER_MS > last.wall_ns


def _with_final(samples: list[Sample]) -> list[Sample]:
    """The samples, with those of the completed job marked. They come from a logger that names no guest: where the
    monitor's own lines name theirs, one that does not, comes after them and has nothing left is of the end. Where no
    line names a guest, somebody took the names out, and that proves nothing."""
    named = [sample for sample in samples if sample.named]
    if not named:
        return samples
    printed = {sample.said for sample in named}
    last_ms = max(sample.said.elapsed_ms for sample in named)

    def ends(sample: Sample) -> bool:
        said = sample.said
        plain = sample.told and not sample.named and said not in printed
        return plain and said.elapsed_ms >= last_ms and said.remaining == 0

    return [sample._replace(final=sample.final or ends(sample)) for sample in samples]


def _by_clock(sample: Sample) -> tuple[bool, int, int]:
    return (sample.final, sample.said.elapsed_ms, sample.order)


def _home(event: Event, jobs: list[_Job]) -> tuple[_Job | None, str]:
    """The migration that a line without a guest belongs to; where it cannot be told, None and why. It is the only one
    near, or the nearest of a guest that had one after the other, or the only one that ran then."""
    near = [(far, job) for job in jobs if (far := _distance(event, job)) is not None]
    if not near:
        return None, "line of a monitor at a time of no migration"
    if len({job.key for _, job in near}) > 1 or _at_once([job for _, job in near]):
        surely = _SURELY_NS if event.item.wall_ns is not None else _SURELY_ROUNDS * len(jobs)
        near = [(far, job) for far, job in near if far <= surely]
        if len(near) != 1:
            return None, "line of a monitor that names no guest while not exactly one of several migrations ran"
    return min(near, key=lambda each: (_apart(event, each[1], each[0]), each[1].orders))[1], ""


def _at_once(jobs: list[_Job]) -> bool:
    """Whether migrations that were not told apart by a guest ran at the same time: then they are of several."""
    if all(job.named for job in jobs):
        return False
    spans = sorted(job.orders if job.span_ns is None else job.span_ns for job in jobs)
    return any(after[0] < before[1] for before, after in pairwise(spans))


def _shares(jobs: list[_Job], events: list[Event], context: Context) -> list[list[Event]]:
    """For each migration the events that belong to it: those near its samples in time, the nearest where several are,
    the one of the same file where they are as near; without times, those between its lines. A migration that ended
    before its first statistics has none: what is said between its beginning and other samples is its own."""
    shares: list[list[Event]] = [[] for _ in jobs]
    unseen = False
    for event in _in_order(_once(events, context)):
        reachable = [
            (_apart(event, job, far), event.place not in job.places, number, far)
            for number, job in enumerate(jobs)
            if event.migration in ("", job.migration) and (far := _distance(event, job)) is not None
        ]
        near = min(reachable, default=None)
        if OPENING.match(event.item.message):
            unseen = near is None
        if near is None:
            context.skipped["line of a monitor at a time of no migration"] += 1
        elif unseen and near[3] > 0:
            context.skipped["line about a migration without statistics"] += 1
        else:
            share = shares[near[2]]
            if event.item.message.startswith(_INITIATING):
                _leave_older(share, context)
            share.append(event)
    return shares


def _once(events: list[Event], context: Context) -> list[Event]:
    """Events without those that stand in the logs twice, as where one is a copy of another."""
    kept: dict[object, Event] = {}
    for event in events:
        item = event.item
        kept.setdefault(event.order if item.wall_ns is None else (item.wall_ns, item.message, item.reason), event)
    if len(kept) < len(events):
        context.skipped["the same line again"] += len(events) - len(kept)
    return list(kept.values())


def _leave_older(share: list[Event], context: Context) -> None:
    """Takes out what is of a migration that began, and perhaps ended, before the one that begins now."""
    older = [
        number
        for number, event in enumerate(share)
        if event.item.message.startswith(_INITIATING) or outcome(event.item) is not None
    ]
    if older:
        context.skipped["line about a migration without statistics"] += older[-1] + 1
        del share[: older[-1] + 1]


def _in_order(events: list[Event]) -> list[Event]:
    """Events by time; as they came where one has none."""
    if any(event.item.wall_ns is None for event in events):
        return sorted(events, key=lambda event: event.order)
    return sorted(events, key=lambda event: (event.item.wall_ns or 0, event.order))


def _distance(event: Event, job: _Job) -> int | None:
    """How far an event lies outside a migration; None where it is too far, or on the wrong side: a migration begins
    before its samples, acts while it runs and ends after it began."""
    at, start, end = _clocks(event, job)
    before, after = max(start - at, 0), max(at - end, 0)
    timed = event.item.wall_ns is not None and job.span_ns is not None
    around = _AROUND_NS if timed else 0
    if timed and (before > _BEFORE_NS or after > _AFTER_NS):
        return None
    if timed or event.place in job.places:
        if OPENING.match(event.item.message) and at > start + around:
            return None
        if (outcome(event.item) is not None and at < start) or (done(event.item.message) and before > around):
            return None
    return max(before, after)


def _apart(event: Event, job: _Job, distance: int) -> int:
    """How far an event lies from where lines of its kind stand: at a migration's start, its end, or anywhere in it.
    One migration may end in the second in which the next one starts."""
    at, start, end = _clocks(event, job)
    if OPENING.match(event.item.message):
        return abs(at - start)
    return distance if outcome(event.item) is None else abs(at - end)


def _clocks(event: Event, job: _Job) -> tuple[int, int, int]:
    """An event, a migration's start and its end by the wall clock; by the count of lines where there is none."""
    if event.item.wall_ns is not None and job.span_ns is not None:
        return (event.item.wall_ns, *job.span_ns)
    return (event.order, *job.orders)
