"""Which lines of virt-launcher's logs are of which migration: samples into migrations, all other lines to them."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from migkit.capture.logs.clock import Spans
from migkit.capture.logs.kubevirt_lines import OPENING, Event, Sample, done, is_uid, outcome
from migkit.schema import LONGEST_MS
from migkit.units import NS_PER_MS, NS_PER_S

_INITIATING = "Initiating live migration"
# Lines around a migration's samples that still belong to it.
_BEFORE_NS, _AFTER_NS = 120 * NS_PER_S, 90 * NS_PER_S
# A monitor's first lines are written about when libvirt's job begins.
_AROUND_NS = 5 * NS_PER_S
# A monitor that is silent for three of its intervals has ended, most likely.
_SURELY_NS, _SURELY_ROUNDS = 12 * NS_PER_S, 3
# A log's time is that of libvirt's clock within this; the monitor writes every 4 s.
_SAME_START_NS, _NEXT_MS = 1 * NS_PER_S, 4500
# Migrations that end before a line, and that begin after it: its own is one of so many, if it stands among none.
_FEW = 3
# So many migrations under one mask may run at the same time.
_MOST_LANES = 64


@dataclass(slots=True)
class Job:
    """One migration's samples by libvirt's clock: of which guest, between which times and lines (from the one that told
    its beginning on, where there is one), in which files."""

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

    def begin(self, event: Event, kind: str) -> None:
        """Takes the line that told its beginning: what is done from there on is its own, before its first samples
        too."""
        if kind == "opening":
            self.orders = (min(self.orders[0], event.order), self.orders[1])


def jobs_of(key: str, named: bool, samples: Mapping[str, list[Sample]], skipped: Counter[str]) -> Iterator[Job]:
    """A guest's migrations, those of one UID in the order in which they came. Where neither the guest nor the
    migration has a name, because somebody masked them, samples are told apart by their numbers."""
    for migration, told in samples.items():
        masked = not named and not is_uid(migration)
        for lane in _lanes(told, skipped) if masked else [told]:
            for part in _parts(lane):
                yield _job(key, named, part)


def _job(key: str, named: bool, part: list[Sample]) -> Job:
    walls = [(s.wall_ns - s.said.elapsed_ms * NS_PER_MS, s.wall_ns) for s in part if s.wall_ns is not None]
    orders = [sample.order for sample in part]
    return Job(
        key=key, named=named, samples=sorted(_with_final(part), key=_by_clock),
        span_ns=(min(start for start, _ in walls), max(end for _, end in walls)) if walls else None,
        orders=(min(orders), max(orders)), places={sample.place for sample in part},
    )  # fmt: skip


def _lanes(samples: Sequence[Sample], skipped: Counter[str]) -> list[list[Sample]]:
    """Samples under one mask, each behind those that it goes on; one that may go on several is left out."""
    lanes: list[list[Sample]] = []
    for sample in samples:
        newest = lanes[-_MOST_LANES:]
        fitting = [lane for lane in newest if _goes_on(lane[-1], sample, _NEXT_MS)]
        fitting = fitting or [lane for lane in newest if _goes_on(lane[-1], sample, LONGEST_MS)]
        if not fitting:
            lanes.append([sample])
        elif len(fitting) == 1:
            fitting[0].append(sample)
        else:
            skipped["statistics under a masked UID that may be of several migrations"] += 1
    return lanes


def _goes_on(last: Sample, sample: Sample, within_ms: int) -> bool:
    """Whether a sample can be of the same migration as one before it: nothing fell that only grows, memory is as large
    as it was, and the migration began at the same time; without times, the
    line comes within a while."""
    before, said = last.said, sample.said
    fell = said.elapsed_ms < before.elapsed_ms or said.memory_processed < before.memory_processed
    resized = said.memory_total != before.memory_total and 0 not in (said.memory_total, before.memory_total)
    if fell or resized or said.iteration < before.iteration:
        return False
    after_ms = said.elapsed_ms - before.elapsed_ms
    if sample.wall_ns is None or last.wall_ns is None:
        return 0 < after_ms <= within_ms
    return abs(sample.wall_ns - last.wall_ns - after_ms * NS_PER_MS) <= _SAME_START_NS


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
    return wall_ns - elapsed_ms * NS_PER_MS > last.wall_ns + NS_PER_S


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


class Timeline:
    """Migrations by time, so that a line is compared with those that ran about then only."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        spans = sorted(((job.span_ns, number) for number, job in enumerate(jobs) if job.span_ns is not None))
        self._numbers = [number for _, number in spans]
        self._starts = [span[0] for span, _ in spans]
        self._latest = list(accumulate((span[1] for span, _ in spans), max))
        self._all = _Lines([(*job.orders, number) for number, job in enumerate(jobs)])
        self._untimed = _Lines([(*job.orders, number) for number, job in enumerate(jobs) if job.span_ns is None])

    def __len__(self) -> int:
        return len(self._jobs)

    def about(self, event: Event) -> list[tuple[int, Job]]:
        """The migrations that a line may be of, with their numbers: by time, or by the lines around where there is
        none."""
        wall_ns = event.item.wall_ns
        if wall_ns is None:
            return [(number, self._jobs[number]) for number in self._all.about(event.order)]
        found = list(self._untimed.about(event.order))
        at = bisect.bisect_right(self._starts, wall_ns + _BEFORE_NS)
        while at > 0 and self._latest[at - 1] >= wall_ns - _AFTER_NS:
            at -= 1
            found.append(self._numbers[at])
        return [(number, self._jobs[number]) for number in found]


class _Lines:
    """Migrations by their lines, (first, last, number) each."""

    def __init__(self, spans: Sequence[tuple[int, int, int]]) -> None:
        self._spans = Spans(spans)
        self._firsts = sorted((first, number) for first, _, number in spans)
        self._lasts = sorted((last, number) for _, last, number in spans)

    def about(self, order: int) -> list[int]:
        """The numbers of those among whose lines it stands, and of a few that end before it and begin after it: no
        other one is nearer."""
        behind, before = bisect.bisect(self._firsts, (order,)), bisect.bisect(self._lasts, (order,))
        near = (*self._lasts[max(before - _FEW, 0) : before], *self._firsts[behind : behind + _FEW])
        return sorted({*self._spans.around(order), *(number for _, number in near)})


def home(event: Event, timeline: Timeline) -> tuple[Job | None, str]:
    """The migration that a line without a guest belongs to; where it cannot be told, None and why. It is the only one
    near, or the nearest of a guest that had one after the other, or the only one that ran then."""
    kind, jobs = _kind(event), timeline.about(event)
    near = [(far, job) for _, job in jobs if (far := _distance(event, kind, job)) is not None]
    if not near:
        return None, "line of a monitor at a time of no migration"
    if len({job.key for _, job in near}) > 1 or _at_once([job for _, job in near]):
        surely = _SURELY_NS if event.item.wall_ns is not None else _SURELY_ROUNDS * len(timeline)
        near = [(far, job) for far, job in near if far <= surely]
        if len(near) != 1:
            return None, "line of a monitor that names no guest while not exactly one of several migrations ran"
    found = min(near, key=lambda each: (_apart(event, kind, each[1], each[0]), each[1].orders))[1]
    found.begin(event, kind)
    return found, ""


def _at_once(jobs: list[Job]) -> bool:
    """Whether migrations that were not told apart by a guest ran at the same time: then they are of several."""
    if all(job.named for job in jobs):
        return False
    spans = sorted(job.orders if job.span_ns is None else job.span_ns for job in jobs)
    return any(after[0] < before[1] for before, after in pairwise(spans))


def shares(jobs: list[Job], events: list[Event], skipped: Counter[str]) -> list[list[Event]]:
    """For each migration the events that belong to it: those near its samples in time, the nearest where several are,
    the one of the same file where they are as near; without times, those between its lines. A migration that ended
    before its first statistics has none: what is said between its beginning and other samples is its own."""
    shared: list[list[Event]] = [[] for _ in jobs]
    timeline, unseen = Timeline(jobs), False
    for event in _in_order(_once(events, skipped)):
        kind = _kind(event)
        reachable = [
            (_apart(event, kind, job, far), event.place not in job.places, number, far)
            for number, job in timeline.about(event)
            if event.migration in ("", job.migration) and (far := _distance(event, kind, job)) is not None
        ]
        near = min(reachable, default=None)
        if kind == "opening":
            unseen = near is None
        if near is None:
            skipped["line of a monitor at a time of no migration"] += 1
        elif unseen and near[3] > 0:
            skipped["line about a migration without statistics"] += 1
        else:
            share = shared[near[2]]
            jobs[near[2]].begin(event, kind)
            if event.item.message.startswith(_INITIATING):
                _leave_older(share, skipped)
            share.append(event)
    return shared


def _once(events: list[Event], skipped: Counter[str]) -> list[Event]:
    """Events without those that stand in the logs twice, as where one is a copy of another."""
    kept: dict[object, Event] = {}
    for event in events:
        item = event.item
        kept.setdefault(event.order if item.wall_ns is None else (item.wall_ns, item.message, item.reason), event)
    if len(kept) < len(events):
        skipped["the same line again"] += len(events) - len(kept)
    return list(kept.values())


def _leave_older(share: list[Event], skipped: Counter[str]) -> None:
    """Takes out what is of a migration that began, and perhaps ended, before the one that begins now."""
    older = [
        number
        for number, event in enumerate(share)
        if event.item.message.startswith(_INITIATING) or outcome(event.item) is not None
    ]
    if older:
        skipped["line about a migration without statistics"] += older[-1] + 1
        del share[: older[-1] + 1]


def _in_order(events: list[Event]) -> list[Event]:
    """Events by time; as they came where one has none."""
    if any(event.item.wall_ns is None for event in events):
        return sorted(events, key=lambda event: event.order)
    return sorted(events, key=lambda event: (event.item.wall_ns or 0, event.order))


def _kind(event: Event) -> str:
    """Where in a migration a line stands: "opening", "deed", "closing", or anywhere (empty)."""
    if OPENING.match(event.item.message):
        return "opening"
    if outcome(event.item) is not None:
        return "closing"
    return "deed" if done(event.item.message) is not None else ""


def _distance(event: Event, kind: str, job: Job) -> int | None:
    """How far an event lies outside a migration; None where it is too far, or on the wrong side: a migration begins
    before its samples, acts while it runs and ends after it began."""
    at, start, end = _clocks(event, job)
    before, after = max(start - at, 0), max(at - end, 0)
    timed = event.item.wall_ns is not None and job.span_ns is not None
    around = _AROUND_NS if timed else 0
    if timed and (before > _BEFORE_NS or after > _AFTER_NS):
        return None
    if timed or event.place in job.places:
        too_late = kind == "opening" and at > start + around
        too_early = (kind == "closing" and at < start) or (kind == "deed" and before > around)
        if too_late or too_early:
            return None
    return max(before, after)


def _apart(event: Event, kind: str, job: Job, distance: int) -> int:
    """How far an event lies from where lines of its kind stand: at a migration's start, its end, or anywhere in it.
    One migration may end in the second in which the next one starts."""
    at, start, end = _clocks(event, job)
    return abs(at - start) if kind == "opening" else abs(at - end) if kind == "closing" else distance


def _clocks(event: Event, job: Job) -> tuple[int, int, int]:
    """An event, a migration's start and its end by the wall clock; by the count of lines where there is none."""
    if event.item.wall_ns is not None and job.span_ns is not None:
        return (event.item.wall_ns, *job.span_ns)
    return (event.order, *job.orders)
