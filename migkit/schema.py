"""The table of columns of a trace: recorder, validation, plots and glossary are all driven by it.

A row is one observation in time. Values stand as libvirt gave them: unscaled, and null where libvirt said nothing.
Job-stats parameters: libvirt include/libvirt/libvirt-domain.h, VIR_DOMAIN_JOB_*, libvirt 9.0 to 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

SCHEMA_VERSION: Final = 1
# Longer than any migration: what says more is damaged, a clock that jumped, or of another unit.
LONGEST_MS: Final = 14 * 24 * 3600 * 1000

Dtype = Literal["int64", "uint64", "int32", "bool", "string"]
Kind = Literal["time", "label", "code", "counter", "gauge", "setting", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a trace.

    `kind` tells how it may be read between two rows: a counter only grows within one phase of a job, a gauge holds
    until the next row, a setting changes when somebody changes it, a code or label belongs to its row alone.
    `key` is libvirt's typed-parameter name where the column comes from job stats; `since` is the libvirt version
    that first had it, empty for what migkit adds.
    """

    name: str
    dtype: Dtype
    unit: str
    kind: Kind
    doc: str
    key: str | None = None
    since: str = ""


def _own(name: str, dtype: Dtype, unit: str, kind: Kind, doc: str) -> Column:
    return Column(name=name, dtype=dtype, unit=unit, kind=kind, doc=doc)


def _stat(key: str, name: str, unit: str, kind: Kind, since: str, doc: str, dtype: Dtype = "uint64") -> Column:
    return Column(name=name, dtype=dtype, unit=unit, kind=kind, doc=doc, key=key, since=since)


COLUMNS: Final[tuple[Column, ...]] = (
    _own("mono_ns", "int64", "ns", "time", "Monotonic clock of the recording host when the observation was complete."),
    _own("wall_ns", "int64", "ns", "time", "Wall clock (Unix time) at the same moment."),
    _own("source", "string", "", "label", "What brought the row: poll, iteration, lifecycle, job, action or wake."),
    _own("latency_us", "int64", "us", "gauge", "How long the job-stats call took."),
    _own("event_lag_us", "int64", "us", "gauge", "From an iteration event's arrival to the answer of its sample."),
    _own(
        "job_type",
        "int32",
        "",
        "code",
        "libvirt's job type: 0 none, 1 bounded, 2 unbounded (active), 3 completed, 4 failed, 5 cancelled.",
    ),
    _own("domain_state", "int32", "", "code", "virDomainState, where it was asked with this row."),
    _own("domain_reason", "int32", "", "code", "Reason that belongs to the domain state."),
    _stat("operation", "operation", "", "code", "3.3.0", "5 is an outgoing migration, 4 an incoming one.", "int32"),
    _stat(
        "time_elapsed",
        "time_elapsed_ms",
        "ms",
        "counter",
        "1.0.3",
        "libvirt's clock since the job began, preparation and disk copy included.",
    ),
    _stat(
        "time_elapsed_net",
        "time_elapsed_net_ms",
        "ms",
        "counter",
        "1.2.15",
        "Elapsed time without the clock difference between the hosts; only once completed.",
    ),
    _stat(
        "time_remaining",
        "time_remaining_ms",
        "ms",
        "gauge",
        "1.0.3",
        "Remaining time of a bounded job; never given for a migration of QEMU.",
    ),
    _stat(
        "downtime",
        "downtime_ms",
        "ms",
        "gauge",
        "1.0.3",
        "While active QEMU's expected downtime as of the last bitmap sync; the real one only once completed.",
    ),
    _stat(
        "downtime_net",
        "downtime_net_ms",
        "ms",
        "gauge",
        "1.2.15",
        "Downtime without the clock difference between the hosts; only once completed, not after post-copy.",
    ),
    _stat("setup_time", "setup_time_ms", "ms", "gauge", "1.2.9", "Time QEMU needed to set the migration up."),
    _stat(
        "data_total",
        "data_total_bytes",
        "bytes",
        "gauge",
        "1.0.3",
        "Disk plus memory; jumps when memory follows the disks.",
    ),
    _stat("data_processed", "data_processed_bytes", "bytes", "counter", "1.0.3", "Disk plus memory sent so far."),
    _stat("data_remaining", "data_remaining_bytes", "bytes", "gauge", "1.0.3", "Disk plus memory left to send."),
    _stat("memory_total", "memory_total_bytes", "bytes", "gauge", "1.0.3", "Guest memory of the migration."),
    _stat("memory_processed", "memory_processed_bytes", "bytes", "counter", "1.0.3", "Memory sent so far."),
    _stat(
        "memory_remaining",
        "memory_remaining_bytes",
        "bytes",
        "gauge",
        "1.0.3",
        "Memory left to send in this iteration; zero does not mean done.",
    ),
    _stat("memory_constant", "memory_constant_pages", "pages", "counter", "1.0.3", "Pages sent as zero pages."),
    _stat("memory_normal", "memory_normal_pages", "pages", "counter", "1.0.3", "Pages sent in full."),
    _stat(
        "memory_normal_bytes", "memory_normal_bytes", "bytes", "counter", "1.0.3", "Bytes of the pages sent in full."
    ),
    _stat(
        "memory_bps",
        "memory_bps",
        "bytes/s",
        "gauge",
        "1.2.9",
        "Bandwidth over one window of about 100 ms; frozen at its last value while the network stalls.",
    ),
    _stat(
        "memory_dirty_rate",
        "memory_dirty_rate_pages_per_s",
        "pages/s",
        "gauge",
        "1.3.1",
        "Pages that became dirty a second, refreshed at a bitmap sync at least 1 s after the last; 0 in iteration 1.",
    ),
    _stat("memory_page_size", "memory_page_size_bytes", "bytes", "setting", "3.9.0", "Size of a memory page."),
    _stat("memory_iteration", "memory_iteration", "", "counter", "1.3.1", "Pre-copy pass (QEMU's dirty-sync-count)."),
    _stat(
        "memory_postcopy_requests",
        "memory_postcopy_requests",
        "",
        "counter",
        "5.0.0",
        "Page faults that asked the source for a page during post-copy.",
    ),
    _stat("disk_total", "disk_total_bytes", "bytes", "gauge", "1.0.3", "Size of the disks to copy."),
    _stat("disk_processed", "disk_processed_bytes", "bytes", "counter", "1.0.3", "Disk data copied so far."),
    _stat("disk_remaining", "disk_remaining_bytes", "bytes", "gauge", "1.0.3", "Disk data left to copy."),
    _stat("disk_bps", "disk_bps", "bytes/s", "gauge", "1.2.9", "Bandwidth of the disk copy."),
    _stat("compression_cache", "compression_cache_bytes", "bytes", "setting", "1.0.3", "Size of the xbzrle cache."),
    _stat("compression_bytes", "compression_bytes", "bytes", "counter", "1.0.3", "Bytes sent xbzrle-compressed."),
    _stat("compression_pages", "compression_pages", "pages", "counter", "1.0.3", "Pages sent xbzrle-compressed."),
    _stat(
        "compression_cache_misses",
        "compression_cache_misses_pages",
        "pages",
        "counter",
        "1.0.3",
        "Pages that were not in the xbzrle cache.",
    ),
    _stat(
        "compression_overflow",
        "compression_overflow_pages",
        "pages",
        "counter",
        "1.0.3",
        "Pages that xbzrle could not compress.",
    ),
    _stat(
        "auto_converge_throttle",
        "auto_converge_throttle_percent",
        "%",
        "gauge",
        "2.0.0",
        "How much the guest's processors are held back; absent until throttling begins.",
    ),
    _stat("disk_temp_used", "disk_temp_used_bytes", "bytes", "gauge", "6.0.0", "Scratch space used (backup jobs)."),
    _stat("disk_temp_total", "disk_temp_total_bytes", "bytes", "gauge", "6.0.0", "Scratch space (backup jobs)."),
    _stat(
        "vfio_data_transferred",
        "vfio_data_transferred_bytes",
        "bytes",
        "counter",
        "10.6.0",
        "State of assigned devices sent so far.",
    ),
    _stat("success", "success", "", "code", "6.0.0", "Whether a completed job succeeded.", "bool"),
    _stat("errmsg", "error_message", "", "text", "6.3.0", "libvirt's message of a failed job.", "string"),
    _own("event_iteration", "int64", "", "code", "Iteration number that an iteration event carried."),
    _own("lifecycle_event", "int32", "", "code", "virDomainEventType of a lifecycle event."),
    _own("lifecycle_detail", "int32", "", "code", "Detail that belongs to the lifecycle event."),
    _own("action", "string", "", "label", "What was done to the migration, e.g. start_post_copy or abort."),
    _own("argument", "int64", "", "code", "Argument of the action, in the unit its name gives (max downtime: ms)."),
    _own("succeeded", "bool", "", "code", "Whether the action's call succeeded; null where nobody knows."),
    _own("error_code", "int32", "", "code", "libvirt's error code, where a call failed."),
    _own("error_text", "string", "", "text", "libvirt's message, where a call failed."),
    _own("extra", "string", "", "text", "JSON object of what this version of migkit does not know, as it came."),
)

BY_NAME: Final = {column.name: column for column in COLUMNS}
BY_KEY: Final = {column.key: column for column in COLUMNS if column.key is not None}

SOURCES: Final = ("poll", "iteration", "lifecycle", "job", "action", "wake")
PROVENANCES: Final = ("recorded", "imported", "simulated")
OUTCOMES: Final = ("completed", "failed", "cancelled", "postcopy-failed", "lost", "interrupted")

JOB_NONE: Final = 0
JOB_BOUNDED: Final = 1
JOB_UNBOUNDED: Final = 2
JOB_COMPLETED: Final = 3
JOB_FAILED: Final = 4
JOB_CANCELLED: Final = 5
OPERATION_MIGRATION_OUT: Final = 5

JOB_TYPES: Final = ("none", "bounded", "active", "completed", "failed", "cancelled")
DOMAIN_STATES: Final = (
    "no state", "running", "blocked", "paused", "shutting down", "shut off", "crashed", "suspended by power management",
)  # fmt: skip
LIFECYCLE_EVENTS: Final = (
    "defined", "undefined", "started", "suspended", "resumed", "stopped", "shutdown", "suspended by power management",
    "crashed",
)  # fmt: skip


def glossary() -> str:
    """The columns as a Markdown table, for data/GLOSSARY.md."""
    lines = ["| column | unit | kind | libvirt key | since | meaning |", "|---|---|---|---|---|---|"]
    for c in COLUMNS:
        key = f"`{c.key}`" if c.key else ""
        lines.append(f"| `{c.name}` | {c.unit} | {c.kind} | {key} | {c.since} | {c.doc} |")
    return "\n".join(lines) + "\n"
