"""Logs of monitors that write a line of statistics now and then, each line with the guest that it is about: what
nova-compute's and vdsm's have in common."""

from __future__ import annotations

import re
import statistics as numbers
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from migkit.capture.logs.base import MORE_NOTES, MOST_NOTES, Context, Imported, Row, fits, trace_name
from migkit.capture.logs.clock import JobClock, Tick
from migkit.capture.logs.stamps import Stamp
from migkit.meta import Cadence, Domain, End, Migration, TraceMeta
from migkit.units import NS_PER_MS, NS_PER_S

# So many lines are held at most; then guests that were silent for an hour, or longest until so many are left, are
# written out.
_MOST_HELD, _THEN_HELD = 100_000, 75_000
_QUIET_NS = 3600 * NS_PER_S
AFTERWARDS = "line about a migration that had ended"
# Seconds are cut to whole ones, and lines are written a little later than their clocks are read.
_SAME_START_NS = 5 * NS_PER_S // 2


class Entry(NamedTuple):
    """A log line: when, about which guest, what. `order` counts lines as they came."""

    order: int
    stamp: Stamp | None
    guest: str
    message: str


class Sample(NamedTuple):
    """A line of statistics: the job's clock in ms, and the columns of a row but for the clocks; what its rates are
    rounded to, and whether its seconds are."""

    entry: Entry
    elapsed_ms: int
    row: Row
    resolution_bps: int | None = None
    whole_seconds: bool = True

    @property
    def start_ns(self) -> int | None:
        """When its migration began by the wall clock; None where the line has no time."""
        wall_ns = _wall_ns(self.entry)
        return None if wall_ns is None else wall_ns - self.elapsed_ms * NS_PER_MS


class Deed(NamedTuple):
    """What the monitor did. `state` is done, or failed with `error_text`; a line that tells of a failure comes after
    the one that tells of the call."""

    action: str
    argument: int | None = None
    state: str = "done"
    error_text: str = ""


Rules = tuple[tuple[re.Pattern[str], str, str], ...]


def rules(*told: tuple[str, str, str]) -> Rules:
    """Of what a monitor says of its deeds: (expression, action, state), where `ms` and `why` may be named groups."""
    return tuple((re.compile(pattern, re.ASCII), action, state) for pattern, action, state in told)


def deed_of(message: str, known: Rules) -> Deed | None:
    """The deed that a message tells of, by the first rule that knows it."""
    for pattern, action, state in known:
        match = pattern.match(message)
        if match is not None:
            said = match.groupdict()
            return Deed(action, int(said["ms"]) if said.get("ms") else None, state, said.get("why") or "")
    return None


@dataclass(slots=True)
class Job:
    """A guest's migration while it is read. `begun` is whether a line told its beginning; `facts` are what lines told
    beside; `end` stands there once one told it, `ended` being when."""

    begun: bool = False
    samples: list[Sample] = field(default_factory=list)
    deeds: list[tuple[Entry, Deed]] = field(default_factory=list)
    notes: list[Entry] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)
    end: End | None = None
    ended: Stamp | None = None

    @property
    def held(self) -> int:
        """How many lines it keeps."""
        return len(self.samples) + len(self.deeds) + len(self.notes)

    @property
    def entries(self) -> list[Entry]:
        """The lines that are no statistics."""
        return [*(entry for entry, _ in self.deeds), *self.notes]

    @property
    def last(self) -> Entry:
        """The newest line."""
        kept = [*(s.entry for s in self.samples[-1:]), *(e for e, _ in self.deeds[-1:]), *self.notes[-1:]]
        return max(kept, key=lambda entry: entry.order, default=Entry(-1, None, "", ""))


Assemble = Callable[[str, Job], Imported]


class Jobs:
    """Guests' migrations, one a guest at a time."""

    def __init__(self, assemble: Assemble, context: Context) -> None:
        self._assemble, self._context = assemble, context
        self._open: dict[str, Job] = {}
        self._ended: set[str] = set()
        self._held = 0

    def of(self, guest: str) -> Job:
        """The guest's migration that is being read."""
        return self._open.setdefault(guest, Job())

    def known(self, guest: str) -> Job | None:
        """The guest's migration that is being read, if there is one."""
        return self._open.get(guest)

    def begin(self, guest: str) -> Iterator[Imported]:
        """A line told that a migration of the guest begins."""
        yield from self.close(guest)
        self.of(guest).begun = True

    def is_over(self, guest: str) -> bool:
        """Whether a line told the end of the guest's migration, and nothing yet of the next one."""
        job = self._open.get(guest)
        return guest in self._ended and (job is None or not (job.begun or job.samples))

    def do(self, entry: Entry, deed: Deed, *, opening: bool = False) -> None:
        """Takes what the monitor did; `opening` is what it does as it begins."""
        if self.is_over(entry.guest) and not opening:
            self._context.skipped[AFTERWARDS] += 1
        else:
            self.of(entry.guest).deeds.append((entry, deed))

    def note(self, entry: Entry) -> None:
        """Takes a line that is kept as it stands."""
        if self.is_over(entry.guest):
            self._context.skipped[AFTERWARDS] += 1
        else:
            self.of(entry.guest).notes.append(entry)

    def add(self, sample: Sample) -> Iterator[Imported]:
        """Takes a line of statistics. One of which something is behind is of the guest's next migration."""
        guest = sample.entry.guest
        if not fits(sample.row):
            self._context.skipped["statistics with a number that cannot be"] += 1
            return
        before = self.of(guest).samples
        if before and not continues(before[-1], sample):
            if sample[1:] in [each[1:] for each in before[-3:]] and not _much_later(before[-1], sample):
                self.of(guest).skipped["the same line again"] += 1
                return
            newer = self._take_newer(self.of(guest), sample)
            yield from self.close(guest)
            self._open[guest] = newer
        job = self.of(guest)
        if not job.samples:
            self._drop_older(job, sample)
        job.samples.append(sample)
        yield from self._relieve()

    def _take_newer(self, job: Job, sample: Sample) -> Job:
        """A migration with what was told of it before its first statistics, taken from the one before."""
        order, newer = job.samples[-1].entry.order, Job()
        new = {entry.order for entry in job.entries if entry.order > order and not _is_before(entry, sample)}
        newer.deeds = [each for each in job.deeds if each[0].order in new]
        newer.notes = [entry for entry in job.notes if entry.order in new]
        job.deeds = [each for each in job.deeds if each[0].order not in new]
        job.notes = [entry for entry in job.notes if entry.order not in new]
        return newer

    def _drop_older(self, job: Job, sample: Sample) -> None:
        """Leaves out what was told long before the first statistics' migration began."""
        if job.begun:
            return
        held = job.held
        job.deeds = [(entry, deed) for entry, deed in job.deeds if not _is_before(entry, sample, unknown=False)]
        job.notes = [entry for entry in job.notes if not _is_before(entry, sample, unknown=False)]
        if held > job.held:
            self._context.skipped[AFTERWARDS] += held - job.held

    def close(self, guest: str) -> Iterator[Imported]:
        """The guest's migration, as far as it was read."""
        job = self._open.pop(guest, None)
        if job is not None and job.end is not None:
            self._ended.add(guest)
        if job is not None and job.samples:
            yield self._assemble(guest, job)
        elif job is not None and job.held:
            self._context.skipped["line about a migration without statistics"] += job.held

    def close_all(self) -> Iterator[Imported]:
        """All migrations that are still open."""
        for guest in list(self._open):
            yield from self.close(guest)

    def _relieve(self) -> Iterator[Imported]:
        self._held += 1
        if self._held <= _MOST_HELD:
            return
        newest_ns = max((_wall_ns(job.last) or 0 for job in self._open.values()), default=0)
        self._held = sum(job.held for job in self._open.values())
        for guest in sorted(self._open, key=lambda guest: self._open[guest].last.order):
            job = self._open[guest]
            if self._held > _THEN_HELD or (_wall_ns(job.last) or 0) < newest_ns - _QUIET_NS:
                self._held -= job.held
                yield from self.close(guest)


def continues(before: Sample, sample: Sample) -> bool:
    """Whether a line of statistics can be of the same migration as the guest's last one: nothing that only grows has
    fallen, memory is as large as it was, and the clock did not stand still while time went on."""
    grown = all(_at_least(before.row, sample.row, name) for name in ("memory_processed_bytes", "memory_iteration"))
    sizes = {row.get("memory_total_bytes") for row in (before.row, sample.row)} - {None}
    if sample.elapsed_ms < before.elapsed_ms or not grown or len(sizes) > 1:
        return False
    return sample.elapsed_ms > before.elapsed_ms or not _much_later(before, sample)


def same_start(before: Sample, sample: Sample) -> bool | None:
    """Whether two lines' migrations began at the same time; None where that is not told."""
    one, other = before.start_ns, sample.start_ns
    return None if one is None or other is None else abs(one - other) <= _SAME_START_NS


def _at_least(before: Row, row: Row, name: str) -> bool:
    return before.get(name) is None or row.get(name) is None or bool(row[name] >= before[name])


def _much_later(before: Sample, sample: Sample) -> bool:
    """Whether a line came later than the job's clock explains."""
    one, other = before.start_ns, sample.start_ns
    return one is not None and other is not None and other - one > _SAME_START_NS


def _is_before(entry: Entry, sample: Sample, *, unknown: bool = True) -> bool:
    """Whether a line was written before a sample's migration began; `unknown` where times do not tell it."""
    wall_ns, start_ns = _wall_ns(entry), sample.start_ns
    return unknown if wall_ns is None or start_ns is None else wall_ns < start_ns - _SAME_START_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a trace says of its source."""

    origin: str
    recorder: str
    usual_interval_ms: float
    lacks: tuple[str, ...]
    resolution_bytes: int | None = None
    resolution_bps: int | None = None
    start_uncertain_ms: float | None = None
    migration: Migration = field(default_factory=Migration)
    end: End
    said: tuple[str, ...] = ()


def imported(guest: str, job: Job, ticks: Sequence[Tick], about: About) -> Imported:
    """The trace's rows and metadata; `ticks` are the samples' clocks."""
    clock = JobClock(ticks)
    rows: list[Row] = [
        {"mono_ns": tick.mono_ns, "wall_ns": _wall_ns(sample.entry), "source": "poll"} | sample.row
        for tick, sample in zip(ticks, job.samples, strict=True)
    ]
    rows += _deed_rows(job.deeds, clock)
    rows.sort(key=lambda row: row["mono_ns"])
    lines = [[clock.at(entry.order, entry.stamp), entry.message[:1000]] for entry in job.notes[:MOST_NOTES]]
    job.skipped += Counter({MORE_NOTES: len(job.notes) - MOST_NOTES})
    started_ns = about.migration.started_wall_ns or clock.start_wall_ns
    meta = TraceMeta(
        provenance="imported",
        origin=about.origin,
        domain=Domain(uuid=guest),
        migration=Migration(
            flags=about.migration.flags, parameters=about.migration.parameters, started_wall_ns=started_ns
        ),
        cadence=Cadence(
            recorder=about.recorder, interval_ms=_interval_ms(ticks, about.usual_interval_ms),
            resolution_bytes=about.resolution_bytes, resolution_bps=about.resolution_bps,
            start_uncertain_ms=about.start_uncertain_ms, lacks=about.lacks, iteration_events=False, read_only=False,
        ),
        end=replace(about.end, ended_by_ms=_ended_by_ms(job, clock, ticks)),
        notes={"monitor_lines": lines} if lines else {},
    )  # fmt: skip
    said = (*about.said, *clock.said())
    return Imported(rows=rows, meta=meta, name=trace_name(guest, clock.start_wall_ns), skipped=job.skipped, said=said)


def _ended_by_ms(job: Job, clock: JobClock, ticks: Sequence[Tick]) -> int | None:
    """The job's clock when its end was told; None where that has no time, or one before the last sample."""
    if job.ended is None or clock.start_wall_ns is None:
        return None
    ended_ns = clock.at(ticks[-1].order + 1, job.ended)
    return ended_ns // NS_PER_MS + 1 if ended_ns >= ticks[-1].mono_ns else None


def _deed_rows(deeds: Sequence[tuple[Entry, Deed]], clock: JobClock) -> list[Row]:
    """A row a call. A failure that is told afterwards is the last call's of its kind."""
    rows: list[Row] = []
    for entry, deed in deeds:
        asked = next((row for row in reversed(rows) if row["action"] == deed.action), None)
        same = asked is not None and asked["succeeded"] and deed.argument in (None, asked["argument"])
        if deed.state == "failed" and asked is not None and same:
            asked |= {"succeeded": False, "error_text": deed.error_text or None}
            continue
        rows.append({
            "mono_ns": clock.at(entry.order, entry.stamp), "wall_ns": _wall_ns(entry), "source": "action",
            "action": deed.action, "argument": deed.argument, "succeeded": deed.state == "done",
            "error_text": deed.error_text or None,
        })  # fmt: skip
    return rows


def _wall_ns(entry: Entry) -> int | None:
    return entry.stamp.wall_ns if entry.stamp is not None else None


def _interval_ms(ticks: Sequence[Tick], usual_ms: float) -> float:
    apart = [(b.mono_ns - a.mono_ns) / NS_PER_MS for a, b in pairwise(ticks) if b.mono_ns > a.mono_ns]
    median_ms = float(round(numbers.median(apart))) if apart else usual_ms
    return median_ms if len(apart) >= 3 else max(median_ms, usual_ms)
