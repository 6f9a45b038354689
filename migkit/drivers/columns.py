"""The columns of a trace that a monitor's schedule and record are made of, as NumPy arrays.

From a `Trace`, or straight from an Arrow table: the second way makes ten thousand traces ready without pandas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from migkit import parquet
from migkit.drivers.monitor import ACTIONS
from migkit.errors import MigkitError
from migkit.meta import TraceMeta
from migkit.schema import JOB_UNBOUNDED, SOURCES
from migkit.trace import Trace
from migkit.units import NS_PER_MS

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Known = tuple[Ints, Bools]

NUMBERS = (
    "mono_ns", "latency_us", "job_type", "time_elapsed_ms", "data_remaining_bytes", "memory_iteration", "memory_bps",
    "event_iteration", "event_lag_us", "domain_state", "domain_reason", "lifecycle_event", "lifecycle_detail",
    "argument", "succeeded", "error_code",
)  # fmt: skip
_ACTIONS = tuple(ACTIONS.values())
# What the arrays are made of: columns to ask an Arrow file for.
READ = (*NUMBERS, "source", "action")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """One trace, a place an array for each row.

    Attributes:
        t0_ns: monotonic ns at which the job began.
        t_ns: shape (rows,), since then.
        source: shape (rows,), index into `schema.SOURCES`.
        numbers: by column, its values (unsigned ones by their bits, 0 for null) and where there are any.
        actions: (ns since the job began, action, argument, succeeded) of what was really done of the kinds that a
            monitor does; succeeded where nobody said otherwise.
    """

    name: str
    meta: TraceMeta
    t0_ns: int
    t_ns: Ints
    source: Ints
    numbers: Mapping[str, Known]
    actions: list[tuple[int, str, int | None, bool]]

    def came_from(self, source: str) -> Bools:
        """Shape (rows,): whether the row is of this source."""
        found: Bools = self.source == SOURCES.index(source)
        return found


def columns(trace: Trace) -> Columns:
    """The columns of a trace. Raises MigkitError when it holds no sample of a running migration."""
    samples = trace.samples

    def number(name: str) -> Known:
        column = samples[name]
        unsigned = str(column.dtype) == "UInt64"
        values = column.to_numpy(dtype=np.uint64 if unsigned else np.int64, na_value=0)
        return values.view(np.int64) if unsigned else values, column.notna().to_numpy(dtype=bool)

    def place(name: str, words: Sequence[str]) -> Ints:
        return pd.Index(words).get_indexer(pd.Index(samples[name].astype(object))).astype(np.int64)

    return _made(trace.name, trace.meta, number, place)


def table_columns(table: pa.Table, meta: TraceMeta, name: str = "") -> Columns:
    """The columns of a trace from its rows as an Arrow table with at least the columns of READ. Raises MigkitError
    when it holds no sample of a running migration."""

    def number(name: str) -> Known:
        return _arrow_number(table.column(name))

    def place(name: str, words: Sequence[str]) -> Ints:
        found = pc.index_in(table.column(name), value_set=parquet.text_array(words))
        places, known = _arrow_number(found)
        return np.where(known, places, -1)

    return _made(name, meta, number, place)


def _arrow_number(column: pa.ChunkedArray) -> Known:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    validity, data = whole.buffers()
    begin, end = whole.offset, whole.offset + len(whole)
    known = np.ones(len(whole), dtype=bool) if validity is None else _bits(validity, begin, end)
    if pa.types.is_boolean(whole.type):
        return (_bits(data, begin, end) & known).astype(np.int64), known
    values = np.frombuffer(data, dtype=whole.type.to_pandas_dtype(), count=end)[begin:]
    signed = values.view(np.int64) if values.dtype == np.uint64 else values.astype(np.int64, copy=False)
    return np.where(known, signed, 0), known


def _bits(buffer: Any, begin: int, end: int) -> Bools:
    return np.unpackbits(np.frombuffer(buffer, dtype=np.uint8), count=end, bitorder="little")[begin:].astype(bool)


def _made(
    name: str, meta: TraceMeta, number: Callable[[str], Known], place: Callable[[str, Sequence[str]], Ints]
) -> Columns:
    numbers = {column: number(column) for column in NUMBERS}
    t0_ns = _begin_ns(numbers)
    if t0_ns is None:
        raise MigkitError(f"{name or 'trace'}: holds no sample of a running migration")
    t_ns = numbers["mono_ns"][0] - t0_ns
    return Columns(
        name=name, meta=meta, t0_ns=t0_ns, t_ns=t_ns, source=place("source", SOURCES), numbers=numbers,
        actions=_actions(t_ns, numbers, place("action", _ACTIONS)),
    )  # fmt: skip


def _begin_ns(numbers: Mapping[str, Known]) -> int | None:
    """As `Trace.t0_ns`: the first active sample's time without what it had elapsed."""
    types, known = numbers["job_type"]
    rows = np.flatnonzero(known & (types == JOB_UNBOUNDED))
    if not len(rows):
        return None
    return int(numbers["mono_ns"][0][rows[0]]) - int(numbers["time_elapsed_ms"][0][rows[0]]) * NS_PER_MS


def _actions(t_ns: Ints, numbers: Mapping[str, Known], which: Ints) -> list[tuple[int, str, int | None, bool]]:
    (arguments, given), (succeeded, told) = numbers["argument"], numbers["succeeded"]
    return [
        (int(t_ns[i]), _ACTIONS[which[i]], int(arguments[i]) if given[i] else None, bool(succeeded[i] or not told[i]))
        for i in np.flatnonzero(which >= 0)
    ]
