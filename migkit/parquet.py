"""The file behind a trace: one Parquet table, migkit's metadata beside it. No pandas in here.

`pyarrow.array` and `pyarrow.parquet.read_table` import pandas; a recorder that ends must not wait for that, hence
arrays made from buffers and `ParquetFile`.
"""

from __future__ import annotations

import array
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from migkit.errors import MigkitError
from migkit.meta import TraceMeta
from migkit.schema import COLUMNS

META_KEY = b"migkit"

_ARROW = {
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "int32": pa.int32(),
    "bool": pa.bool_(),
    "string": pa.string(),
}
_TYPECODE = {"int64": "q", "uint64": "Q", "int32": "i"}
_TEXT = [c.name for c in COLUMNS if c.dtype == "string"]
_ENCODING = {c.name: "RLE" if c.dtype == "bool" else "DELTA_BINARY_PACKED" for c in COLUMNS if c.dtype != "string"}

SCHEMA = pa.schema([pa.field(c.name, _ARROW[c.dtype]) for c in COLUMNS])


def table_from_rows(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as dictionaries (a missing key is a null) into an Arrow table with the columns of the schema."""
    listed = list(rows)
    arrays = [_array(c.dtype, [row.get(c.name) for row in listed]) for c in COLUMNS]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _array(dtype: str, values: Sequence[Any]) -> pa.Array:
    present = [value is not None for value in values]
    nulls = len(values) - sum(present)
    validity = None if nulls == 0 else pa.py_buffer(_bits(present))
    if dtype == "string":
        encoded = [b"" if value is None else str(value).encode() for value in values]
        offsets = array.array("i", itertools.accumulate(map(len, encoded), initial=0))
        return pa.StringArray.from_buffers(
            len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)), validity, nulls
        )
    if dtype == "bool":
        data: Any = _bits([bool(value) for value in values])
    else:
        data = array.array(_TYPECODE[dtype], [0 if value is None else value for value in values])
    return pa.Array.from_buffers(_ARROW[dtype], len(values), [validity, pa.py_buffer(data)], nulls)


def text_array(words: Sequence[str]) -> pa.Array:
    """Words as an Arrow array; pandas stays out of it."""
    return _array("string", words)


def _bits(flags: Sequence[bool]) -> bytes:
    packed = bytearray((len(flags) + 7) // 8)
    for index, flag in enumerate(flags):
        if flag:
            packed[index >> 3] |= 1 << (index & 7)
    return bytes(packed)


def write(path: str | os.PathLike[str], table: pa.Table, meta: TraceMeta, *, force: bool = False) -> Path:
    """Writes a trace whole or not at all: a temporary file beside it, synced, then renamed.

    Raises MigkitError when the file exists (unless `force`), when its folder is missing, or when the disk is full.
    """
    target = Path(path)
    if target.exists() and not force:
        raise MigkitError(f"{target}: exists already; choose another name or pass --force")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _write_table(part, table, meta)
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise MigkitError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def _write_table(path: Path, table: pa.Table, meta: TraceMeta) -> None:
    with open(path, "wb") as sink:
        with pq.ParquetWriter(
            sink,
            table.schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=_TEXT,
            column_encoding=_ENCODING,
            write_statistics=False,
            store_schema=False,
            write_page_checksum=True,
        ) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({META_KEY: meta.to_json().encode()})
        sink.flush()
        os.fsync(sink.fileno())


def read(path: str | os.PathLike[str]) -> tuple[pa.Table, TraceMeta]:
    """The rows of a trace as an Arrow table in the schema's columns, and its metadata.

    Raises MigkitError when it is not a trace, is cut or damaged, lacks columns, or comes from a newer schema.
    """
    with _open(path) as file:
        meta = _metadata(path, file)
        try:
            table = file.read()
        except (OSError, pa.ArrowException) as error:
            raise MigkitError(
                f"{path}: the file is damaged ({_first_line(error)}); restore it or record again"
            ) from None
    return _conform(path, table), meta


def read_meta(path: str | os.PathLike[str]) -> tuple[int, TraceMeta]:
    """The number of rows and the metadata of a trace, from its footer alone."""
    with _open(path) as file:
        return file.metadata.num_rows, _metadata(path, file)


def _open(path: str | os.PathLike[str]) -> pq.ParquetFile:
    if os.path.isdir(path):
        raise MigkitError(f"{path}: is a folder, not a trace")
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise MigkitError(f"{path}: no such file") from None
    except PermissionError:
        raise MigkitError(f"{path}: no permission to read it") from None
    except (OSError, pa.ArrowException) as error:
        raise MigkitError(f"{path}: not a trace, or cut short ({_first_line(error)})") from None


def _metadata(path: str | os.PathLike[str], file: pq.ParquetFile) -> TraceMeta:
    stored = file.metadata.metadata or {}
    if META_KEY not in stored:
        raise MigkitError(f"{path}: a Parquet file, but not a trace of migkit (no 'migkit' metadata)")
    try:
        return TraceMeta.from_json(stored[META_KEY])
    except MigkitError as error:
        raise MigkitError(f"{path}: {error}") from None


def _conform(path: str | os.PathLike[str], table: pa.Table) -> pa.Table:
    """Older traces lack newer columns: those are null. A column of the wrong type or an unknown one is refused."""
    unknown = sorted(set(table.column_names) - set(SCHEMA.names))
    if unknown:
        raise MigkitError(f"{path}: column {unknown[0]!r} is not in migkit's schema; was the file edited?")
    missing = {"mono_ns", "wall_ns", "source"} - set(table.column_names)
    if missing:
        raise MigkitError(f"{path}: column {min(missing)!r} is missing; was the file edited?")
    columns = []
    for field in SCHEMA:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        if column.type != field.type:
            raise MigkitError(f"{path}: column {field.name!r} is {column.type}, not {field.type}; was the file edited?")
        columns.append(column)
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    _check_clock(path, table)
    return table


# Longer than any migration: a clock that jumped, or a column of another unit.
_LONGEST_NS = 14 * 24 * 3600 * 10**9


def _check_clock(path: str | os.PathLike[str], table: pa.Table) -> None:
    """Rows are in time order and within two weeks; a job is no older than that."""
    if not table.num_rows:
        return
    times = table.column("mono_ns").combine_chunks()
    steps = pc.pairwise_diff(times)
    if (pc.min(steps).as_py() or 0) < 0:
        row = pc.index(pc.less(steps, 0), True).as_py()
        raise MigkitError(f"{path}: row {row}: mono_ns goes back; were rows sorted or joined by hand?")
    span_ns = times[-1].as_py() - times[0].as_py()
    if span_ns > _LONGEST_NS:
        raise MigkitError(f"{path}: its rows span {span_ns / 8.64e13:.0f} days; is mono_ns in nanoseconds?")
    elapsed = pc.max(table.column("time_elapsed_ms")).as_py()
    if elapsed is not None and elapsed * 10**6 > _LONGEST_NS:
        raise MigkitError(f"{path}: time_elapsed_ms reaches {elapsed}: that is more than two weeks; is it in ms?")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
