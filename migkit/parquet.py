"""The file behind a trace: one Parquet table, migkit's metadata beside it. No pandas in here.

`pyarrow.array` and `pyarrow.parquet.read_table` import pandas; a recorder that ends must not wait for that, hence
arrays made from buffers and `ParquetFile`.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from migkit import remote
from migkit.errors import MigkitError
from migkit.meta import TraceMeta
from migkit.schema import COLUMNS, LONGEST_MS
from migkit.units import NS_PER_MS

META_KEY = b"migkit"
# In the place of that, what a file with many traces has.
TRACES_KEY = b"migkit-traces"

_ARROW = {
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "int32": pa.int32(),
    "bool": pa.bool_(),
    "string": pa.string(),
}
_TYPECODE = {"int64": "q", "uint64": "Q", "int32": "i"}

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
    with writing(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({META_KEY: meta.to_json().encode()})


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer of rows in migkit's encodings; what it wrote is synced at the end."""
    text = [field.name for field in schema if field.type == pa.string()]
    encoding = {field.name: "RLE" for field in schema if field.type == pa.bool_()}
    encoding |= {field.name: "DELTA_BINARY_PACKED" for field in schema if pa.types.is_integer(field.type)}
    with open(path, "wb") as sink:
        with pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=text,
            column_encoding=encoding,
            write_statistics=False,
            store_schema=False,
            write_page_checksum=True,
        ) as writer:
            yield writer
        sink.flush()
        os.fsync(sink.fileno())


def read(path: str | os.PathLike[str]) -> tuple[pa.Table, TraceMeta]:
    """The rows of a trace as an Arrow table in the schema's columns, and its metadata. `path` may be a URL.

    Raises MigkitError when it is not a trace, is cut or damaged, lacks columns, or comes from a newer schema.
    """
    with opened(path) as file:
        meta = metadata(path, meta_text(path, file))
        table = read_rows(path, file)
    check_clock(path, table)
    return table, meta


def read_meta(path: str | os.PathLike[str]) -> tuple[int, TraceMeta]:
    """The number of rows and the metadata of a trace, from its footer alone."""
    with opened(path) as file:
        return file.metadata.num_rows, metadata(path, meta_text(path, file))


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[pq.ParquetFile]:
    """A Parquet file, its footer read and its pages to be checked. Raises MigkitError when it is none, or cut."""
    if os.path.isdir(path):
        raise MigkitError(f"{path}: is a folder, not a trace")
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(remote.opened(path)) if remote.is_url(path) else path
            file = stack.enter_context(pq.ParquetFile(source, page_checksum_verification=True))
        except FileNotFoundError:
            raise MigkitError(f"{path}: no such file") from None
        except PermissionError:
            raise MigkitError(f"{path}: no permission to read it") from None
        except (OSError, pa.ArrowException) as error:
            raise MigkitError(f"{path}: not a trace, or cut short ({_first_line(error)})") from None
        yield file


def footer(file: pq.ParquetFile) -> Mapping[bytes, bytes]:
    """What is written into the file besides its columns."""
    return file.metadata.metadata or {}


def meta_text(path: str | os.PathLike[str], file: pq.ParquetFile) -> str:
    """A trace's metadata as the JSON that its file has. Raises MigkitError when the file is no trace."""
    text = footer(file).get(META_KEY)
    if text is None and TRACES_KEY in footer(file):
        raise MigkitError(f"{path}: holds many traces: mk.open_dataset opens it")
    if text is None:
        raise MigkitError(f"{path}: a Parquet file, but not a trace of migkit (no 'migkit' metadata)")
    return text.decode(errors="replace")


def metadata(path: str | os.PathLike[str], text: str) -> TraceMeta:
    """The metadata of the trace at `path` from its JSON. Raises MigkitError, naming the trace."""
    try:
        return TraceMeta.from_json(text)
    except MigkitError as error:
        raise MigkitError(f"{path}: {error}") from None


def read_rows(
    path: str | os.PathLike[str],
    file: pq.ParquetFile,
    columns: Sequence[str] = tuple(SCHEMA.names),
    *,
    besides: Sequence[str] = (),
) -> pa.Table:
    """The chosen columns of the schema, in their order; those that an older file lacks are null.

    Raises MigkitError for damage, for a column of the wrong type and for one that is neither in the schema nor in
    `besides`.
    """
    stored = file.schema_arrow
    _check_columns(path, stored, besides)
    try:
        table = file.read([name for name in columns if name in stored.names])
    except (OSError, pa.ArrowException) as error:
        raise MigkitError(f"{path}: the file is damaged ({_first_line(error)}); restore it or record again") from None
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    if table.schema.names == schema.names:
        return table
    arrays = [table[f.name] if f.name in table.schema.names else pa.nulls(table.num_rows, f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _check_columns(path: str | os.PathLike[str], stored: pa.Schema, besides: Sequence[str]) -> None:
    """A column of the wrong type or an unknown one is refused; only columns that came later may be missing."""
    unknown = sorted(set(stored.names) - set(SCHEMA.names) - set(besides))
    if unknown:
        raise MigkitError(f"{path}: column {unknown[0]!r} is not in migkit's schema; was the file edited?")
    missing = {"mono_ns", "wall_ns", "source"} - set(stored.names)
    if missing:
        raise MigkitError(f"{path}: column {min(missing)!r} is missing; was the file edited?")
    for field in stored:
        if field.name in SCHEMA.names and field.type != (wanted := SCHEMA.field(field.name).type):
            raise MigkitError(f"{path}: column {field.name!r} is {field.type}, not {wanted}; was the file edited?")


_LONGEST_NS = LONGEST_MS * NS_PER_MS


def check_clock(path: str | os.PathLike[str], table: pa.Table) -> None:
    """Rows are in time order and within two weeks; a job is no older than that. Columns that were not read pass."""
    if table.num_rows and "mono_ns" in table.schema.names:
        _check_times(path, table["mono_ns"].combine_chunks())
    elapsed = pc.max(table["time_elapsed_ms"]).as_py() if "time_elapsed_ms" in table.schema.names else None
    if elapsed is not None and elapsed * 10**6 > _LONGEST_NS:
        raise MigkitError(f"{path}: time_elapsed_ms reaches {elapsed}: that is more than two weeks; is it in ms?")


def _check_times(path: str | os.PathLike[str], times: pa.Array) -> None:
    steps = pc.pairwise_diff(times)
    if (pc.min(steps).as_py() or 0) < 0:
        row = pc.index(pc.less(steps, 0), True).as_py()
        raise MigkitError(f"{path}: row {row}: mono_ns goes back; were rows sorted or joined by hand?")
    span_ns = times[-1].as_py() - times[0].as_py()
    if span_ns > _LONGEST_NS:
        raise MigkitError(f"{path}: its rows span {span_ns / 8.64e13:.0f} days; is mono_ns in nanoseconds?")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
