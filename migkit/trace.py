"""One recorded migration: its rows and what is known about it."""

from __future__ import annotations

import dataclasses
import functools
import html
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from migkit import parquet
from migkit.errors import MigkitError
from migkit.failures import failure_of
from migkit.meta import TraceMeta
from migkit.schema import JOB_UNBOUNDED
from migkit.units import NS_PER_MS, NS_PER_S, format_bytes, format_ms, format_s

_PANDAS = {
    pa.int64(): pd.Int64Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
}


class Readable(Protocol):
    """What can be read of a trace, whether pandas holds its rows or not."""

    @property
    def name(self) -> str:
        """The trace's name."""
        ...

    @property
    def meta(self) -> TraceMeta:
        """Its metadata."""
        ...

    @property
    def t_s(self) -> npt.NDArray[np.float64]:
        """Seconds since the job began, shape (rows,)."""
        ...

    @property
    def active(self) -> npt.NDArray[np.bool_]:
        """Whether a row carries statistics of the running job, shape (rows,)."""
        ...

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """A numeric column, NaN where it is null, shape (rows,)."""
        ...


@dataclass(frozen=True, eq=False)
class Trace:
    """One live migration as it was observed.

    Attributes:
        samples: one row an observation, in time order; the columns of `migkit.schema.COLUMNS`, nullable dtypes,
            null where libvirt said nothing.
        meta: provenance, guest, hosts, flags, cadence, outcome (`migkit.meta.TraceMeta`).
        name: the file's name without its ending, or what the recorder was told.

    >>> import migkit as mk
    >>> trace = mk.load("data/traces/stall_link.parquet")
    >>> trace.meta.end.outcome
    'completed'
    """

    samples: pd.DataFrame
    meta: TraceMeta
    name: str = ""

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], meta: TraceMeta, name: str = "") -> Trace:
        """A trace from dictionaries, one a row; a missing key is a null."""
        return cls.from_table(parquet.table_from_rows(rows), meta, name)

    @classmethod
    def load(cls, path: str | os.PathLike[str], name: str = "") -> Trace:
        """Reads a trace; `name` it otherwise than its file.

        Raises MigkitError, naming the file, when it is none, damaged or of a newer schema."""
        table, meta = parquet.read(path)
        return cls.from_table(table, meta, name or Path(path).name.removesuffix(".parquet"))

    @classmethod
    def from_table(cls, table: pa.Table, meta: TraceMeta, name: str) -> Trace:
        return cls(table.to_pandas(types_mapper=_PANDAS.get), meta, name)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Writes the trace as Parquet. Refuses to overwrite unless `force`."""
        table = pa.Table.from_pandas(self.samples, schema=parquet.SCHEMA, preserve_index=False)
        return parquet.write(path, table, self.meta, force=force)

    def replace_meta(self, **changes: Any) -> Trace:
        """The same rows with some of the metadata's fields replaced."""
        return dataclasses.replace(self, meta=dataclasses.replace(self.meta, **changes))

    def with_rows(self, rows: Iterable[Mapping[str, Any]]) -> Trace:
        """The trace with rows added (for example `action` rows), sorted by `mono_ns`, earlier rows first on a tie."""
        added = parquet.table_from_rows(rows).to_pandas(types_mapper=_PANDAS.get)
        # pandas infers dtypes of all-null columns anew when it concatenates; Arrow does not.
        both = [
            pa.Table.from_pandas(part, schema=parquet.SCHEMA, preserve_index=False) for part in (self.samples, added)
        ]
        joined = pa.concat_tables(both).to_pandas(types_mapper=_PANDAS.get)
        ordered = joined.sort_values("mono_ns", kind="stable", ignore_index=True)
        return dataclasses.replace(self, samples=ordered)

    @functools.cached_property
    def active(self) -> npt.NDArray[np.bool_]:
        """Shape (rows,): whether the row carries job stats of the running migration."""
        return (self.samples["job_type"] == JOB_UNBOUNDED).fillna(False).to_numpy(dtype=bool)

    @functools.cached_property
    def t0_ns(self) -> int:
        """Monotonic ns at which the job began: the first active sample's time minus its `time_elapsed_ms`.

        Raises MigkitError when the trace holds no sample of a running migration.
        """
        rows = np.flatnonzero(self.active)
        if not len(rows):
            raise MigkitError(f"{self.name or 'trace'}: holds no sample of a running migration")
        first = self.samples.iloc[rows[0]]
        elapsed_ms = 0 if pd.isna(first["time_elapsed_ms"]) else int(first["time_elapsed_ms"])
        return int(first["mono_ns"]) - elapsed_ms * NS_PER_MS

    @functools.cached_property
    def t_s(self) -> npt.NDArray[np.float64]:
        """Shape (rows,): seconds since the job began."""
        return (self.samples["mono_ns"].to_numpy(dtype=np.int64) - self.t0_ns) / NS_PER_S

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """A numeric column as floats, shape (rows,), NaN where it is null."""
        return self.samples[name].to_numpy(dtype=np.float64, na_value=np.nan)

    @property
    def end_ns(self) -> int:
        """Monotonic ns of the last row."""
        return int(self.samples["mono_ns"].iloc[-1])

    def facts(self) -> dict[str, str]:
        """About eight facts for a person: what ran where, how it ended."""
        meta, guest = self.meta, self.meta.domain
        memory = format_bytes(guest.memory_bytes) if guest.memory_bytes else "unknown memory"
        versions = f"libvirt {meta.host.libvirt_version or '?'}, QEMU {meta.host.qemu_version or '?'}"
        accelerator = f", {meta.host.accelerator}" if meta.host.accelerator else ""
        bandwidth = meta.migration.parameters.get("bandwidth")
        failure = failure_of(meta.end)
        failed = {} if failure is None else {
            "failure": failure.what + (f": {failure.why}" if failure.why else ""),
            "guest is": failure.where_guest_runs,
            "to do": failure.do,
        }  # fmt: skip
        return {
            "guest": (f"{guest.name}, " if guest.name else "") + memory + (", VFIO" if guest.has_vfio else ""),
            "provenance": meta.provenance + (f" ({meta.origin})" if meta.origin else ""),
            "hypervisor": versions + accelerator,
            "bandwidth limit": f"{bandwidth} MiB/s" if bandwidth else "none known",
            "duration": format_s(self._duration_s()),
            "iterations": self._iterations(),
            "outcome": f"{meta.end.outcome}" + (f": {meta.end.error_text}" if meta.end.error_text else ""),
            "downtime": self._downtime(),
            **failed,
        }

    def _duration_s(self) -> float:
        completed = self.meta.end.completed or {}
        if "time_elapsed" in completed:
            return float(completed["time_elapsed"]) / 1000
        elapsed = self.column("time_elapsed_ms")[self.active]
        return float(np.nanmax(elapsed)) / 1000 if np.isfinite(elapsed).any() else 0.0

    def _iterations(self) -> str:
        seen = np.concatenate([self.column("memory_iteration"), self.column("event_iteration")])
        known = f"{np.nanmax(seen):.0f}" if np.isfinite(seen).any() else "unknown"
        return f"{known} by QEMU's counter, {int(self.active.sum())} samples"

    def _downtime(self) -> str:
        reported = (self.meta.end.completed or {}).get("downtime")
        said = "not reported" if reported is None else f"{format_ms(reported)} reported"
        beat = self.meta.heartbeat
        if beat is None or beat.downtime_ms is None:
            return said
        return f"{said}, {format_ms(beat.downtime_ms)} by the guest's heartbeat"

    def __repr__(self) -> str:
        return f"<Trace {self.name or 'unnamed'}: {len(self.samples)} rows, {self.meta.end.outcome}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for key, value in self.facts().items()
        )
        return f"<div><b>{html.escape(self.name or 'trace')}</b>{self._sparkline()}<table>{rows}</table></div>"

    def _sparkline(self, width: int = 240, height: int = 36) -> str:
        """Remaining data over time as a small inline SVG; empty when there is nothing to draw."""
        remaining = self.column("data_remaining_bytes")[self.active]
        t = self.t_s[self.active] if self.active.any() else np.empty(0)
        known = np.isfinite(remaining)
        if known.sum() < 2 or t[known][-1] <= t[known][0]:
            return ""
        t, remaining = t[known], remaining[known]
        keep = np.unique(np.linspace(0, len(t) - 1, 160).astype(int))
        x = (t[keep] - t[0]) / (t[-1] - t[0]) * width
        y = height - 2 - remaining[keep] / max(remaining.max(), 1) * (height - 4)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        return (
            f"<svg width='{width}' height='{height}' style='margin-left:1em;vertical-align:middle' role='img' "
            f"aria-label='remaining data over time'>"
            f"<polyline points='{points}' fill='none' stroke='currentColor'/></svg>"
        )


def load(path: str | os.PathLike[str]) -> Trace:
    """Reads one trace.

    Parameters: `path` of a trace's Parquet file. Raises MigkitError, in one line that names the file, when it is not
    a trace, is cut or damaged, or comes from a newer migkit.

    >>> import migkit as mk
    >>> mk.load("data/traces/noconverge_abort.parquet").meta.end.outcome
    'cancelled'
    """
    return Trace.load(path)
