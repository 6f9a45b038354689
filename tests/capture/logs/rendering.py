"""Recorded migrations as KubeVirt would have logged them, and as Prometheus would have answered.

Format strings are those of kubevirt/kubevirt, see migkit/capture/logs/kubevirt_lines.py; A to D are the forms of
v0.55.0, v1.0.1, v1.2.1 and v1.9.0.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator

import pandas as pd

import migkit as mk

MIB = 1024 * 1024
UID = "0b7c9a10-1f66-4d0c-9b1e-2f6f3c1c9a55"
VMI_UID = "9f0f7a52-88b6-4c5b-8a63-6d5a6a0f4b11"
START_NS = 1_714_990_270_000_000_000
GUEST = {"kind": "VirtualMachineInstance", "name": "web1", "namespace": "prod", "uid": VMI_UID}


def envelope(msg: str, t_ns: int, *, level: str = "info", guest: dict = GUEST, **more: object) -> str:
    """A line of KubeVirt's logger: keys in the order of the alphabet, times in microseconds."""
    moment = datetime.datetime.fromtimestamp(t_ns / 1e9, datetime.UTC)
    said = {"component": "virt-launcher", "level": level, "msg": msg, "pos": "live-migration-source.go:1000",
            "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), **guest, **more}  # fmt: skip
    return json.dumps(dict(sorted(said.items())), separators=(",", ":"))


def number(row: pd.Series, column: str) -> int:
    """Go prints 0 for what libvirt did not say."""
    return 0 if pd.isna(row[column]) else int(row[column])


def statistics(row: pd.Series, form: str, *, uid: str = UID, final: bool = False) -> str:
    """The message of a line of statistics in form A, B, C or D."""
    scale, unit = (1, "B") if form == "A" else (MIB, "MiB")
    rate = {"A": lambda b: b, "B": lambda b: b // 8 // 1_000_000}.get(form, lambda b: b * 8 // 1_000_000)
    rate_unit, disk = ("B/s", "DiskBps") if form == "A" else ("Mbps", "DiskMbps")
    n = lambda column: number(row, column)  # noqa: E731
    dirty = n("memory_dirty_rate_pages_per_s") * n("memory_page_size_bytes")
    downtime = f"ExpectedDowntime:{n('downtime_ms')}ms"
    if final and n("downtime_net_ms"):
        downtime = f"Downtime:{n('downtime_ms')}ms DowntimeNet:{n('downtime_net_ms')}ms"
    ratio = ""
    if form == "D" and n("memory_normal_bytes") > n("data_processed_bytes") > 0:
        ratio = f" CompressionRatio:{n('memory_normal_bytes') / n('data_processed_bytes'):.2f}x"
    return (
        f"Migration info for {uid}: TimeElapsed:{n('time_elapsed_ms')}ms "
        f"DataProcessed:{n('data_processed_bytes') // scale}{unit} "
        f"DataRemaining:{n('data_remaining_bytes') // scale}{unit} DataTotal:{n('data_total_bytes') // scale}{unit} "
        f"MemoryProcessed:{n('memory_processed_bytes') // scale}{unit} "
        f"MemoryRemaining:{n('memory_remaining_bytes') // scale}{unit} "
        f"MemoryTotal:{n('memory_total_bytes') // scale}{unit} "
        f"MemoryBandwidth:{rate(n('memory_bps'))}{rate_unit} DirtyRate:{rate(dirty)}{rate_unit} "
        f"Iteration:{n('memory_iteration')} PostcopyRequests:{n('memory_postcopy_requests')} "
        f"ConstantPages:{n('memory_constant_pages')} NormalPages:{n('memory_normal_pages')} "
        f"NormalData:{n('memory_normal_bytes') // scale}{unit} {downtime} {disk}:{rate(n('disk_bps'))}{ratio}"
    )


def sampled(trace: mk.Trace, every_ms: int = 4000) -> pd.DataFrame:
    """The samples that a monitor writes: of its polls 400 ms apart each tenth."""
    rows = trace.samples[trace.active & (trace.samples["source"] == "poll").to_numpy()]
    rows = rows[rows["time_elapsed_ms"].notna()]
    due = rows["time_elapsed_ms"] // every_ms
    return rows[(due > due.shift(fill_value=0)).to_numpy(dtype=bool)]


def kubevirt(trace: mk.Trace, form: str, *, uid: str = UID, guest: dict = GUEST, stall: bool = False) -> Iterator[str]:
    """The log of a trace's migration. `stall`: as with stall detection, every iteration too."""
    yield envelope("Initiating live migration.", START_NS, guest=guest)
    chosen = sampled(trace)
    if stall:
        boundary = trace.samples[(trace.samples["source"] == "iteration") & trace.samples["job_type"].eq(2)]
        chosen = pd.concat([chosen, boundary]).sort_values("mono_ns", kind="stable")
    iteration = 0
    for _, row in chosen.iterrows():
        more = {}
        if stall:
            is_event = row["source"] == "iteration"
            iteration = int(row["event_iteration"]) if is_event else iteration
            more = {"source": "event" if is_event else "poll", "iteration": iteration}
        t_ns = START_NS + number(row, "time_elapsed_ms") * 1_000_000
        yield envelope(statistics(row, form, uid=uid), t_ns, guest=guest, **more)
    end = trace.meta.end
    job = trace.samples[trace.samples["source"] == "job"]
    if form == "D" and len(job):
        last = job.iloc[-1]
        t_ns = START_NS + number(last, "time_elapsed_ms") * 1_000_000
        yield envelope(statistics(last, form, uid=uid, final=True), t_ns, guest={})
    t_ns = START_NS + int(trace.end_ns - trace.t0_ns)
    if end.outcome == "completed":
        yield envelope("Live migration succeeded.", t_ns, guest=guest)
    elif end.outcome != "lost":
        yield envelope("Live migration failed.", t_ns, level="error", guest=guest, reason=end.error_text)


METRICS = {
    "kubevirt_vmi_migration_data_remaining_bytes": "data_remaining_bytes",
    "kubevirt_vmi_migration_data_processed_bytes": "data_processed_bytes",
    "kubevirt_vmi_migration_data_bytes_total": "data_total_bytes",
    "kubevirt_vmi_migration_memory_transfer_rate_bytes": "memory_bps",
    "kubevirt_vmi_migration_dirty_memory_rate_bytes": "dirty",
}


def prometheus(trace: mk.Trace, **labels: str) -> dict:
    """An answer to a range selector: virt-handler samples every 5 s, with times of its own."""
    rows = sampled(trace, 5000)
    known = {"namespace": "prod", "name": "web1", "node": "node01", **labels}
    result = []
    for metric, column in METRICS.items():
        values = []
        for _, row in rows.iterrows():
            dirty = number(row, "memory_dirty_rate_pages_per_s") * number(row, "memory_page_size_bytes")
            if column != "dirty" and pd.isna(row[column]):
                continue
            t_ms = START_NS // 1_000_000 + number(row, "time_elapsed_ms")
            values.append([t_ms / 1000, str(dirty if column == "dirty" else int(row[column]))])
        result.append({"metric": {"__name__": metric, **known}, "values": values})
    start = [[START_NS / 1e9 + 1, str(START_NS // 1_000_000_000)]]
    result.append({"metric": {"__name__": "kubevirt_vmi_migration_start_time_seconds", **known}, "values": start})
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def scrapes(answer: dict, *, stamped: bool) -> list[str]:
    """The same as text of /metrics, a scrape at every sample: with timestamps of its own and the last ten samples over
    again, as virt-handler gives them, or with a line of `date` before each."""
    lines: list[str] = []
    moments = sorted({pair[0] for one in answer["data"]["result"] for pair in one["values"]})
    for number, now in enumerate(moments):
        if not stamped:
            lines.append(datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="milliseconds"))
        lines += ["# TYPE go_goroutines gauge", "go_goroutines 51"]
        shown = moments[max(number - 9, 0) : number + 1] if stamped else [now]
        for one in answer["data"]["result"]:
            labels = ",".join(f'{key}="{value}"' for key, value in one["metric"].items() if key != "__name__")
            for moment, value in one["values"]:
                if moment in shown:
                    behind = f" {round(moment * 1000)}" if stamped else ""
                    lines.append(f"{one['metric']['__name__']}{{{labels}}} {float(value)!r}{behind}")
    return lines
