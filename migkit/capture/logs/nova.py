"""OpenStack's nova-compute log into one trace a live migration.

Messages: openstack/nova nova/virt/libvirt/driver.py (_live_migration_monitor) and migration.py, Kilo to master at
00a030403f; the prefix is oslo.log's. A line of statistics comes every 5 s at debug level and every 30 s at info level;
it has amounts in bytes and nova's own clock in whole seconds, but neither bandwidth nor dirty rate nor iterations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from migkit.capture.logs import monitor_log
from migkit.capture.logs.base import Context, Imported, Line, Row
from migkit.capture.logs.clock import Tick
from migkit.capture.logs.monitor_log import About, Deed, Entry, Job, Jobs, Sample
from migkit.capture.logs.stamps import iso_stamp
from migkit.meta import End
from migkit.schema import JOB_UNBOUNDED, LONGEST_MS
from migkit.units import NS_PER_MS, NS_PER_S

ORIGIN = "nova-compute log"
# Each line that says something of a migration's course has one of these in it.
NEEDLES: tuple[bytes, ...] = (
    b"igration running for ", b"ncreasing downtime to ", b"ncrease max downtime to ", b"igration not completed after ",
    b"igration operation ", b"igration failure: ", b"witch to post-copy ", b"witching to post-copy ",
    b"witched to post-copy ", b"abort migration ", b"onitoring of live migration", b"during live-migration",
    b"Error monitoring migration",
)  # fmt: skip

_RUNNING = "Migration running for "
_STARTING = "Starting monitoring of live migration"
_STATISTICS = re.compile(
    r"Migration running for (\d{1,9}) secs, memory (\d{1,4})% remaining;? "
    r"\(bytes processed=(\d{1,20}), remaining=(\d{1,20}), total=(\d{1,20})\)"
    r"(?:; disk (\d{1,4})% remaining \(bytes processed=(\d{1,20}), remaining=(\d{1,20}), total=(\d{1,20})\)\.)?"
    # Only a debug line goes on: with the function and the line of the source.
    r"(?: \w+ \S+:\d+)?",
    re.ASCII,
)
# People mask a UUID before they show a log, with whatever they like.
_INSTANCE = re.compile(r"\[instance: ([^\]\s]{1,64})\] ", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_COLOUR = re.compile(r"(?:\x1b|#033)\[[\d;]*m")
_NOTED = re.compile(
    r"Live migration not completed after |Live-migration |Failed to pause instance during live-migration|"
    r"Error monitoring migration|Starting monitoring of live migration"
)
_DEEDS = monitor_log.rules(
    (r"Increasing downtime to (?P<ms>\d{1,9}) ms after ", "set_max_downtime", "done"),
    (r"Unable to increase max downtime to (?P<ms>\d{1,9}) ms: (?P<why>.*)", "set_max_downtime", "failed"),
    (r"Switching to post-copy migration mode", "start_post_copy", "done"),
    (r"Failed to switch to post-copy live migration: (?P<why>.*)", "start_post_copy", "failed"),
    (r"Failed to abort migration (?P<why>.*)", "abort", "failed"),
)
_ENDS = {
    "Migration operation has completed": "completed",
    "Migration operation has aborted": "failed",
    "Migration operation was cancelled": "cancelled",
}
_LACKS = ("downtime_ms", "memory_bps", "memory_dirty_rate_pages_per_s", "memory_iteration")
_INFO_MS = 30_000.0
# A monitor that is silent for longer has ended.
_SILENT_NS, _SILENT_LINES = 40 * NS_PER_S, 3
# So many migrations under one mask may run at the same time.
_MOST_LANES = 64
# A line is written a little after its clock was read.
_LATE_NS = NS_PER_S // 5
_AFTER_S = re.compile(r" after (\d{1,9}) sec", re.ASCII)


def matches(head: bytes) -> bool:
    """A line of the monitor's statistics."""
    return re.search(rb"Migration running for \d+ secs, memory \d+% remaining", head) is not None


def read(lines: Iterator[Line], context: Context) -> Iterator[Imported]:
    """The migrations of a log, or of several logs one after the other; interleaved ones are told apart by the
    instance's UUID."""
    jobs = Jobs(_assemble, context)
    masked = _Masked(jobs, context)
    for order, line in enumerate(lines):
        found = _entry(order, line.text)
        if found is None:
            context.skipped["line that names no instance"] += 1
        elif (told_apart := masked.tell_apart(found)) is not None:
            yield from _see(told_apart, jobs, context)
    yield from jobs.close_all()


def _entry(order: int, text: bytes) -> Entry | None:
    words = _COLOUR.sub("", text.decode("utf-8", "replace"))
    instance = _INSTANCE.search(words)
    if instance is None:
        return None
    return Entry(order, iso_stamp(words[: instance.start()]), instance[1], words[instance.end() :].strip())


def _see(entry: Entry, jobs: Jobs, context: Context) -> Iterator[Imported]:
    message = entry.message
    if message.startswith(_RUNNING):
        sample = _sample(entry)
        if sample is None:
            context.skipped["statistics that are cut short or of an unknown form"] += 1
        else:
            yield from jobs.add(sample)
    elif ended := next((end for words, end in _ENDS.items() if message.startswith(words)), ""):
        job = jobs.of(entry.guest)
        job.end, job.ended = _end(ended, job), entry.stamp
        yield from jobs.close(entry.guest)
    elif message.startswith("Live Migration failure: "):
        # One that comes after the end is of no migration that is still to come.
        if jobs.of(entry.guest).samples:
            jobs.of(entry.guest).facts["error_text"] = message.partition(": ")[2]
        else:
            context.skipped["line about a migration without statistics"] += 1
    elif deed := monitor_log.deed_of(message, _DEEDS):
        jobs.do(entry, deed, opening=_is_opening(message))
    elif _NOTED.match(message):
        if message.startswith(_STARTING):
            yield from jobs.begin(entry.guest)
        jobs.note(entry)
    else:
        context.skipped["line that tells nothing of a migration's course"] += 1


def _is_opening(message: str) -> bool:
    """Whether a line is one that nova writes before its first line of statistics."""
    after = _AFTER_S.search(message)
    return message.startswith(_STARTING) or (after is not None and int(after[1]) == 0)


class _Masked:
    """Tells migrations apart whose instances have the same mask for a UUID, by their numbers and times."""

    def __init__(self, jobs: Jobs, context: Context) -> None:
        self._jobs, self._context = jobs, context
        self._keys: dict[str, list[str]] = {}
        self._starts = _Starts()

    def tell_apart(self, entry: Entry) -> Entry | None:
        """The line with a name of its own for each instance; None where it may be of several."""
        if _UUID.fullmatch(entry.guest) and len(set(entry.guest) - {"-"}) > 1:
            return entry
        newest = self._keys.get(entry.guest, [])[-_MOST_LANES:]
        running = {key: job for key in newest if (job := self._jobs.known(key)) is not None}
        sample = _sample(entry) if entry.message.startswith(_RUNNING) else None
        start_ns = sample.start_ns if sample is not None else _told_start_ns(entry)
        fitting = self._of_sample(sample, running) if sample is not None else self._of_line(entry, start_ns, running)
        if not fitting and (sample is not None or _is_opening(entry.message) or entry.guest not in self._keys):
            fitting = [self._another(entry.guest, running)]
        if len(fitting) == 1:
            self._starts.take(fitting[0], start_ns)
            return entry._replace(guest=fitting[0])
        reason = "line under a masked UUID that may be of several migrations" if fitting else monitor_log.AFTERWARDS
        self._context.skipped[reason] += 1
        return None

    def _of_sample(self, sample: Sample, running: Mapping[str, Job]) -> list[str]:
        """The migrations that a line of statistics may be of: those that it goes on, and one that only began."""
        going_on = [
            key for key, job in running.items()
            if job.samples and _goes_on(job.samples[-1], sample) and self._starts.fits(key, sample.start_ns)
        ]  # fmt: skip
        fresh = [
            key for key, job in running.items()
            if not job.samples and self._starts.fits(key, sample.start_ns)
            and (len(running) == 1 or _is_near(sample.entry, job.last, len(running)))
        ]  # fmt: skip
        late = sample.start_ns is None and sample.elapsed_ms > _INFO_MS
        return going_on if going_on and late else going_on + fresh[-1:]

    def _of_line(self, entry: Entry, start_ns: int | None, running: Mapping[str, Job]) -> list[str]:
        """The migrations that a line without statistics may be of: those heard of lately that began when it says."""
        if entry.message.startswith(_STARTING):
            return []
        return [
            key for key, job in running.items()
            if _is_near(entry, job.last, len(running)) and self._starts.fits(key, start_ns)
        ]  # fmt: skip

    def _another(self, guest: str, running: Mapping[str, Job]) -> str:
        """The name of the mask's next migration."""
        keys = self._keys.setdefault(guest, [])
        keys.append(f"{guest}\0{len(keys)}" if keys else guest)
        for job in running.values():
            job.facts["masked"] = True
        return keys[-1]


class _Starts:
    """Between which times monitors' clocks began, by their lines: each bounds it from both sides, as `_start` says."""

    def __init__(self) -> None:
        self._bounds: dict[str, tuple[int, int]] = {}

    def fits(self, key: str, start_ns: int | None) -> bool:
        """Whether a line whose whole seconds began at a time can be of the monitor."""
        if start_ns is None or key not in self._bounds:
            return True
        earliest, latest = self._bounds[key]
        return earliest - _LATE_NS <= start_ns and start_ns - NS_PER_S <= latest + _LATE_NS

    def take(self, key: str, start_ns: int | None) -> None:
        """Bounds the start by one more line."""
        if start_ns is not None:
            earliest, latest = self._bounds.get(key, (0, start_ns))
            self._bounds[key] = max(earliest, start_ns - NS_PER_S), min(latest, start_ns)


def _goes_on(before: Sample, sample: Sample) -> bool:
    """Whether a line can be the next one of a migration: a monitor never writes two in one second of its clock."""
    if sample.elapsed_ms == before.elapsed_ms and sample.row != before.row:
        return False
    return monitor_log.continues(before, sample)


def _told_start_ns(entry: Entry) -> int | None:
    """When a line says that its migration began: for how many seconds it has run, or that it begins."""
    after = _AFTER_S.search(entry.message)
    if entry.stamp is None or (after is None and not entry.message.startswith(_STARTING)):
        return None
    return entry.stamp.wall_ns - (int(after[1]) * NS_PER_S if after is not None else 0)


def _is_near(entry: Entry, last: Entry, running: int) -> bool:
    """Whether a monitor whose last line that was still runs, of so many."""
    if entry.stamp is None or last.stamp is None:
        return running == 1 or entry.order - last.order <= _SILENT_LINES * running
    return abs(entry.stamp.wall_ns - last.stamp.wall_ns) <= _SILENT_NS


def _sample(entry: Entry) -> Sample | None:
    match = _STATISTICS.fullmatch(entry.message)
    if match is None or int(match[1]) * 1000 > LONGEST_MS:
        return None
    processed, remaining, total = (int(match[group]) for group in (3, 4, 5))
    row: Row = {"job_type": JOB_UNBOUNDED}
    # nova prints 0 for what libvirt did not say, as before the first statistics and without disks to copy.
    if total:
        row |= {"memory_processed_bytes": processed, "memory_remaining_bytes": remaining, "memory_total_bytes": total}
    disk = [int(match[group] or 0) for group in (7, 8, 9)]
    if disk[2]:
        row |= {"disk_processed_bytes": disk[0], "disk_remaining_bytes": disk[1], "disk_total_bytes": disk[2]}
    if total or disk[2]:
        row |= {"data_processed_bytes": processed + disk[0], "data_remaining_bytes": remaining + disk[1],
                "data_total_bytes": total + disk[2]}  # fmt: skip
    return Sample(entry, int(match[1]) * 1000, row)


def _end(outcome: str, job: Job) -> End:
    """nova finds a failed and a cancelled job alike when libvirt has forgotten the job: libvirt's error tells."""
    error_text = str(job.facts.get("error_text", ""))
    if outcome == "failed" and "canceled by client" in error_text:
        outcome = "cancelled"
    switched = any(deed.action == "start_post_copy" and deed.state == "done" for _, deed in job.deeds)
    if outcome == "failed" and switched:
        outcome = "postcopy-failed"
    return End(outcome=outcome, evidence="nova's log", error_text="" if outcome == "completed" else error_text)


def _assemble(guest: str, job: Job) -> Imported:
    _abort(job)
    name, _, number = guest.partition("\0")
    said = ["elapsed time is nova's: its monitor begins a little before libvirt's job"]
    if number or job.facts.get("masked"):
        said.append("the instance's UUID is masked: its migrations are told apart by their numbers and times alone")
    start_ns, uncertain_ms = _start(job.samples)
    ticks = []
    for entry, elapsed_ms, *_ in job.samples:
        known = entry.stamp is not None and start_ns is not None
        mono_ns = entry.stamp.wall_ns - start_ns if known else elapsed_ms * NS_PER_MS  # type: ignore[union-attr,operator]
        ticks.append(Tick(entry.order, mono_ns, entry.stamp))
    for tick, sample in zip(ticks, job.samples, strict=True):
        sample.row["time_elapsed_ms"] = tick.mono_ns // NS_PER_MS
    about = About(
        origin=ORIGIN, recorder="nova's migration monitor", usual_interval_ms=_INFO_MS, lacks=_LACKS,
        start_uncertain_ms=uncertain_ms,
        end=job.end or End(outcome="lost", evidence="the log ends before the migration does"),
        said=tuple(said),
    )  # fmt: skip
    return monitor_log.imported(name, job, ticks, about)


def _abort(job: Job) -> None:
    """nova aborts a migration at its timeout without a word; libvirt's error proves it."""
    timeouts = [note for note in job.notes if note.message.startswith("Live migration not completed after ")]
    failed = any(deed.action == "abort" for _, deed in job.deeds)
    if timeouts and job.end is not None and job.end.outcome == "cancelled" and not failed:
        job.deeds.append((timeouts[-1], Deed("abort")))


def _start(samples: list[Sample]) -> tuple[int | None, float]:
    """When nova's clock began, and by how much that may be off, ms: seconds are cut to whole ones, so that every line
    bounds it from both sides. None where lines have no times or their clock was set meanwhile."""
    stamped = [(sample.entry.stamp.wall_ns, sample.elapsed_ms) for sample in samples if sample.entry.stamp is not None]
    latest = min((wall_ns - ms * NS_PER_MS for wall_ns, ms in stamped), default=0)
    earliest = max((wall_ns - ms * NS_PER_MS - NS_PER_S for wall_ns, ms in stamped), default=0)
    if len(stamped) < len(samples) or earliest >= latest:
        return None, 1000.0
    return (earliest + latest) // 2, (latest - earliest) / NS_PER_MS / 2
