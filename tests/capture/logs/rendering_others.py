"""Recorded migrations as virsh, QEMU's monitor, nova-compute and vdsm would have printed them.

Formats: libvirt tools/virsh-domain.c, QEMU qapi/migration.json, openstack/nova nova/virt/libvirt/driver.py, oVirt/vdsm
lib/vdsm/virt/migration.py.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator

import pandas as pd

import migkit as mk
from migkit.capture.logs import qmp as qmp_format
from migkit.capture.logs import virsh as virsh_format
from migkit.schema import BY_KEY
from tests.capture.logs.rendering import MIB, START_NS, number, sampled

INSTANCE = "7b7edae6-f878-4756-a858-86f836d02c33"
VM = "a486876a-c79c-4d51-a9ac-410b4635fcc8"
REQUEST = "None req-590602d0-1d3d-4ac9-b000-cdd98a2400b4 3de117d20e5b45c1ba86c8136c841ef3 - - default default"


def wall(t_ns: int, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time in UTC, cut to whole seconds."""
    return datetime.datetime.fromtimestamp(t_ns // 10**9, datetime.UTC).strftime(form)


def at(row: pd.Series) -> int:
    """The wall clock of a row when the migration began at START_NS."""
    return START_NS + number(row, "time_elapsed_ms") * 10**6


def active(trace: mk.Trace, every_ms: int) -> pd.DataFrame:
    """The samples that somebody who looks so often sees; all of them when he looks all the time."""
    if every_ms:
        return sampled(trace, every_ms)
    rows = trace.samples[trace.active & (trace.samples["source"] == "poll").to_numpy()]
    return rows[rows["time_elapsed_ms"].notna()]


def ended(trace: mk.Trace) -> pd.DataFrame:
    """The samples of a job that failed or was cancelled: zeros."""
    return trace.samples[trace.samples["job_type"].isin([4, 5]).to_numpy(dtype=bool)]


def moment(trace: mk.Trace, row: pd.Series) -> int:
    """The wall clock of any row when the migration began at START_NS."""
    return START_NS + int(row["mono_ns"]) - trace.t0_ns


# virsh


def scaled(value: int) -> str:
    """As virsh's vshPrettyCapacity and %.3lf do it."""
    number_, unit = float(value), "B"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if number_ < 1024:
            break
        number_, unit = number_ / 1024, bigger
    return f"{number_:.3f} {unit}"


LABELS = {key: label for label, key in virsh_format._KEYS.items() if label not in ("Downtime", "Total downtime")}
PLAIN = {"ms": " ms", "pages/s": " pages/s"}


def block(
    row: pd.Series, *, raw: bool, kind: str = "Unbounded", operation: str = "Outgoing migration"
) -> Iterator[str]:
    """One answer of domjobinfo."""
    stats = {key: int(row[c.name]) for key, c in BY_KEY.items() if c.dtype != "string" and not pd.isna(row[c.name])}
    if raw:
        yield f"Job type: {virsh_format._TYPES.index(kind)}"
        yield ""
        yield from (f"{key}: {value}" for key, value in stats.items())
    else:
        yield f"{'Job type:':17} {kind:12}"
        yield f"{'Operation:':17} Outgoing migration"
        for key, value in stats.items():
            if key in LABELS:
                label = "Total downtime" if kind == "Completed" and key == "downtime" else LABELS[key]
                yield f"{label + ':':17} {printed(key, value)}"
    yield ""


def printed(key: str, value: int) -> str:
    """A scaled value with its unit."""
    unit = BY_KEY[key].unit
    if key == "memory_page_size":
        return f"{value:<12} bytes"
    if unit in ("bytes", "bytes/s"):
        return scaled(value) + ("/s" if unit == "bytes/s" else "")
    return f"{value:<12}{PLAIN.get(unit, '')}"


def virsh(
    trace: mk.Trace, *, raw: bool, every_ms: int = 1000, stamp: str = "%a %b %e %H:%M:%S UTC %Y", later_ns: int = 0
) -> Iterator[str]:
    """What a loop of `date` and domjobinfo prints."""
    yield "$ while sleep 1; do date; virsh domjobinfo web1; done"
    for _, row in active(trace, every_ms).iterrows():
        yield wall(at(row) + later_ns, stamp)
        yield from block(row, raw=raw)
    for _, row in ended(trace).iterrows():
        yield wall(moment(trace, row) + later_ns, stamp)
        yield from block(row, raw=raw, kind=virsh_format._TYPES[int(row["job_type"])])
    job = trace.samples[trace.samples["source"] == "job"]
    if len(job):
        yield "$ virsh domjobinfo web1 --completed --keep-completed"
        yield from block(job.iloc[-1], raw=raw, kind="Completed")


# QMP

RAM = {key: name for name, key in qmp_format._RAM.items()}


def answer(row: pd.Series, status: str = "active") -> dict:
    """query-migrate's return."""
    ram = {name: number(row, BY_KEY[key].name) for key, name in RAM.items()}
    ram["mbps"] = number(row, "memory_bps") * 8 / 1e6
    ram |= {"precopy-bytes": ram["transferred"], "multifd-bytes": 0}
    downtime = "downtime" if status == "completed" else "expected-downtime"
    info = {"status": status, "total-time": number(row, "time_elapsed_ms"), "setup-time": number(row, "setup_time_ms"),
            downtime: number(row, "downtime_ms"), "ram": ram}  # fmt: skip
    if not pd.isna(row["auto_converge_throttle_percent"]):
        info["cpu-throttle-percentage"] = int(row["auto_converge_throttle_percent"])
    if not pd.isna(row["compression_cache_bytes"]):
        info["xbzrle-cache"] = {name: number(row, BY_KEY[key].name) for name, key in qmp_format._XBZRLE.items()}
    return {"return": info, "id": "libvirt-42"}


def event(name: str, data: dict, t_ns: int) -> str:
    """A QMP event."""
    stamp = {"seconds": t_ns // 10**9, "microseconds": t_ns % 10**9 // 1000}
    return json.dumps({"timestamp": stamp, "event": name, "data": data})


def qmp(trace: mk.Trace, *, every_ms: int = 0, stamps: bool = True, indent: int | None = None) -> Iterator[str]:
    """A stream on a QMP socket: greeting, answers, events."""
    yield '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}'
    yield event("MIGRATION", {"status": "setup"}, START_NS)
    rows = trace.samples
    chosen = active(trace, every_ms)
    chosen = chosen[(chosen["memory_total_bytes"] > 0).to_numpy(dtype=bool)]
    passes = rows[rows["event_iteration"].notna()]
    for _, row in pd.concat([chosen, passes]).sort_values("mono_ns", kind="stable").iterrows():
        t_ns = moment(trace, row)
        if not pd.isna(row["event_iteration"]):
            yield event("MIGRATION_PASS", {"pass": int(row["event_iteration"])}, t_ns)
            continue
        if stamps:
            yield f"{t_ns // 10**9}.{t_ns % 10**9:09d}"
        yield json.dumps(answer(row), indent=indent)
    job = rows[rows["source"] == "job"]
    if len(job):
        yield json.dumps(answer(job.iloc[-1], "completed"), indent=indent)
    elif len(ended(trace)):
        yield json.dumps({"return": {"status": trace.meta.end.outcome}})


# nova-compute


def nova_line(message: str, t_ns: int, level: str = "INFO", instance: str = INSTANCE) -> str:
    """A line of oslo.log, of a container; debug lines go on with where they were written."""
    module = "migration" if "downtime" in message else "driver"
    where = f" _live_migration_monitor /usr/lib/python3.9/site-packages/nova/virt/libvirt/{module}.py:10945"
    return (
        f"{wall(t_ns)}.{t_ns % 10**9 // 10**6:03d} 2 {level} nova.virt.libvirt.{module} [{REQUEST}] "
        f"[instance: {instance}] {message}{where if level == 'DEBUG' else ''}"
    )


def nova_statistics(row: pd.Series) -> str:
    """The message of nova's line of statistics."""
    n = lambda column: number(row, column)  # noqa: E731
    percent = [
        round(n(f"{what}_remaining_bytes") * 100 / n(f"{what}_total_bytes")) if n(f"{what}_total_bytes") else 100
        for what in ("memory", "disk")
    ]
    return (
        f"Migration running for {n('time_elapsed_ms') // 1000} secs, memory {percent[0]}% remaining "
        f"(bytes processed={n('memory_processed_bytes')}, remaining={n('memory_remaining_bytes')}, "
        f"total={n('memory_total_bytes')}); disk {percent[1]}% remaining (bytes processed={n('disk_processed_bytes')}, "
        f"remaining={n('disk_remaining_bytes')}, total={n('disk_total_bytes')})."
    )


def nova(trace: mk.Trace, *, every_ms: int = 5000, instance: str = INSTANCE) -> Iterator[str]:
    """nova-compute's log of a trace's migration."""
    level = "DEBUG" if every_ms < 30_000 else "INFO"
    yield nova_line("Starting monitoring of live migration", START_NS, "DEBUG", instance)
    yield nova_line("Increasing downtime to 50 ms after 0 sec elapsed time", START_NS + 10**6, instance=instance)
    for _, row in active(trace, every_ms).iterrows():
        yield nova_line(nova_statistics(row), at(row), level, instance)
    end, t_ns = trace.meta.end, START_NS + int(trace.end_ns - trace.t0_ns)
    if end.outcome == "completed":
        yield nova_line("Migration operation has completed", t_ns, instance=instance)
    elif end.outcome != "lost":
        yield nova_line(f"Live Migration failure: {end.error_text}", t_ns - 10**8, "ERROR", instance)
        yield nova_line("Migration operation has aborted", t_ns, "ERROR", instance)


# vdsm


def vdsm_line(message: str, t_ns: int, level: str = "INFO", *, thread: str = "migmon", vm: str = VM) -> str:
    """A line of vdsm's log."""
    stamp = f"{wall(t_ns)},{t_ns % 10**9 // 10**6:03d}+0000"
    return f"{stamp} {level:5} ({thread}/{vm[:8]}) [virt.vm] (vmId='{vm}') {message} (migration:1005)"


def vdsm_statistics(row: pd.Series, *, old: bool = False) -> str:
    """The message of vdsm's line of statistics; `old`: before v4.40.28, under Python 2."""
    n = lambda column: number(row, column)  # noqa: E731
    elapsed = n("time_elapsed_ms") // 1000 if old else n("time_elapsed_ms") / 1000
    left, total = n("data_remaining_bytes"), n("data_total_bytes")
    percent = 100 if not left and total else min(100 - 100 * left // total, 99) if total else 0
    speed = n("memory_bps") // MIB if old else n("memory_bps") * 8 // MIB
    missing = lambda column: -1 if pd.isna(row[column]) else n(column)  # noqa: E731
    return (
        f"Migration Progress: {elapsed} seconds elapsed, {percent}% of data processed, total data: {total // MIB}MB, "
        f"processed data: {n('data_processed_bytes') // MIB}MB, remaining data: {left // MIB}MB, "
        f"transfer speed {speed}{'MBps' if old else 'Mbps'}, zero pages: {n('memory_constant_pages')}MB, "
        f"compressed: {n('compression_bytes') // MIB}MB, dirty rate: {missing('memory_dirty_rate_pages_per_s')}, "
        f"memory iteration: {missing('memory_iteration')}"
    )


def vdsm(trace: mk.Trace, *, every_ms: int = 10_000, old: bool = False, vm: str = VM) -> Iterator[str]:
    """vdsm's log of a trace's migration."""
    say = lambda message, t_ns, *rest, **more: vdsm_line(message, t_ns, *rest, vm=vm, **more)  # noqa: E731
    yield say("starting migration to qemu+tls://h2/system with miguri tcp://10.0.0.2", START_NS, thread="migsrc")
    yield say("Setting downtime to 100", START_NS + 10**6, "DEBUG")
    for _, row in active(trace, every_ms).iterrows():
        yield say(vdsm_statistics(row, old=old), at(row))
    end, t_ns = trace.meta.end, START_NS + int(trace.end_ns - trace.t0_ns)
    if end.outcome == "completed":
        yield say(f"migration took {(t_ns - START_NS) // 10**9} seconds to complete", t_ns, thread="migsrc")
    elif end.outcome != "lost":
        yield say(end.error_text, t_ns, "ERROR", thread="migsrc")
        yield say("Failed to migrate", t_ns + 10**6, "ERROR", thread="migsrc")
