"""A packed file: the rows of many traces one after another, and what is known about each in its footer.

The rows are migkit's columns behind a column `trace`, so that other tools can read them too. The footer's key
`migkit-traces` holds, as JSON, deflated and in base64, for each trace in order its name, how many rows it has and its
metadata, the text that a file of its own would have. A packed folder holds such files and a catalogue of them
(`_catalogue.parquet`), a row a trace, which alone is read to open it.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from migkit import parquet
from migkit.dataset import catalogue
from migkit.dataset.places import CATALOGUE
from migkit.errors import MigkitError
from migkit.schema import SCHEMA_VERSION

CATALOGUE_KEY: Final = b"migkit-catalogue"
VERSION: Final = 1
NAME_COLUMN: Final = "trace"
_SCHEMA: Final = parquet.SCHEMA.insert(0, pa.field(NAME_COLUMN, pa.string()))


class Member(NamedTuple):
    """One trace of a packed file: its rows are `rows` from `first` on, its metadata is JSON."""

    name: str
    rows: int
    first: int
    meta: str


def members(place: str, file: pq.ParquetFile) -> list[Member]:
    """The traces of a packed file, in the order of their rows. Raises MigkitError when its footer is damaged."""
    try:
        told = json.loads(zlib.decompress(base64.b64decode(parquet.footer(file)[parquet.TRACES_KEY])))
        version, listed = int(told["version"]), told["traces"]
        if version > VERSION:
            raise MigkitError(f"{place}: packed by a newer migkit (version {version} of the format): update migkit")
        firsts = itertools.accumulate((rows for _, rows, _ in listed), initial=0)
        each = zip(listed, firsts, strict=False)
        found = [Member(str(name), int(rows), first, str(meta)) for (name, rows, meta), first in each]
    except (KeyError, ValueError, TypeError, zlib.error) as error:
        raise MigkitError(f"{place}: the list of its traces is damaged ({error}); pack them again") from None
    if sum(member.rows for member in found) != file.metadata.num_rows:
        raise MigkitError(f"{place}: holds other rows than it tells of; pack the traces again")
    return found


def read_rows(place: str, file: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    """The chosen columns of all its traces."""
    return parquet.read_rows(place, file, columns, besides=[NAME_COLUMN])


def write(path: Path, traces: Sequence[tuple[str, pa.Table, str]]) -> None:
    """A packed file of traces, each given as its name, rows and metadata: one row group."""
    told = {"version": VERSION, "traces": [(name, table.num_rows, meta) for name, table, meta in traces]}
    packed = base64.b64encode(zlib.compress(json.dumps(told, separators=(",", ":")).encode(), 9))
    table = pa.concat_tables([table for _, table, _ in traces]).combine_chunks()
    counts = [table.num_rows for _, table, _ in traces]
    names = pa.array([name for name, _, _ in traces], pa.string())
    named = table.add_column(0, NAME_COLUMN, names.take(pa.array(np.repeat(np.arange(len(counts)), counts))))
    with parquet.writing(path, _SCHEMA) as writer:
        writer.write_table(named, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata({parquet.TRACES_KEY: packed})


def write_catalogue(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """The catalogue of the packed files in a folder; places are their names."""
    index = pa.Table.from_pylist(list(rows), schema=catalogue.INDEX)
    sizes = {place: (folder / place).stat().st_size for place in index["place"].unique().to_pylist()}
    told = json.dumps({"version": VERSION, "sizes": sizes}, separators=(",", ":"))
    with parquet.writing(folder / CATALOGUE, catalogue.INDEX) as writer:
        writer.write_table(index)
        writer.add_key_value_metadata({CATALOGUE_KEY: told.encode()})


def read_catalogue(place: str) -> tuple[pa.Table, dict[str, int]]:
    """The catalogue of a packed folder, its places still the files' names, and the files' sizes by their names.

    Raises MigkitError when it is damaged, or written by a newer migkit.
    """
    with parquet.opened(place) as file:
        if CATALOGUE_KEY not in parquet.footer(file):
            raise MigkitError(f"{place}: is not the catalogue of a packed folder; rename it or pack the traces again")
        try:
            told = json.loads(parquet.footer(file)[CATALOGUE_KEY])
            if int(told["version"]) > VERSION:
                raise MigkitError(f"{place}: packed by a newer migkit: update migkit")
            table = file.read()
            missing = [field for field in catalogue.INDEX if field.name not in table.column_names]
            for field in missing:
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
            return table.select(catalogue.INDEX.names).cast(catalogue.INDEX), dict(told["sizes"])
        except (KeyError, ValueError, TypeError, OSError, pa.ArrowException) as error:
            raise MigkitError(f"{place}: the catalogue is damaged ({error}); pack the traces again") from None


def newer(index: pa.Table) -> Iterator[tuple[int, str]]:
    """The rows of a catalogue whose trace this migkit cannot read, each with the reason."""
    for row, version in enumerate(index["schema_version"].to_pylist()):
        if version > SCHEMA_VERSION:
            yield row, f"has schema version {version}, this migkit reads up to {SCHEMA_VERSION}: update migkit"


def is_packed(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a packed one."""
    return os.path.isfile(os.path.join(folder, CATALOGUE))
