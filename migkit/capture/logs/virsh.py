"""What `virsh domjobinfo` printed, once or in a loop, scaled or with --rawstats, into one trace a migration.

Labels and formats: libvirt tools/virsh-domain.c, cmdDomjobinfo and virshDomainJobStats, 1.0.3 to 12. A time on a line
of its own, such as `date` prints, is the time of the block after it; a command line before a block tells its guest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from migkit.capture.logs.answers import Answer, Jobs, Source, read_with
from migkit.capture.logs.base import Context, Imported, Line
from migkit.capture.logs.stamps import Stamp, line_stamp
from migkit.schema import BY_KEY, JOB_COMPLETED, JOB_UNBOUNDED, OPERATION_MIGRATION_OUT
from migkit.units import GIB, KIB, MIB

ORIGIN = "virsh domjobinfo"
NEEDLES: tuple[bytes, ...] = ()

_SOURCE = Source(
    origin=ORIGIN, recorder="virsh in a loop",
    rounding="amounts were printed with three digits after the point: off by up to half the resolution, either way",
)  # fmt: skip
_TYPES = ("None", "Bounded", "Unbounded", "Completed", "Failed", "Cancelled")
_OPERATIONS = (
    "Unknown", "Start", "Save", "Restore", "Incoming migration", "Outgoing migration", "Snapshot", "Snapshot revert",
    "Dump", "Backup", "Snapshot delete",
)  # fmt: skip
_INCOMING = 4
_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1024 * GIB, "PiB": 1024 * 1024 * GIB}
_KEYS = {
    "Time elapsed": "time_elapsed", "Time elapsed w/o network": "time_elapsed_net", "Time remaining": "time_remaining",
    "Data processed": "data_processed", "Data remaining": "data_remaining", "Data total": "data_total",
    "Memory processed": "memory_processed", "Memory remaining": "memory_remaining", "Memory total": "memory_total",
    "Memory bandwidth": "memory_bps", "Dirty rate": "memory_dirty_rate", "Page size": "memory_page_size",
    "Iteration": "memory_iteration", "Postcopy requests": "memory_postcopy_requests",
    "File processed": "disk_processed", "File remaining": "disk_remaining", "File total": "disk_total",
    "File bandwidth": "disk_bps", "Constant pages": "memory_constant", "Normal pages": "memory_normal",
    "Normal data": "memory_normal_bytes", "Total downtime": "downtime", "Expected downtime": "downtime",
    "Downtime": "downtime", "Downtime w/o network": "downtime_net", "Setup time": "setup_time",
    "Compression cache": "compression_cache", "Compressed data": "compression_bytes",
    "Compressed pages": "compression_pages", "Compression cache misses": "compression_cache_misses",
    "Compression overflows": "compression_overflow", "Auto converge throttle": "auto_converge_throttle",
    "Temporary disk space use": "disk_temp_used", "Temporary disk space total": "disk_temp_total",
    "VFIO data transferred": "vfio_data_transferred", "Error message": "errmsg",
}  # fmt: skip
_TYPE = re.compile(r"Job type: +(?:(\d)|(\w+)) *", re.ASCII)
_LABELLED = re.compile(r"([A-Z][\w/ ]{1,40}): +(\S.*?) *")
_RAW = re.compile(r"([a-z][a-z0-9_.]{1,60}): (.*?) *")
_COUNT = re.compile(r"(\d{1,20})(?: +(?:ms|bytes|pages/s))?", re.ASCII)
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,3})?) ([KMGTP]i)?B(/s)?", re.ASCII)
_COMMAND = re.compile(r"\bdomjobinfo +(?:--?[a-z]+ +)*(?:--domain +)?([\w.:@+-]+)")


def matches(head: bytes) -> bool:
    """A block of statistics, in either of its forms."""
    return (
        re.search(rb"^Job type: +(\d|None|Unbounded|Completed|Failed|Cancelled) *\r?$", head, re.MULTILINE) is not None
    )


@dataclass(slots=True)
class _Block:
    """The lines of one answer as far as they are read. `scaled` are the units of what was remaining and of rates."""

    order: int
    stamp: Stamp | None
    kind: int
    raw: bool
    stats: dict[str, Any] = field(default_factory=dict)
    steps: list[int] = field(default_factory=lambda: [0, 0])
    open_ended: bool = False


def read(lines: Iterator[Line], context: Context) -> Iterator[Imported]:
    """The migrations of all files, one after the other."""
    return read_with(_Reader(context), lines)


class _Reader:
    """Lines into blocks, blocks into answers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._jobs = Jobs(_SOURCE, context)
        self._block: _Block | None = None
        self._stamp: Stamp | None = None
        self._place, self._guest = "", ""

    def add(self, order: int, place: str, text: str) -> Iterator[Imported]:
        """Takes a line."""
        if place != self._place:
            yield from self._finish()
            self._place, self._guest, self._stamp = place, "", None
        kind = _TYPE.fullmatch(text)
        if kind is not None:
            yield from self._finish()
            number = int(kind[1]) if kind[1] else _TYPES.index(kind[2]) if kind[2] in _TYPES else -1
            self._block = _Block(order=order, stamp=self._stamp, kind=number, raw=bool(kind[1]))
        elif self._block is None or not self._take(text):
            yield from self._finish()
            self._see_other(text)

    def _take(self, text: str) -> bool:
        """Whether the line belongs to the block: a value, or the blank line behind the first one or the last."""
        assert self._block is not None
        if not text.strip():
            self._block.open_ended = False
            return not self._block.stats
        match = (_RAW if self._block.raw else _LABELLED).fullmatch(text)
        if match is None:
            return False
        self._block.open_ended = text[-1:].isdigit()
        if not _add(self._block, match[1], match[2]):
            self._context.skipped["value that is cut short or of an unknown form"] += 1
        return True

    def _see_other(self, text: str) -> None:
        stamp, command = line_stamp(text), _COMMAND.search(text)
        if stamp is not None:
            self._stamp = stamp
        elif command is not None:
            self._guest = command[1]
        elif text.startswith("error: "):
            self._jobs.failed(self._key(), text.removeprefix("error: ")[:200])
        elif text.strip():
            self._context.skipped["foreign line"] += 1

    def _key(self) -> str:
        return f"{self._place}\0{self._guest}"

    def _finish(self) -> Iterator[Imported]:
        """Hands the block on, if it is of an outgoing migration."""
        block, self._block = self._block, None
        if block is None:
            return
        operation = block.stats.get("operation", OPERATION_MIGRATION_OUT)
        incoming = operation == _INCOMING and block.kind == JOB_COMPLETED
        if not 0 <= block.kind < len(_TYPES) or (operation != OPERATION_MIGRATION_OUT and not incoming):
            self._context.skipped["block of another job than an outgoing migration"] += 1
            return
        if block.kind == JOB_UNBOUNDED and not block.stats:
            self._context.skipped["block without statistics"] += 1
            return
        steps = None if block.raw else (block.steps[0], block.steps[1])
        answer = Answer(block.order, block.stamp, {"type": block.kind, **block.stats}, steps)
        yield from self._jobs.add(self._key(), self._guest, answer)

    def end(self) -> Iterator[Imported]:
        """The last block, without a last number that may be cut, and the migrations still open."""
        if self._block is not None and self._block.open_ended and self._block.stats:
            self._block.stats.popitem()
            self._context.skipped["number at the very end, which may be cut short"] += 1
        yield from self._finish()
        yield from self._jobs.close()


def _add(block: _Block, name: str, text: str) -> bool:
    """Puts a value into the block; False where it has not the form that its name asks for."""
    if block.raw:
        value = _raw_value(name, text)
        if value is not None:
            block.stats[name] = value
        return value is not None
    if name == "Operation":
        if text in _OPERATIONS:
            block.stats["operation"] = _OPERATIONS.index(text)
        return text in _OPERATIONS
    key = _KEYS.get(name, name)
    if name not in _KEYS or key == "errmsg":
        block.stats[key] = text
        return True
    return _add_number(block, key, text)


def _add_number(block: _Block, key: str, text: str) -> bool:
    count, amount = _COUNT.fullmatch(text), _AMOUNT.fullmatch(text)
    is_rate = BY_KEY[key].unit == "bytes/s"
    if amount is not None and bool(amount[3]) == is_rate and key != "memory_page_size":
        unit = _UNITS[f"{amount[2] or ''}B"]
        block.stats[key] = round(float(amount[1]) * unit)
        if is_rate or key == "data_remaining":
            block.steps[is_rate] = max(block.steps[is_rate], -(-unit // 1000) if unit > 1 else 1)
        return True
    if count is not None and (BY_KEY[key].unit != "bytes" or key == "memory_page_size") and not is_rate:
        block.stats[key] = int(count[1])
        return True
    return False


def _raw_value(name: str, text: str) -> Any:
    dtype = BY_KEY[name].dtype if name in BY_KEY else ""
    if dtype == "string":
        return text
    if dtype == "bool":
        return {"yes": True, "no": False, "1": True, "0": False}.get(text)
    if re.fullmatch(r"-?\d{1,20}", text, re.ASCII):
        return int(text)
    return None if dtype else text
