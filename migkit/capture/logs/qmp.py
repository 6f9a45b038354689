"""QEMU's own answers to query-migrate, and its MIGRATION events, into one trace a migration.

Fields: QEMU qapi/migration.json, 2.5 to 10.1. Answers may stand alone or in their QMP envelope, on one line or many,
one or a stream of them, with a time before each or none, with greetings, other answers and other events in between, as
`virsh qemu-monitor-command`, `virsh qemu-monitor-event`, socat on a QMP socket and libvirtd's debug log have them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from migkit.capture.logs.answers import Answer, Happening, Jobs, Source, read_with
from migkit.capture.logs.base import Context, Imported, Line
from migkit.capture.logs.stamps import Stamp, iso_stamp, line_stamp
from migkit.capture.source import EVENT_SUSPENDED, SUSPENDED_POSTCOPY, SUSPENDED_POSTCOPY_FAILED
from migkit.schema import JOB_CANCELLED, JOB_COMPLETED, JOB_FAILED, JOB_NONE, JOB_UNBOUNDED
from migkit.units import NS_PER_S

ORIGIN = "QMP query-migrate"
NEEDLES: tuple[bytes, ...] = ()

_SOURCE = Source(
    origin=ORIGIN,
    recorder="QMP client",
    # libvirt's preparation, as measured on 35 migrations; a copy of disks comes on top.
    start_uncertain_ms=2000.0,
    said=("elapsed time is QEMU's: it begins after libvirt's preparation, and after a copy of disks",),
)
_BYTES_OF_MEGABIT = 125_000
# An answer has at most some 80 lines, written out.
_MOST_LINES, _MOST_CHARACTERS = 1000, 1_000_000

_STATUS = {
    "none": JOB_NONE, "completed": JOB_COMPLETED, "failed": JOB_FAILED, "cancelled": JOB_CANCELLED,
} | dict.fromkeys(
    ("setup", "active", "cancelling", "postcopy-active", "postcopy-paused", "postcopy-recover-setup",
     "postcopy-recover", "postcopy-device", "colo", "pre-switchover", "device", "wait-unplug"), JOB_UNBOUNDED,
)  # fmt: skip
_INFO = {
    "total-time": "time_elapsed", "setup-time": "setup_time", "downtime": "downtime",
    "expected-downtime": "downtime", "cpu-throttle-percentage": "auto_converge_throttle",
}  # fmt: skip
_RAM = {
    "transferred": "memory_processed", "remaining": "memory_remaining", "total": "memory_total",
    "duplicate": "memory_constant", "normal": "memory_normal", "normal-bytes": "memory_normal_bytes",
    "dirty-pages-rate": "memory_dirty_rate", "dirty-sync-count": "memory_iteration", "page-size": "memory_page_size",
    "postcopy-requests": "memory_postcopy_requests",
}  # fmt: skip
_DISK = {"transferred": "disk_processed", "remaining": "disk_remaining", "total": "disk_total"}
_XBZRLE = {
    "cache-size": "compression_cache", "bytes": "compression_bytes", "pages": "compression_pages",
    "cache-miss": "compression_cache_misses", "overflow": "compression_overflow",
}  # fmt: skip
_PARTS = {"ram": _RAM, "disk": _DISK, "xbzrle-cache": _XBZRLE, "vfio": {"transferred": "vfio_data_transferred"}}
# What libvirt makes of these events.
_LIFECYCLE = {"postcopy-active": SUSPENDED_POSTCOPY, "postcopy-paused": SUSPENDED_POSTCOPY_FAILED}
_EVENT_LINE = re.compile(
    r"event (MIGRATION\w*)(?: at (\d{9,11})\.(\d{6}))? for domain '?([^':]+)'?: (\{.*\})", re.ASCII
)
_MONITOR = re.compile(r"\bmon=(0x[0-9a-f]+)")


def matches(head: bytes) -> bool:
    """An answer with statistics, or an event of a migration."""
    words = (b'"dirty-sync-count"', b'"expected-downtime"', b'"MIGRATION_PASS"', b"event MIGRATION_PASS ")
    return any(each in head for each in words) or (b'"total-time"' in head and b'"transferred"' in head)


def read(lines: Iterator[Line], context: Context) -> Iterator[Imported]:
    """The migrations of all files; each monitor's answers are kept apart where lines tell it, else each file's."""
    return read_with(_Reader(context), lines)


class _Reader:
    """Lines into JSON documents, documents into answers and events."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._jobs = Jobs(_SOURCE, context)
        self._stamp: Stamp | None = None
        self._place, self._order = "", 0
        self._pending: list[str] = []
        self._length = 0

    def add(self, order: int, place: str, text: str) -> Iterator[Imported]:
        """Takes a line."""
        if place != self._place:
            self._drop()
            self._place, self._stamp = place, None
        self._order = order
        told = _EVENT_LINE.search(text)
        if told is not None:
            self._drop()
            yield from self._event_line(told, text)
        elif self._pending and not _begins(text):
            yield from self._go_on(text)
        else:
            self._drop()
            yield from self._first(text)

    def _first(self, text: str) -> Iterator[Imported]:
        start = text.find("{")
        stamp = line_stamp(text) if start < 0 else iso_stamp(text[:start])
        self._stamp = stamp or self._stamp
        if start < 0:
            if stamp is None and text.strip():
                self._context.skipped["foreign line"] += 1
            return
        yield from self._document(text[start:], self._key(text))

    def _key(self, text: str) -> str:
        monitor = _MONITOR.search(text)
        return f"{self._place}\0{monitor[1] if monitor else ''}"

    def _go_on(self, text: str) -> Iterator[Imported]:
        """A further line of a document that goes over several."""
        self._pending.append(text)
        self._length += len(text)
        if len(self._pending) > _MOST_LINES or self._length > _MOST_CHARACTERS:
            self._drop()
        elif text.rstrip().endswith("}"):
            whole, self._pending = "\n".join(self._pending), []
            yield from self._document(whole, self._key(""))

    def _document(self, text: str, key: str) -> Iterator[Imported]:
        """What stands in a text; what is well-formed up to the text's end may go on in the next line."""
        at = 0
        while (at := text.find("{", at)) >= 0:
            try:
                document, at = _DECODER.raw_decode(text, at)
            except RecursionError:
                self._context.skipped["document that is nested too deeply"] += 1
                return
            except ValueError as error:
                if isinstance(error, json.JSONDecodeError) and not text[error.pos :].strip():
                    self._pending, self._length = text[at:].split("\n"), len(text) - at
                else:
                    self._context.skipped["document that is cut short or damaged"] += 1
                return
            yield from self._see(document, key)

    def _drop(self) -> None:
        if self._pending:
            self._context.skipped["document that is cut short or damaged"] += 1
        self._pending, self._length = [], 0

    def _see(self, document: Any, key: str) -> Iterator[Imported]:
        """An answer in its envelope or without it, an event, or another message."""
        if not isinstance(document, dict):
            return
        if isinstance(document.get("event"), str):
            yield from self._event(document["event"], document.get("data"), _event_stamp(document), key)
            return
        info = document.get("return", document)
        if not isinstance(info, dict) or str(info.get("status")) not in _STATUS or not _is_answer(info):
            self._context.skipped["message that is no answer to query-migrate"] += 1
            return
        stats = _stats(info)
        if stats is None:
            self._context.skipped["answer with a value of an unknown form"] += 1
            return
        yield from self._jobs.add(key, "", Answer(self._order, self._stamp, stats))

    def _event_line(self, told: re.Match[str], text: str) -> Iterator[Imported]:
        """A line of `virsh qemu-monitor-event`."""
        name, seconds, us, guest, data = told.groups()
        stamp = Stamp(int(seconds) * NS_PER_S + int(us) * 1000, True) if seconds else iso_stamp(text[: told.start()])
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            self._context.skipped["event that is damaged"] += 1
            return
        yield from self._event(name, document, stamp, self._key(""), guest)

    def _event(self, name: str, data: Any, stamp: Stamp | None, key: str, guest: str = "") -> Iterator[Imported]:
        fields = data if isinstance(data, dict) else {}
        number, status = fields.get("pass"), str(fields.get("status"))
        stamp = stamp or self._stamp
        if name == "MIGRATION" and status == "setup":
            yield from self._jobs.begin(key, self._order, stamp, guest)
        elif name == "MIGRATION" and status in ("completed", "failed", "cancelled"):
            self._jobs.end(key, status)
        elif name == "MIGRATION" and status in _LIFECYCLE:
            row = {"source": "lifecycle", "lifecycle_event": EVENT_SUSPENDED, "lifecycle_detail": _LIFECYCLE[status]}
            self._jobs.happened(key, Happening(self._order, stamp, row), guest)
        elif name == "MIGRATION_PASS" and type(number) is int and 0 <= number < 2**40:
            row = {"source": "iteration", "event_iteration": number}
            self._jobs.happened(key, Happening(self._order, stamp, row), guest)
        else:
            self._context.skipped["event of another kind"] += 1

    def end(self) -> Iterator[Imported]:
        """The migrations that are still open."""
        self._drop()
        yield from self._jobs.close()


_DECODER = json.JSONDecoder()


def _begins(text: str) -> bool:
    """Whether a line begins something new, so that an unfinished document before it was cut."""
    return text.startswith("{") or line_stamp(text) is not None


def _is_answer(info: Mapping[str, Any]) -> bool:
    """Other answers have a status too, such as that of query-status."""
    return bool({"ram", "total-time", "setup-time", "error-desc"} & info.keys()) or len(info) == 1


def _event_stamp(document: Mapping[str, Any]) -> Stamp | None:
    told = document.get("timestamp")
    seconds, us = (told.get("seconds"), told.get("microseconds")) if isinstance(told, dict) else (None, None)
    if not isinstance(seconds, int) or not isinstance(us, int) or not (0 < seconds < 2**33 and 0 <= us < 10**6):
        return None
    return Stamp(seconds * NS_PER_S + us * 1000, True)


def _stats(info: Mapping[str, Any]) -> dict[str, Any] | None:
    """An answer by libvirt's keys; what libvirt has no key for stays under QEMU's name. None where a value is of
    another kind than QEMU's."""
    stats: dict[str, Any] = {"type": _STATUS[info["status"]]}
    for name, value in info.items():
        if name in _PARTS and not isinstance(value, dict):
            return None
        if name in _PARTS:
            stats |= {_PARTS[name].get(inner, f"{name}.{inner}"): each for inner, each in value.items()}
        elif name != "status" or value not in ("active", "completed", "failed", "cancelled", "none"):
            stats[_INFO.get(name, name)] = value
    mbps = stats.pop("ram.mbps", None)
    if mbps is not None and (not isinstance(mbps, int | float) or not 0 <= mbps < 2**40):
        return None
    if mbps:
        # Like libvirt, which leaves a bandwidth out until there is one.
        stats["memory_bps"] = int(mbps * _BYTES_OF_MEGABIT)
    if any(isinstance(stats.get(key), bool) or not isinstance(stats.get(key, 0), int) for key in _NUMBERS):
        return None
    return stats | _data(stats)


_NUMBERS = {key for part in (_INFO, *_PARTS.values()) for key in part.values()}


def _data(stats: Mapping[str, Any]) -> dict[str, int]:
    """Memory and disks together, as libvirt adds them up."""
    return {
        f"data_{what}": stats[f"memory_{what}"] + stats.get(f"disk_{what}", 0)
        for what in ("total", "processed", "remaining")
        if f"memory_{what}" in stats
    }
