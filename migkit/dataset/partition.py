"""A share of a dataset: some traces, small enough to be sent to another process or machine and read there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from migkit import parquet
from migkit.dataset import packed
from migkit.errors import MigkitError, unknown
from migkit.meta import TraceMeta
from migkit.trace import Trace

ALL_COLUMNS = tuple(parquet.SCHEMA.names)


class Bad(NamedTuple):
    """A trace that was left out: where it is, and why."""

    place: str
    why: str


class Piece(NamedTuple):
    """Traces of one file: their names, and their places within it; a single trace has none."""

    place: str
    names: tuple[str, ...]
    members: tuple[int, ...] = ()

    @property
    def labels(self) -> list[str]:
        """Each trace as an error calls it: the file, and for a packed one the trace in it."""
        return [f"{self.place} ({name})" for name in self.names] if self.members else [self.place]


class Loaded(NamedTuple):
    """A trace just read: its rows, and its metadata as JSON."""

    name: str
    label: str
    table: pa.Table
    text: str


@dataclass(frozen=True, slots=True)
class Partition:
    """Some traces of a dataset, as places and names: pickled it has a few kilobytes, whatever the traces have."""

    pieces: tuple[Piece, ...]

    def __len__(self) -> int:
        return sum(len(piece.names) for piece in self.pieces)

    @property
    def names(self) -> list[str]:
        """The names of its traces, in order."""
        return [name for piece in self.pieces for name in piece.names]

    def tables(
        self, columns: Sequence[str] | None = None, *, bad: list[Bad] | None = None
    ) -> Iterator[tuple[str, pa.Table, TraceMeta]]:
        """Name, rows and metadata of each trace, without pandas.

        Parameters: `columns` of the schema to read (default: all; checks of the clock need mono_ns); `bad`, a list
        that takes the traces which cannot be read, instead of an error. Raises MigkitError naming the trace.
        """
        for one, meta in self.loaded(columns, bad=bad):
            yield one.name, one.table, meta

    def loaded(
        self, columns: Sequence[str] | None = None, *, bad: list[Bad] | None = None
    ) -> Iterator[tuple[Loaded, TraceMeta]]:
        """Each trace as it was read, and its metadata; parameters as for `tables`."""
        wanted = _known(columns)
        for piece in self.pieces:
            try:
                found = load(piece, wanted)
            except MigkitError as error:
                if bad is None:
                    raise
                bad += [left_out(label, error) for label in piece.labels]
                continue
            for one in found:
                try:
                    meta = checked(one)
                except MigkitError as error:
                    if bad is None:
                        raise
                    bad.append(left_out(one.label, error))
                else:
                    yield one, meta

    def traces(self, *, bad: list[Bad] | None = None) -> Iterator[Trace]:
        """Its traces, one after another; `bad` as for `tables`."""
        for name, table, meta in self.tables(bad=bad):
            yield Trace.from_table(table, meta, name)


def load(piece: Piece, columns: Sequence[str] = ALL_COLUMNS) -> list[Loaded]:
    """Reads the traces of one file. Raises MigkitError when that cannot be done."""
    with parquet.opened(piece.place) as file:
        if not piece.members:
            text = parquet.meta_text(piece.place, file)
            return [Loaded(piece.names[0], piece.place, parquet.read_rows(piece.place, file, columns), text)]
        inside = packed.members(piece.place, file)
        table = packed.read_rows(piece.place, file, columns)
    if max(piece.members) >= len(inside):
        raise MigkitError(f"{piece.place}: holds fewer traces than the catalogue tells; pack them again")
    each = zip(piece.names, piece.labels, (inside[member] for member in piece.members), strict=True)
    return [Loaded(name, label, table.slice(one.first, one.rows), one.meta) for name, label, one in each]


def checked(one: Loaded) -> TraceMeta:
    """The metadata of a trace whose clock runs forward. Raises MigkitError, naming the trace, otherwise."""
    meta = parquet.metadata(one.label, one.text)
    parquet.check_clock(one.label, one.table)
    return meta


def left_out(label: str, error: MigkitError) -> Bad:
    """What is noted of a trace that could not be read."""
    return Bad(label, str(error).removeprefix(f"{label}: ").removeprefix(f"{file_of(label)}: "))


def file_of(label: str) -> str:
    """The file in a trace's label."""
    head, inside, _ = label.partition(".parquet (")
    return head + ".parquet" if inside else label


def _known(columns: Sequence[str] | None) -> tuple[str, ...]:
    wanted = ALL_COLUMNS if columns is None else tuple(columns)
    for name in wanted:
        if name not in ALL_COLUMNS:
            raise unknown("column", name, ALL_COLUMNS)
    return wanted
