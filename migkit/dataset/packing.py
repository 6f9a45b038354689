"""Packing: many traces into a folder of few files, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from migkit import remote
from migkit.dataset import catalogue, packed
from migkit.dataset.partition import Bad, Partition
from migkit.dataset.places import CATALOGUE
from migkit.errors import MigkitError

# Large row groups are what makes reading fast; a share of a hundred traces is what a worker gets.
FILE_ROWS: Final = 150_000
FILE_TRACES: Final = 100

Named = tuple[str, pa.Table, str]


def pack(
    partitions: Iterable[Partition],
    folder: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Callable[[str], object] | None = None,
    bad: list[Bad] | None = None,
) -> Path:
    """Writes traces as a packed folder; see `Dataset.pack`."""
    target = _target(folder, force=force)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        _write(part, _traces(partitions, progress, bad))
        _put(part, target)
    except OSError as error:
        raise MigkitError(f"{target}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _target(folder: str | os.PathLike[str], *, force: bool) -> Path:
    """Where to write. A folder that is there is only ever replaced when it is a packed one with nothing else in it."""
    if remote.is_url(folder):
        raise MigkitError(f"{folder}: packing writes to a folder of this machine; copy that to where it is to be")
    target = Path(os.path.abspath(folder))
    if not os.path.lexists(target):
        return target
    inside = sorted(entry.name for entry in target.iterdir()) if target.is_dir() and not target.is_symlink() else ["?"]
    foreign = [name for name in inside if name != CATALOGUE and not _is_part(name)]
    if foreign or (inside and CATALOGUE not in inside):
        raise MigkitError(f"{folder}: is there and no packed folder; choose another name")
    if inside and not force:
        raise MigkitError(f"{folder}: exists already; choose another name or pass --force")
    return target


def _part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _is_part(name: str) -> bool:
    digits = name.removeprefix("part-").removesuffix(".parquet")
    return digits.isdigit() and name == _part_name(int(digits))


def _traces(
    partitions: Iterable[Partition], progress: Callable[[str], object] | None, bad: list[Bad] | None
) -> Iterator[tuple[Named, dict[str, Any]]]:
    """Each trace and its row of the catalogue, its place still to be known."""
    for partition in partitions:
        for one, meta in partition.loaded(bad=bad):
            row = catalogue.entry(one.name, "", one.table.num_rows, meta)
            yield (one.name, one.table, one.text), row
            if progress is not None:
                progress(one.name)


def _write(folder: Path, traces: Iterator[tuple[Named, dict[str, Any]]]) -> None:
    rows: list[dict[str, Any]] = []
    for number, batch in enumerate(_batches(traces)):
        name = _part_name(number)
        packed.write(folder / name, [named for named, _ in batch])
        rows += [row | {"place": name, "member": member} for member, (_, row) in enumerate(batch)]
    if not rows:
        raise MigkitError("no trace to pack")
    packed.write_catalogue(folder, rows)


def _batches(traces: Iterator[tuple[Named, dict[str, Any]]]) -> Iterator[list[tuple[Named, dict[str, Any]]]]:
    """As many traces as one file takes."""
    batch: list[tuple[Named, dict[str, Any]]] = []
    rows = 0
    for one in traces:
        batch.append(one)
        rows += one[0][1].num_rows
        if rows >= FILE_ROWS or len(batch) >= FILE_TRACES:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def _put(part: Path, target: Path) -> None:
    """The new folder in the place of the old one, which goes only once the new one is there."""
    if not target.exists():
        os.rename(part, target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    os.rename(target, old)
    try:
        os.rename(part, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old)
