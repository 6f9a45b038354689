"""From places to a dataset: catalogues of packed folders and footers of files, told apart by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from migkit import parquet, remote
from migkit.dataset import catalogue, packed
from migkit.dataset.dataset import Dataset
from migkit.dataset.partition import Bad, file_of, left_out
from migkit.dataset.places import CATALOGUE, Found, folder_name, found_files, parent, stem
from migkit.errors import MigkitError, UsageError

# A remote store answers late and to many at once; a local footer is all work of one processor.
_REMOTE_THREADS = 16


def open_dataset(*places: str | os.PathLike[str], skip_bad: bool = False) -> Dataset:
    """Opens the traces at `places`: files, folders, packed folders or files, and URLs of them (s3://, memory:// ...).

    Only footers and catalogues are read; traces follow when they are asked for. Traces of one name are told apart by
    their folders' names. With `skip_bad` files that are no traces are left out and listed in the dataset's `bad`.

    Raises MigkitError, naming the file, for a place without traces or given twice, for a file that is no trace or of
    a newer migkit (unless `skip_bad`), and for two traces of one name in folders of one name.

    >>> import migkit as mk
    >>> len(mk.open_dataset("data/traces").where("outcome == completed")) >= 6
    True
    """
    if not places:
        raise UsageError("open_dataset: needs a file, folder or URL of traces")
    bad: list[Bad] = []
    index = pa.concat_tables(_indexes(found_files(*places), bad))
    if bad and not skip_bad:
        raise MigkitError(f"{file_of(bad[0].place)}: {bad[0].why}")
    return Dataset(_told_apart(index), bad=bad, skip_bad=skip_bad)


def _indexes(files: list[Found], bad: list[Bad]) -> Iterator[pa.Table]:
    """Catalogues, each with its folder's files taken out, and what the footers of all other files tell."""
    folders = {parent(file.place): file for file in files if stem(file.place) == stem(CATALOGUE)}
    sizes = {file.place: file.size_bytes for file in files}
    rest: list[Found] = []
    for file in files:
        folder = parent(file.place)
        if folders.get(folder) is file:
            yield _of_footers(rest, bad)
            rest = []
            index, known = _of_catalogue(file, sizes, bad)
            yield index
            sizes = {place: size for place, size in sizes.items() if place not in known}
        elif file.place in sizes:
            rest.append(file)
    yield _of_footers(rest, bad)


def _of_catalogue(file: Found, sizes: dict[str, int], bad: list[Bad]) -> tuple[pa.Table, set[str]]:
    """The traces that a catalogue tells of and that can be read, and the files that they are in."""
    folder = parent(file.place)
    try:
        index, parts = packed.read_catalogue(file.place)
    except MigkitError as error:
        bad.append(left_out(file.place, error))
        return _table([]), set()
    places = [f"{folder}/{name}" for name in index["place"].to_pylist()]
    refused = dict(packed.newer(index))
    for row, place in enumerate(places):
        if sizes.get(place) != parts[place.rpartition("/")[2]]:
            refused[row] = "is missing" if place not in sizes else "is not the file that the catalogue tells of"
            refused[row] += "; restore it or pack the traces again"
    names = index["name"].to_pylist()
    bad += [Bad(f"{places[row]} ({names[row]})", why) for row, why in sorted(refused.items())]
    index = index.set_column(1, "place", pa.array(places, pa.string()))
    kept = [row not in refused for row in range(len(places))]
    return index.filter(pa.array(kept)) if refused else index, set(places)


def _of_footers(files: list[Found], bad: list[Bad]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for found in _read(file.place for file in files):
        if isinstance(found, Bad):
            bad.append(found)
        else:
            rows += found
    return _table(rows)


def _read(places: Iterable[str]) -> Iterator[list[dict[str, Any]] | Bad]:
    listed = list(places)
    if not any(map(remote.is_url, listed)):
        yield from map(_entries, listed)
        return
    with ThreadPoolExecutor(_REMOTE_THREADS) as threads:
        yield from threads.map(_entries, listed)


def _entries(place: str) -> list[dict[str, Any]] | Bad:
    """The rows of the catalogue that one file brings, or why it brings none."""
    try:
        with parquet.opened(place) as file:
            told = parquet.footer(file)
            if parquet.TRACES_KEY in told:
                inside = packed.members(place, file)
                metas = [parquet.metadata(f"{place} ({one.name})", one.meta) for one in inside]
                return [
                    catalogue.entry(one.name, place, one.rows, meta, number)
                    for number, (one, meta) in enumerate(zip(inside, metas, strict=True))
                ]
            meta = parquet.metadata(place, parquet.meta_text(place, file))
            return [catalogue.entry(stem(place), place, file.metadata.num_rows, meta)]
    except MigkitError as error:
        return left_out(place, error)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=catalogue.INDEX)


def _told_apart(index: pa.Table) -> pa.Table:
    """Traces of one name get their folders' names before it. Raises MigkitError where that is not enough."""
    names, places = index["name"].to_pylist(), index["place"].to_pylist()
    alike = {name for name, count in Counter(names).items() if count > 1}
    if not alike:
        return index
    told = [f"{folder_name(p)}-{n}" if n in alike else n for n, p in zip(names, places, strict=True)]
    twice = [name for name, count in Counter(told).items() if count > 1]
    if twice:
        first, second = [place for place, name in zip(places, told, strict=True) if name == twice[0]][:2]
        raise MigkitError(f"{second}: a trace of the name {twice[0]!r} is in {first} already; rename one")
    return index.set_column(0, "name", pa.array(told, pa.string()))
