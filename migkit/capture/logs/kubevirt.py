"""KubeVirt's virt-launcher log, of v0.55.0 or later, into one trace a migration.

The monitor writes its statistics every tenth look, 4 s apart; with stall detection at every iteration too. Amounts are
whole MiB from v1.0.1 on, rates whole Mbps, which v1.0.1 to v1.2.0 print 64 times too small.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from migkit.capture.logs import kubevirt_trace
from migkit.capture.logs.base import LONGEST_MS, Context, Imported, Line
from migkit.capture.logs.clock import Spans
from migkit.capture.logs.kubevirt_lines import (
    NOTED,
    STATISTICS,
    Entry,
    Event,
    Sample,
    Statistics,
    done,
    entry,
    statistics,
)
from migkit.units import MIB, NS_PER_MS, NS_PER_S

ORIGIN = kubevirt_trace.ORIGIN
# Whatever a monitor writes has one of these in it, or comes from a file named so.
NEEDLES: tuple[bytes, ...] = (
    b"igration", b"max downtime", b"max_downtime", b"Signal", b"stall detected", b"relaxed best",
    b"completion timeout reached", b"post copy",
)  # fmt: skip

# So many samples are held at most before guests that have gone quiet are written out.
_MOST_HELD = 100_000
_QUIET_NS = 3600 * NS_PER_S
# Lines around a migration's samples that still belong to it.
_BEFORE_NS, _AFTER_NS = 120 * NS_PER_S, 90 * NS_PER_S


def matches(head: bytes) -> bool:
    """A log of virt-launcher or virt-handler, or any text with a monitor's line of statistics in it."""
    known = (b'"component":"virt-launcher"', b'"component":"virt-handler"', STATISTICS.encode())
    return any(words in head for words in known)


@dataclass(slots=True)
class _Guest:
    """What was read of a guest; `number` counts guests as they came."""

    number: int
    entry: Entry
    events: list[Event] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
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
        # The one that was silent longest comes first.
        self._guests: dict[str, _Guest] = {}
        self._came, self._newest_ns = 0, 0
        self._owner: dict[str, str] = {}
        self.held = 0

    def add(self, order: int, line: Line) -> None:
        item = entry(line.text)
        if item is None:
            self._context.skipped["line of a log that is cut short or damaged"] += 1
            return
        if STATISTICS in item.message:
            self._add_statistics(order, item, line.place)
        elif NOTED.match(item.message) or done(item.message):
            guest = self._guest(item.guest or self._only_guest(line.place), item)
            guest.events.append(Event(order, item, line.place))
            self._touch(guest, item)
        else:
            self._context.skipped["line that tells nothing of a migration's course"] += 1

    def _add_statistics(self, order: int, item: Entry, place: str) -> None:
        said = statistics(item.message)
        if said is None:
            self._context.skipped["statistics that are cut short or of an unknown form"] += 1
            return
        if not _possible(said):
            self._context.skipped["statistics with a number that cannot be"] += 1
            return
        key = item.guest or self._owner.get(said.migration) or place
        self._owner[said.migration] = key
        guest = self._guest(key, item)
        # The statistics of the completed job come from the plain logger, which names no guest.
        final = said.downtime_ms is not None or (item.told and not item.guest)
        sample = Sample(order, item.wall_ns, item.source, item.iteration, said, final, place)
        guest.samples.setdefault(said.migration, []).append(sample)
        self._touch(guest, item)

    def _guest(self, key: str, item: Entry) -> _Guest:
        guest = self._guests.pop(key, None)
        if guest is None:
            guest = _Guest(number=self._came, entry=item)
            self._came += 1
        self._guests[key] = guest
        if item.name and not guest.entry.name:
            guest.entry = item
        return guest

    def _only_guest(self, place: str) -> str:
        """A line without a guest in a log of one launcher is its guest's."""
        return next(iter(self._guests)) if len(self._guests) == 1 else place

    def _touch(self, guest: _Guest, item: Entry) -> None:
        self.held += 1
        guest.last_wall_ns = max(guest.last_wall_ns, item.wall_ns or 0)
        self._newest_ns = max(self._newest_ns, guest.last_wall_ns)

    def release(self, *, everything: bool = False) -> Iterator[Imported]:
        """The migrations of guests that were last heard of long ago; of the one silent longest where all are loud."""
        if everything:
            chosen = sorted(self._guests, key=lambda key: self._guests[key].number)
        else:
            before_ns = self._newest_ns - _QUIET_NS
            quiet = itertools.takewhile(lambda key: self._guests[key].last_wall_ns < before_ns, self._guests)
            chosen = list(quiet) or [next(iter(self._guests))]
        for key in chosen:
            guest = self._guests.pop(key)
            self.held -= sum(map(len, guest.samples.values())) + len(guest.events)
            yield from _migrations(key, guest, self._context)


def _possible(said: Statistics) -> bool:
    """Whether the numbers are those of a migration on earth."""
    largest = max(said[1:7]) * (MIB if said.in_mib else 1)
    counts = [*said[7:14], said.disk_rate, said.expected_ms or 0, said.downtime_ms or 0, said.downtime_net_ms or 0]
    return said.elapsed_ms < LONGEST_MS and largest < 2**62 and max(counts) < 2**40


def _migrations(key: str, guest: _Guest, context: Context) -> Iterator[Imported]:
    """A guest's migrations in time order, each with the events that fall to it."""
    jobs = [job for samples in guest.samples.values() for job in _jobs(samples)]
    jobs.sort(key=lambda job: (job[0].wall_ns or 0, job[0].order))
    shares = _shares(jobs, guest.events, context)
    for samples, events in zip(jobs, shares, strict=True):
        if all(sample.final for sample in samples):
            context.skipped["final statistics of a migration without any others"] += len(samples)
            continue
        yield kubevirt_trace.assemble(guest.entry, samples, events, context)


def _jobs(samples: list[Sample]) -> Iterator[list[Sample]]:
    """One migration's samples by libvirt's clock. When that clock and what was sent both start anew while the wall
    clock goes on, libvirt began a second job."""
    job: list[Sample] = []
    for sample in samples:
        last = job[-1] if job else sample
        anew = (
            sample.said.elapsed_ms < last.said.elapsed_ms
            and sample.said.processed < last.said.processed
            and (sample.wall_ns or 1) > (last.wall_ns or 0)
        )
        if anew:
            yield sorted(job, key=_by_clock)
            job = []
        job.append(sample)
    if job:
        yield sorted(job, key=_by_clock)


def _by_clock(sample: Sample) -> tuple[bool, int, int]:
    return (sample.final, sample.said.elapsed_ms, sample.order)


def _shares(jobs: list[list[Sample]], events: list[Event], context: Context) -> list[list[Event]]:
    """For each migration the events that belong to it: those near its samples in time, the nearest where several are,
    the one of the same file where they are as near; without times, those between its lines."""
    shares: list[list[Event]] = [[] for _ in jobs]
    spans = [_span_ns(job) for job in jobs]
    places = [{sample.place for sample in job} for job in jobs]
    lines = [(min(s.order for s in job), max(s.order for s in job), number) for number, job in enumerate(jobs)]
    timed = Spans([(span[0] - _BEFORE_NS, span[1] + _AFTER_NS, n) for n, span in enumerate(spans) if span])
    untimed, placed = Spans([line for line in lines if not spans[line[2]]]), Spans(lines)
    for event in events:
        wall_ns = event.item.wall_ns
        if wall_ns is None:
            reachable = {number: _outside(event.order, *lines[number][:2]) for number in placed.nearest(event.order)}
        else:
            reachable = {number: _outside(event.order, *lines[number][:2]) for number in untimed.nearest(event.order)}
            reachable |= {
                number: _outside(wall_ns, *span) for number in timed.around(wall_ns) if (span := spans[number])
            }
        near = min(
            ((far, event.place not in places[number], number) for number, far in reachable.items()), default=None
        )
        if near is None:
            context.skipped["line of a monitor at a time of no migration"] += 1
        else:
            shares[near[2]].append(event)
    return shares


def _span_ns(job: list[Sample]) -> tuple[int, int] | None:
    walls = [(s.wall_ns - s.said.elapsed_ms * NS_PER_MS, s.wall_ns) for s in job if s.wall_ns is not None]
    return (min(start for start, _ in walls), max(end for _, end in walls)) if walls else None


def _outside(at: int, first: int, last: int) -> int:
    """How far something lies outside a span."""
    return max(first - at, at - last, 0)
