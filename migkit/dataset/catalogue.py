"""The catalogue: a row a trace, from what its metadata says; no row of a trace is read for it."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd
import pyarrow as pa

from migkit.errors import MigkitError
from migkit.meta import TraceMeta
from migkit.units import MIB

_PANDAS: Final = {
    pa.int64(): pd.Int64Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
}

SCHEMA: Final = pa.schema(
    {
        "name": pa.string(),
        "place": pa.string(),
        "provenance": pa.string(),
        "origin": pa.string(),
        "outcome": pa.string(),
        "started": pa.timestamp("ns", tz="UTC"),
        "duration_s": pa.float64(),
        "downtime_ms": pa.float64(),
        "heartbeat_downtime_ms": pa.float64(),
        "iterations": pa.int64(),
        "post_copy": pa.bool_(),
        "memory_bytes": pa.int64(),
        "vcpus": pa.int64(),
        "has_vfio": pa.bool_(),
        "bandwidth_limit_bps": pa.float64(),
        "downtime_limit_ms": pa.float64(),
        "rows": pa.int64(),
        "interval_ms": pa.float64(),
        "iteration_events": pa.bool_(),
        "scenario": pa.string(),
        "limited_by": pa.string(),
        "converges": pa.bool_(),
        "fault_from_s": pa.float64(),
        "fault_until_s": pa.float64(),
        "guest_corrupted": pa.bool_(),
        "libvirt_version": pa.string(),
        "qemu_version": pa.string(),
        "accelerator": pa.string(),
        "recorder": pa.string(),
        "schema_version": pa.int64(),
    }
)
# `member` is a trace's place within a packed file, null where the file is the trace.
INDEX: Final = SCHEMA.append(pa.field("member", pa.int32()))

_TYPES: Final[dict[pa.DataType, Any]] = {
    pa.string(): str,
    pa.bool_(): bool,
    pa.int64(): int,
    pa.timestamp("ns", tz="UTC"): int,
    pa.float64(): int | float,
}


def entry(name: str, place: str, rows: int, meta: TraceMeta, member: int | None = None) -> dict[str, Any]:
    """A trace's row. Raises MigkitError, naming the trace, where its metadata has something else than a number, text
    or truth."""
    row = {"name": name, "place": place, "rows": rows, **_said(meta)}
    for column, value in row.items():
        if value is None:
            continue
        wanted = _TYPES[SCHEMA.field(column).type]
        odd = not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool)
        if odd or (isinstance(value, int) and abs(value) >= 2**63):
            raise MigkitError(f"{place}: its metadata gives {column} as {value!r}; record or import it again")
    return row | {"member": member}


def _said(meta: TraceMeta) -> dict[str, Any]:
    final, host, guest = meta.end.completed or {}, meta.host, meta.domain
    truth = meta.lab.truth if meta.lab else {}
    bandwidth = meta.migration.parameters.get("bandwidth")
    elapsed_ms = final.get("time_elapsed")
    return {
        "provenance": meta.provenance,
        "origin": meta.origin or None,
        "outcome": meta.end.outcome,
        "started": meta.migration.started_wall_ns,
        "duration_s": None if elapsed_ms is None else elapsed_ms / 1000,
        "downtime_ms": final.get("downtime"),
        "heartbeat_downtime_ms": meta.heartbeat.downtime_ms if meta.heartbeat else None,
        "iterations": final.get("memory_iteration"),
        "post_copy": _post_copy(meta),
        "memory_bytes": guest.memory_bytes,
        "vcpus": guest.vcpus,
        "has_vfio": guest.has_vfio,
        "bandwidth_limit_bps": bandwidth * MIB if isinstance(bandwidth, int | float) else bandwidth,
        "downtime_limit_ms": meta.migration.downtime_limit_ms,
        "interval_ms": meta.cadence.interval_ms,
        "iteration_events": meta.cadence.iteration_events,
        "scenario": (meta.lab.scenario or None) if meta.lab else None,
        "limited_by": truth.get("limited_by"),
        "converges": truth.get("converges"),
        "fault_from_s": truth.get("fault_from_s"),
        "fault_until_s": truth.get("fault_until_s"),
        "guest_corrupted": meta.lab.guest_corrupted if meta.lab else None,
        "libvirt_version": host.libvirt_version or None,
        "qemu_version": host.qemu_version or None,
        "accelerator": host.accelerator or None,
        "recorder": meta.cadence.recorder or None,
        "schema_version": meta.schema_version,
    }


def _post_copy(meta: TraceMeta) -> bool | None:
    """Whether it went into post-copy: it did where pages were asked for, it cannot have where it was not allowed."""
    if meta.end.outcome == "postcopy-failed":
        return True
    requests = (meta.end.completed or {}).get("memory_postcopy_requests")
    if requests is not None:
        return bool(requests)
    names = meta.migration.flag_names
    return False if names and "VIR_MIGRATE_POSTCOPY" not in names else None


def frame(index: pa.Table) -> pd.DataFrame:
    """The catalogue as a person reads it: nullable columns, null where nothing is known."""
    shown: pd.DataFrame = index.select(SCHEMA.names).to_pandas(types_mapper=_PANDAS.get)
    return shown
