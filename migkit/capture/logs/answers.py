"""Answers that people asked of virsh or QMP while a migration ran, one after the other, into migrations."""

from __future__ import annotations

import statistics as numbers
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from migkit.capture.logs.base import Context, Imported, Line, Row, fits, trace_name
from migkit.capture.logs.clock import JobClock, Tick
from migkit.capture.logs.stamps import Stamp
from migkit.capture.outcome import judge
from migkit.capture.stats_row import row_from_stats
from migkit.meta import Cadence, Domain, End, Migration, TraceMeta
from migkit.schema import JOB_COMPLETED, JOB_UNBOUNDED, LONGEST_MS
from migkit.units import NS_PER_MS, NS_PER_S

_INCOMING = 4
# Stamps are whole seconds, written before a call that may hang.
_SAME_START_NS = 5 * NS_PER_S


class Answer(NamedTuple):
    """Job stats by libvirt's own keys, `type` among them. `order` counts what was read; `steps`, what the text
    rounded amounts and rates to, None where it did not."""

    order: int
    stamp: Stamp | None
    stats: Mapping[str, Any]
    steps: tuple[int, int] | None = None

    @property
    def elapsed_ms(self) -> int:
        """libvirt's clock of the job; 0 where it does not run."""
        return int(self.stats.get("time_elapsed", 0))

    @property
    def active(self) -> bool:
        """Whether the job ran."""
        return bool(self.stats.get("type") == JOB_UNBOUNDED)


class Happening(NamedTuple):
    """Something at a time: the columns of a row but for its clocks."""

    order: int
    stamp: Stamp | None
    row: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is the same for all migrations of a format. `said` goes to each of them, `rounding` to those whose amounts
    were rounded."""

    origin: str
    recorder: str
    start_uncertain_ms: float | None = None
    said: tuple[str, ...] = ()
    rounding: str = ""


@dataclass(slots=True)
class Job:
    """One migration while it is read. `begun` is the moment of its start and `ended` its outcome, where events told
    them; `error_text` is what the tool said when the job had gone; `longest_ms` is by how much the job's clock went on
    at most between two answers, `largest_ms` the largest elapsed time of its answers."""

    guest: str
    answers: list[Answer] = field(default_factory=list)
    final: Answer | None = None
    happenings: list[Happening] = field(default_factory=list)
    begun: Tick | None = None
    ended: str = ""
    skipped: Counter[str] = field(default_factory=Counter)
    error_text: str = ""
    last_active: Answer | None = None
    longest_ms: int = 0
    largest_ms: int = 0

    def take(self, answer: Answer) -> None:
        """Adds an answer."""
        self.answers.append(answer)
        self.largest_ms = max(self.largest_ms, answer.elapsed_ms)
        if answer.active:
            before_ms = self.last_active.elapsed_ms if self.last_active is not None else 0
            self.longest_ms = max(self.longest_ms, answer.elapsed_ms - before_ms)
            self.last_active = answer


class Jobs:
    """Sorts answers into migrations: one a guest at a time, a new one where the job's clock begins anew."""

    def __init__(self, source: Source, context: Context) -> None:
        self._source, self._context = source, context
        self._open: dict[str, Job] = {}

    def add(self, key: str, guest: str, answer: Answer) -> Iterator[Imported]:
        """Takes an answer of the guest that `key` tells apart; gives the migration before it when a new one begins."""
        row = row_from_stats({name: value for name, value in answer.stats.items() if name != "type"})
        if answer.elapsed_ms > LONGEST_MS or not fits(row):
            self._context.skipped["answer with a number that cannot be"] += 1
            return
        job = self._open.get(key)
        if job is not None and _anew(job, answer):
            yield from self._close(key)
            job = None
        idle = job is None or (bool(job.answers) and not job.answers[-1].active)
        if answer.stats.get("type") == JOB_COMPLETED:
            self._add_final(job, answer)
        elif answer.active or not idle:
            job = self._open.setdefault(key, Job(guest=guest))
            job.guest = job.guest or guest
            job.take(answer)
        else:
            self._context.skipped["answer without a job"] += 1

    def _add_final(self, job: Job | None, answer: Answer) -> None:
        if job is None or answer.elapsed_ms < (job.largest_ms if job.answers else LONGEST_MS):
            self._context.skipped["final statistics of a migration without any others"] += 1
        elif job.final is not None:
            job.skipped["final statistics again"] += 1
        else:
            job.final = answer

    def happened(self, key: str, happening: Happening, guest: str = "") -> None:
        """Takes what happened to a guest; it belongs to the migration that is being read, or to the next one."""
        job = self._open.setdefault(key, Job(guest=guest))
        job.guest = job.guest or guest
        job.happenings.append(happening)

    def failed(self, key: str, words: str) -> None:
        """Takes what the tool said instead of an answer."""
        if key in self._open:
            self._open[key].error_text = words

    def begin(self, key: str, order: int, stamp: Stamp | None, guest: str = "") -> Iterator[Imported]:
        """A migration of the guest begins: gives the one before it, unless it is the one whose answers stand before
        the events in the same file."""
        job, begun = self._open.get(key), Tick(order, 0, stamp)
        if job is not None and job.begun is None and _began_at(job, stamp):
            job.begun, job.guest = begun, job.guest or guest
            return
        yield from self._close(key)
        self._open[key] = Job(guest=guest, begun=begun)

    def end(self, key: str, outcome: str) -> None:
        """Takes how the migration that is being read ended."""
        if key in self._open:
            self._open[key].ended = outcome

    def close(self) -> Iterator[Imported]:
        """The migrations that are still open at the end."""
        for key in list(self._open):
            yield from self._close(key)

    def _close(self, key: str) -> Iterator[Imported]:
        job = self._open.pop(key, None)
        if job is not None and any(answer.active for answer in job.answers):
            yield _assemble(job, self._source)
        elif job is not None:
            self._context.skipped["answer or event without a running job"] += len(job.answers) + len(job.happenings)


class LineReader(Protocol):
    """What takes lines, and gives the migrations that they complete."""

    def add(self, order: int, place: str, text: str) -> Iterator[Imported]:
        """Takes a line."""

    def end(self) -> Iterator[Imported]:
        """What is still open at the end."""


def read_with(reader: LineReader, lines: Iterator[Line]) -> Iterator[Imported]:
    """All migrations of the lines."""
    for order, line in enumerate(lines):
        yield from reader.add(order, line.place, line.text.decode("utf-8", "replace"))
    yield from reader.end()


def _anew(job: Job, answer: Answer) -> bool:
    """Whether an answer is of the guest's next migration: what only grows has fallen, though not because it came out
    of turn, or the job had ended meanwhile."""
    last = job.last_active
    if last is None or not answer.active:
        return False
    over = job.final is not None or bool(job.ended) or not job.answers[-1].active
    same_start = _same_start(last, answer)
    if _fell(last, answer):
        return over or not same_start
    if not over or same_start:
        return False
    # Where the job's clock went on as before, something else answered in between, such as the other host.
    in_step = answer.elapsed_ms - last.elapsed_ms <= 2 * job.longest_ms
    return same_start is False or job.final is not None or not in_step


def _fell(last: Answer, answer: Answer) -> bool:
    """Whether something fell that only grows within a job."""
    falling = ("data_processed", "memory_iteration")
    return answer.elapsed_ms < last.elapsed_ms or any(
        int(answer.stats[key]) < int(last.stats[key]) for key in falling if key in answer.stats and key in last.stats
    )


def _same_start(last: Answer, answer: Answer) -> bool | None:
    """Whether two answers' jobs began at the same time; None where no time tells it, as where both stand below the
    same one."""
    if answer.stamp is None or last.stamp is None or answer.stamp == last.stamp:
        return None
    return abs(_start_ns(answer) - _start_ns(last)) <= _SAME_START_NS


def _began_at(job: Job, stamp: Stamp | None) -> bool:
    """Whether a migration began at that time, by its first answer's clocks."""
    first = next((each for each in job.answers if each.active and each.stamp), None)
    return first is not None and stamp is not None and abs(_start_ns(first) - stamp.wall_ns) <= _SAME_START_NS


def _start_ns(answer: Answer) -> int:
    """When the job began by a stamped answer's wall clock."""
    assert answer.stamp is not None
    return answer.stamp.wall_ns - answer.elapsed_ms * NS_PER_MS


def _assemble(job: Job, source: Source) -> Imported:
    ticks = [
        Tick(answer.order, answer.elapsed_ms * NS_PER_MS, answer.stamp)
        for answer in sorted(job.answers, key=lambda each: each.elapsed_ms)
        if answer.active and answer.elapsed_ms
    ]
    clock = JobClock([job.begun, *ticks] if job.begun is not None else ticks)
    rows = [_row(answer, clock) for answer in job.answers]
    rows += [_placed(happening, clock) for happening in job.happenings]
    if job.final is not None:
        rows.append(_final_row(job.final))
    rows.sort(key=lambda row: row["mono_ns"])
    steps = [answer.steps for answer in job.answers if answer.active and answer.steps is not None]
    meta = TraceMeta(
        provenance="imported",
        origin=source.origin,
        domain=Domain(name=job.guest),
        migration=Migration(started_wall_ns=clock.start_wall_ns),
        cadence=Cadence(
            recorder=source.recorder, interval_ms=_interval_ms(ticks), read_only=True,
            iteration_events=any(row.get("event_iteration") is not None for row in rows),
            resolution_bytes=max((amount for amount, _ in steps), default=None),
            resolution_bps=max((rate for _, rate in steps), default=None),
            start_uncertain_ms=source.start_uncertain_ms,
        ),
        end=_end(job, rows),
    )  # fmt: skip
    said = (*source.said, *([source.rounding] if steps else []), *clock.said())
    name = trace_name(job.guest, clock.start_wall_ns)
    return Imported(rows=rows, meta=meta, name=name, skipped=job.skipped, said=said)


def _row(answer: Answer, clock: JobClock) -> Row:
    on_clock = answer.active and answer.elapsed_ms > 0
    mono_ns = answer.elapsed_ms * NS_PER_MS if on_clock else clock.at(answer.order, answer.stamp)
    return {"mono_ns": mono_ns, "wall_ns": _wall_ns(answer.stamp), "source": "poll"} | row_from_stats(answer.stats)


def _placed(happening: Happening, clock: JobClock) -> Row:
    mono_ns = clock.at(happening.order, happening.stamp)
    return {"mono_ns": mono_ns, "wall_ns": _wall_ns(happening.stamp)} | happening.row


def _final_row(answer: Answer) -> Row:
    """The job-completed event's row, as a recorder would have had it. When it was asked for says nothing."""
    return {"mono_ns": answer.elapsed_ms * NS_PER_MS, "source": "job"} | row_from_stats(_final_stats(answer))


def _final_stats(answer: Answer) -> dict[str, Any]:
    return {key: value for key, value in answer.stats.items() if key != "type"}


def _wall_ns(stamp: Stamp | None) -> int | None:
    return stamp.wall_ns if stamp is not None else None


def _interval_ms(ticks: Sequence[Tick]) -> float | None:
    """How far apart samples mostly lie; of one alone, how long nobody had looked before it."""
    apart = [(b.mono_ns - a.mono_ns) / NS_PER_MS for a, b in pairwise(ticks) if b.mono_ns > a.mono_ns]
    if not apart:
        return ticks[0].mono_ns / NS_PER_MS if ticks else None
    return float(round(numbers.median(apart)))


def _end(job: Job, rows: Sequence[Row]) -> End:
    if job.final is not None:
        incoming = job.final.stats.get("operation") == _INCOMING
        return End(outcome="completed", evidence="final statistics", completed=_final_stats(job.final),
                   completed_from="destination" if incoming else "source")  # fmt: skip
    proven = judge(row for row in rows if row["source"] != "job")
    if proven is not None:
        return proven
    if job.ended:
        return End(outcome=job.ended, evidence="an event of the migration")
    words = f"; then: {job.error_text}, as after a migration, or a crash" if job.error_text else ""
    return End(outcome="lost", evidence=f"the answers end while the job runs{words}")
