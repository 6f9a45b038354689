"""A trace's rows as NumPy columns straight from Arrow: what many traces are read through."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from migkit import parquet
from migkit.errors import MigkitError
from migkit.meta import TraceMeta
from migkit.schema import JOB_UNBOUNDED
from migkit.trace import Trace
from migkit.units import NS_PER_MS, NS_PER_S

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
        """The trace itself."""
        return Trace.from_table(self.table, self.meta, self.name)

    @functools.cached_property
    def mono_ns(self) -> npt.NDArray[np.int64]:
        """Shape (rows,)."""
        return self.table.column("mono_ns").to_numpy()

    @functools.cached_property
    def active(self) -> Bools:
        """Whether a row carries statistics of the running job, shape (rows,)."""
        return np.asarray(self.column("job_type") == JOB_UNBOUNDED)

    @functools.cached_property
    def t0_ns(self) -> int:
        """Monotonic ns at which the job began; see `Trace.t0_ns`."""
        rows = np.flatnonzero(self.active)
        if not len(rows):
            raise MigkitError(f"{self.name or 'trace'}: holds no sample of a running migration")
        elapsed_ms = self.table.column("time_elapsed_ms")[int(rows[0])].as_py() or 0
        return int(self.mono_ns[rows[0]]) - elapsed_ms * NS_PER_MS

    @functools.cached_property
    def t_s(self) -> Floats:
        """Seconds since the job began, shape (rows,)."""
        return (self.mono_ns - self.t0_ns) / NS_PER_S

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
