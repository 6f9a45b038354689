"""Many traces: files and folders of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from migkit.errors import MigkitError
from migkit.trace import Trace


def trace_paths(*places: str | os.PathLike[str]) -> list[Path]:
    """The trace files at `places`: files as they are, folders with every .parquet below them, sorted by name.

    Raises MigkitError for a place that does not exist or a folder without traces.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if not place.is_dir():
            found.append(place)
            continue
        inside = sorted(path for path in place.rglob("*.parquet") if not path.name.startswith("."))
        if not inside:
            raise MigkitError(f"{place}: holds no trace (*.parquet); record one with 'migkit record'")
        found += inside
    return found


def open_dataset(*places: str | os.PathLike[str]) -> Sequence[Trace]:
    """Reads the traces at `places` (files or folders). Traces of one name are told apart by their folders' names.

    >>> import migkit as mk
    >>> len(mk.open_dataset("data/traces")) >= 6
    True
    """
    return [Trace.load(path, name) for path, name in named_paths(*places)]


def named_paths(*places: str | os.PathLike[str]) -> list[tuple[Path, str]]:
    """The trace files at `places`, each with a name of its own. Raises MigkitError for a file given twice."""
    paths = trace_paths(*places)
    if len({path.resolve() for path in paths}) < len(paths):
        twice = next(path for i, path in enumerate(paths) if path.resolve() in {p.resolve() for p in paths[:i]})
        raise MigkitError(f"{twice}: is given twice")
    names = [path.name.removesuffix(".parquet") for path in paths]
    alike = {name for name in names if names.count(name) > 1}
    told = [f"{p.resolve().parent.name}-{n}" if n in alike else n for p, n in zip(paths, names, strict=True)]
    if len(set(told)) < len(told):
        raise MigkitError(f"{next(n for n in told if told.count(n) > 1)}: two traces of this name; rename one")
    return list(zip(paths, told, strict=True))
