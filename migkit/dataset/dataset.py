"""Many traces as one sequence that reads them when they are asked for."""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import pandas as pd
import pyarrow as pa

from migkit import conditions
from migkit.dataset import catalogue
from migkit.dataset.packing import pack
from migkit.dataset.partition import Bad, Loaded, Partition, Piece, checked, left_out, load
from migkit.dataset.places import absolute
from migkit.errors import MigkitError, UsageError, unknown
from migkit.trace import Trace

# About this many traces make a task that is worth sending to another process.
PARTITION_TRACES = 100


class Dataset(Sequence[Trace]):
    """Traces in the order of their places: by index, by slice, by name, or one after another. Made by `open_dataset`.

    Attributes:
        bad: what was left out because it could not be read, where that was allowed: (place, why).

    >>> import migkit as mk
    >>> traces = mk.open_dataset("data/traces")
    >>> traces["idle"].meta.end.outcome, len(traces[:3])
    ('completed', 3)
    """

    def __init__(self, index: pa.Table, *, bad: list[Bad] | None = None, skip_bad: bool = False) -> None:
        self.bad: list[Bad] = [] if bad is None else bad
        self._index = index
        self._skip_bad = skip_bad
        # A trace that somebody still holds is handed out again, and a packed file is not unpacked for each neighbour.
        self._alive: weakref.WeakValueDictionary[int, Trace] = weakref.WeakValueDictionary()
        self._unpacked: tuple[int, list[Loaded]] = (-1, [])

    @functools.cached_property
    def catalogue(self) -> pd.DataFrame:
        """One row a trace, from its metadata alone: name, place, provenance, outcome, duration_s, memory_bytes, the
        lab's truth ... (`migkit.dataset.catalogue.SCHEMA`); null where nothing is known."""
        return catalogue.frame(self._index)

    @functools.cached_property
    def names(self) -> list[str]:
        """The traces' names, in order."""
        found: list[str] = self._index["name"].to_pylist()
        return found

    def where(self, text: str) -> Dataset:
        """The traces whose row of the catalogue fulfils conditions, e.g. "memory >= 4 GiB, outcome == completed".

        How conditions are written is told in `migkit.conditions`. None may be left: that is no error.
        Raises UsageError for what is no condition, naming the nearest column for an unknown one.
        """
        kept = conditions.matching(self.catalogue, text)
        return self._like(self._index.filter(pa.array(kept.to_numpy(dtype=bool))))

    def partitions(self, traces: int = PARTITION_TRACES) -> list[Partition]:
        """The dataset in shares of at most so many traces, in order, none of a packed file's traces in two shares
        where that can be helped. Their places hold in every process of this machine."""
        if traces < 1:
            raise UsageError(f"partitions of {traces} traces: must be at least 1")
        shares: list[list[Piece]] = []
        room = 0
        for piece in self._cut(traces):
            if len(piece.names) > room:
                shares.append([])
                room = traces
            shares[-1].append(piece._replace(place=absolute(piece.place)))
            room -= len(piece.names)
        return [Partition(tuple(share)) for share in shares]

    def _cut(self, traces: int) -> Iterator[Piece]:
        for piece in self._pieces:
            for a in range(0, len(piece.names), traces):
                yield Piece(piece.place, piece.names[a : a + traces], piece.members[a : a + traces])

    def pack(
        self, folder: str | os.PathLike[str], *, force: bool = False, progress: Callable[[str], object] | None = None
    ) -> Path:
        """Writes the traces as a packed folder: few files with many rows each, and a catalogue that opens fast.

        Parameters: `folder`, to be made, whole or not at all; `force` replaces a packed folder that exists;
        `progress` is called with each trace's name. Raises MigkitError when it exists, when there is no trace to pack,
        when one cannot be read (unless bad ones are skipped), or when it cannot be written.
        """
        bad = self.bad if self._skip_bad else None
        return pack(self.partitions(), folder, force=force, progress=progress, bad=bad)

    @functools.cached_property
    def _pieces(self) -> list[Piece]:
        """The traces by the files they are in."""
        rows = zip(self._index["place"].to_pylist(), self.names, self._index["member"].to_pylist(), strict=True)
        pieces = []
        for place, group in itertools.groupby(rows, key=lambda row: row[0]):
            _, names, members = zip(*group, strict=True)
            pieces.append(Piece(place, names, () if members[0] is None else members))
        return pieces

    @functools.cached_property
    def _starts(self) -> list[int]:
        """At which trace each piece begins."""
        return list(itertools.accumulate((len(piece.names) for piece in self._pieces), initial=0))

    def __len__(self) -> int:
        return int(self._index.num_rows)

    @overload
    def __getitem__(self, key: int | str) -> Trace: ...
    @overload
    def __getitem__(self, key: slice) -> Dataset: ...
    def __getitem__(self, key: int | str | slice) -> Trace | Dataset:
        if isinstance(key, slice):
            return self._like(self._index.take(pa.array(range(len(self))[key], pa.int64())))
        if isinstance(key, str):
            if key not in self.names:
                raise unknown("trace", key, self.names)
            key = self.names.index(key)
        return self._trace(range(len(self))[key])

    def _trace(self, number: int) -> Trace:
        if (alive := self._alive.get(number)) is not None:
            return alive
        which = bisect.bisect_right(self._starts, number) - 1
        one = self._loaded(which)[number - self._starts[which]]
        trace = self._alive[number] = Trace.from_table(one.table, checked(one), one.name)
        return trace

    def _loaded(self, which: int) -> list[Loaded]:
        if self._unpacked[0] == which:
            return self._unpacked[1]
        loaded = load(self._pieces[which])
        if len(loaded) > 1:
            self._unpacked = (which, loaded)
        return loaded

    def __iter__(self) -> Iterator[Trace]:
        """The traces in order. One that turns out to be damaged is passed over and listed in `bad` if the dataset was
        opened so, else it is an error."""
        for number in range(len(self)):
            try:
                trace = self._trace(number)
            except MigkitError as error:
                if not self._skip_bad:
                    raise
                self._note(number, error)
                continue
            yield trace

    def _note(self, number: int, error: MigkitError) -> None:
        which = bisect.bisect_right(self._starts, number) - 1
        found = left_out(self._pieces[which].labels[number - self._starts[which]], error)
        if found not in self.bad:
            self.bad.append(found)

    def __contains__(self, item: object) -> bool:
        return item in self.names if isinstance(item, str) else super().__contains__(item)

    def _like(self, index: pa.Table) -> Dataset:
        return Dataset(index, bad=self.bad, skip_bad=self._skip_bad)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Dataset, bad=self.bad, skip_bad=self._skip_bad), (self._index,)

    def __repr__(self) -> str:
        left_out = f", {len(self.bad)} left out" if self.bad else ""
        return f"<Dataset: {len(self)} traces, {sum(self._index['rows'].to_pylist())} rows{left_out}>"
