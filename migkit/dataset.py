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
    """Reads the traces at `places` (files or folders).

    >>> import migkit as mk
    >>> len(mk.open_dataset("data/traces")) >= 6
    True
    """
    return [Trace.load(path) for path in trace_paths(*places)]
