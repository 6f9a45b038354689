"""A trace's rows as NumPy columns straight from Arrow: what many traces are read through."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from migkit import parquet
from migkit.drivers.columns import READ, Columns, table_columns
from migkit.meta import TraceMeta
from migkit.schema import JOB_UNBOUNDED
from migkit.trace import Trace
from migkit.units import NS_PER_S

# What a sweep reads of a file: the monitor's columns, and those that outcomes are told from.
READS: Final = (
    *READ, "data_processed_bytes", "disk_total_bytes", "memory_total_bytes", "memory_normal_pages",
    "memory_constant_pages", "compression_pages", "memory_page_size_bytes",
)  # fmt: skip

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows and metadata of one trace, read like a `Trace` but without pandas."""

    name: str
    table: pa.Table
    meta: TraceMeta

    @classmethod
    def of(cls, trace: Trace) -> Rows:
        """Those of a trace in memory."""
        table = pa.Table.from_pandas(trace.samples, schema=parquet.SCHEMA, preserve_index=False)
        return cls(trace.name, table, trace.meta)

    def trace(self) -> Trace:
        """The trace itself; null in columns that were not read."""
        nulls = [pa.nulls(self.table.num_rows, field.type) for field in parquet.SCHEMA]
        known = {name: self.table.column(name) for name in self.table.column_names}
        columns = [known.get(field.name, empty) for field, empty in zip(parquet.SCHEMA, nulls, strict=True)]
        return Trace.from_table(pa.Table.from_arrays(columns, schema=parquet.SCHEMA), self.meta, self.name)

    @functools.cached_property
    def columns(self) -> Columns:
        """What a monitor's schedule and record are made of."""
        return table_columns(self.table, self.meta, self.name)

    @functools.cached_property
    def active(self) -> Bools:
        """Whether a row carries statistics of the running job, shape (rows,)."""
        types, known = self.columns.numbers["job_type"]
        running: Bools = known & (types == JOB_UNBOUNDED)
        return running

    @functools.cached_property
    def t_s(self) -> Floats:
        """Seconds since the job began, shape (rows,)."""
        return self.columns.t_ns / NS_PER_S

    def column(self, name: str) -> Floats:
        """A numeric column, NaN where it is null, shape (rows,)."""
        column = self.table.column(name)
        values = column.to_numpy() if not column.null_count else column.cast(pa.float64(), safe=False).to_numpy()
        return np.asarray(values, dtype=np.float64)

    def deeds(self) -> list[tuple[float, str, float]]:
        """What was successfully done: (seconds since the job began, action, argument or NaN)."""
        done = pc.and_(pc.is_valid(self.table["action"]), pc.fill_null(self.table["succeeded"], True))
        places = np.flatnonzero(done.to_numpy())
        chosen = self.table.select(["action", "argument"]).take(pa.array(places))
        pairs = zip(self.t_s[places], chosen["action"].to_pylist(), chosen["argument"].to_pylist(), strict=True)
        return [(float(t), what, np.nan if argument is None else float(argument)) for t, what, argument in pairs]
