"""oVirt's vdsm log into one trace a migration.

Messages: oVirt/vdsm lib/vdsm/virt/migration.py and vm.py, v4.18 to master at fd4b0df20; the prefix: static/etc/vdsm/
logger.conf.in. What the line of statistics calls MB is MiB; its bandwidth is MiB/s ("MBps") before v4.40.28 and MiB/s
times 8 ("Mbps") since; its zero pages are pages, whatever it says; -1 is a value that libvirt did not give.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from migkit.capture.logs import monitor_log
from migkit.capture.logs.base import Context, Imported, Line, Row
from migkit.capture.logs.clock import Tick
from migkit.capture.logs.monitor_log import About, Entry, Job, Jobs, Sample
from migkit.capture.logs.stamps import iso_stamp
from migkit.meta import End, Migration
from migkit.schema import JOB_UNBOUNDED, LONGEST_MS
from migkit.units import MIB, NS_PER_MS

ORIGIN = "vdsm log"
NEEDLES: tuple[bytes, ...] = (
    b"Migration Progress: ", b"Migration stalling: ", b"igration is stuck", b"etting downtime to ",
    b"igration downtime to ", b"ost-copy ", b"borting migration", b"igration took ", b"starting migration to ",
    b"Migrating to ", b"Failed to migrate", b"(migsrc/", b"Stalling for ",
)  # fmt: skip

_PROGRESS = "Migration Progress: "
_STATISTICS = re.compile(
    r"Migration Progress: (?P<s>\d{1,8}(?:\.\d{1,6})?) seconds elapsed, \d{1,3}% of data processed, "
    r"total data: (?P<total>\d{1,15})MB, processed data: (?P<processed>\d{1,15})MB, "
    r"remaining data: (?P<remaining>\d{1,15})MB, transfer speed (?P<speed>\d{1,15})(?P<unit>Mbps|MBps), "
    r"zero pages: (?P<zero>\d{1,18})MB, compressed: (?P<compressed>\d{1,15})MB, dirty rate: (?P<dirty>-?\d{1,15}), "
    r"memory iteration: (?P<iteration>-?\d{1,15})(?: \(\w+:\d+\))?",
    re.ASCII,
)
_GUEST = re.compile(
    r"vmId=['`]([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})['`](?:\)|::)\s*", re.ASCII
)
# Behind every message the module and the line of the source.
_WHERE = re.compile(r" \(\w+:\d+\)$", re.ASCII)
_NOTED = re.compile(
    r"Migration stalling: |Migration is stuck|Stalling for \d|Post-copy migration still in progress|"
    r"Migration entered post-copy mode|The migration took "
)
_DEEDS = monitor_log.rules(
    (r"[Ss]etting (?:migration )?downtime to (?P<ms>\d{1,9})$", "set_max_downtime", "done"),
    (r"Switching to post-copy migration", "start_post_copy", "done"),
    (r"Failed to switch to post-copy migration", "start_post_copy", "failed"),
    (r"Aborting migration$", "abort", "done"),
)
_ASKED = re.compile(r"Migrating to \S+ with params (\{.*\}) and flags (\d{1,9})$", re.ASCII)
_LACKS = ("downtime_ms",)
_INTERVAL_MS = 10_000.0
_MEMORY = {f"data_{what}_bytes": f"memory_{what}_bytes" for what in ("total", "processed", "remaining")}
# VIR_MIGRATE_NON_SHARED_DISK and _INC: disks are copied too.
_DISKS = 1 << 6 | 1 << 7


def matches(head: bytes) -> bool:
    """A line of the monitor's statistics."""
    return re.search(rb"Migration Progress: [\d.]+ seconds elapsed, \d+% of data processed", head) is not None


def read(lines: Iterator[Line], context: Context) -> Iterator[Imported]:
    """The migrations of a log, or of several logs one after the other; interleaved ones are told apart by the VM."""
    jobs = Jobs(_assemble, context)
    for order, line in enumerate(lines):
        words = line.text.decode("utf-8", "replace")
        guest = _GUEST.search(words)
        if guest is None:
            context.skipped["line that names no VM"] += 1
            continue
        prefix, message = words[: guest.start()], _WHERE.sub("", words[guest.end() :].rstrip())
        entry = Entry(order, iso_stamp(prefix[:120]), guest[1], message)
        yield from _see(entry, "ERROR" in prefix and "(migsrc/" in prefix, jobs, context)
    yield from jobs.close_all()


def _see(entry: Entry, is_error: bool, jobs: Jobs, context: Context) -> Iterator[Imported]:
    message, guest = entry.message, entry.guest
    if message.startswith(_PROGRESS):
        sample = _sample(entry)
        if sample is None:
            context.skipped["statistics that are cut short or of an unknown form"] += 1
        else:
            yield from jobs.add(sample)
    elif message.startswith("starting migration to "):
        yield from jobs.begin(guest)
        jobs.of(guest).facts["started_wall_ns"] = entry.stamp.wall_ns if entry.stamp else None
    elif message.startswith("migration took "):
        job = jobs.of(guest)
        job.end, job.ended = End(outcome="completed", evidence="vdsm's log"), entry.stamp
        yield from jobs.close(guest)
    elif message.startswith("Failed to migrate"):
        job = jobs.of(guest)
        job.end, job.ended = _failure(job), entry.stamp
        yield from jobs.close(guest)
    elif asked := _ASKED.match(message):
        jobs.of(guest).facts |= _asked(asked)
    elif deed := monitor_log.deed_of(message, _DEEDS):
        jobs.do(entry, deed)
    elif is_error and jobs.is_over(guest):
        context.skipped[monitor_log.AFTERWARDS] += 1
    elif is_error:
        jobs.of(guest).facts["error_text"] = message[:1000]
    elif _NOTED.match(message):
        jobs.note(entry)
    else:
        context.skipped["line that tells nothing of a migration's course"] += 1


def _sample(entry: Entry) -> Sample | None:
    match = _STATISTICS.fullmatch(entry.message)
    if match is None:
        return None
    said = {name: int(value) for name, value in match.groupdict().items() if name not in ("s", "unit")}
    elapsed_ms = round(float(match["s"]) * 1000)
    if elapsed_ms > LONGEST_MS:
        return None
    bps = MIB if match["unit"] == "MBps" else MIB // 8
    row: Row = {
        "job_type": JOB_UNBOUNDED, "time_elapsed_ms": elapsed_ms,
        "memory_bps": said["speed"] * bps or None,
        "memory_constant_pages": said["zero"] or None,
        "compression_bytes": said["compressed"] * MIB or None,
        "memory_dirty_rate_pages_per_s": said["dirty"] if said["dirty"] >= 0 else None,
        "memory_iteration": said["iteration"] if said["iteration"] >= 0 else None,
    }  # fmt: skip
    row |= {f"data_{what}_bytes": said[what] * MIB for what in ("total", "processed", "remaining")}
    return Sample(entry, elapsed_ms, row, resolution_bps=bps, whole_seconds="." not in match["s"])


def _asked(match: re.Match[str]) -> dict[str, Any]:
    """What was asked of libvirt: its flags, and those parameters that are numbers."""
    try:
        told = ast.literal_eval(match[1])
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    numbers = {str(key): value for key, value in told.items() if type(value) is int}
    return {"flags": int(match[2]), "parameters": numbers}


def _failure(job: Job) -> End:
    text = str(job.facts.get("error_text", ""))
    done = {deed.action for _, deed in job.deeds if deed.state == "done"}
    if "cancel" in text.lower() or "abort" in done:
        outcome = "cancelled"
    else:
        outcome = "postcopy-failed" if "start_post_copy" in done else "failed"
    return End(outcome=outcome, evidence="vdsm's log", error_text=text)


def _assemble(guest: str, job: Job) -> Imported:
    ticks = [Tick(entry.order, elapsed_ms * NS_PER_MS, entry.stamp) for entry, elapsed_ms, *_ in job.samples]
    facts = job.facts
    said: tuple[str, ...] = ()
    if facts.get("flags", _DISKS) & _DISKS == 0:
        for sample in job.samples:
            sample.row.update({memory: sample.row[data] for data, memory in _MEMORY.items()})
        said = ("what was sent is memory alone: vdsm asked for no copy of disks",)
    about = About(
        origin=ORIGIN, recorder="vdsm's migration monitor", usual_interval_ms=_INTERVAL_MS, lacks=_LACKS,
        resolution_bytes=MIB, resolution_bps=job.samples[-1].resolution_bps,
        # Python 2 cut seconds to whole ones.
        start_uncertain_ms=1000.0 if all(sample.whole_seconds for sample in job.samples) else None,
        migration=Migration(
            flags=facts.get("flags"), parameters=facts.get("parameters", {}),
            started_wall_ns=facts.get("started_wall_ns"),
        ),
        end=job.end or End(outcome="lost", evidence="the log ends before the migration does"),
        said=said,
    )  # fmt: skip
    return monitor_log.imported(guest, job, ticks, about)
