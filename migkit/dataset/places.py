"""Which files lie at a place: a file, a folder with all below it, or a URL of either."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from migkit import remote
from migkit.errors import MigkitError

CATALOGUE: Final = "_catalogue.parquet"
_ENDING: Final = ".parquet"


class Found(NamedTuple):
    """A Parquet file: where it is, as the user would say it, and its size."""

    place: str
    size_bytes: int


def found_files(*places: str | os.PathLike[str]) -> list[Found]:
    """The Parquet files at `places`: files as they are, folders with every .parquet below them, sorted by name; what
    begins with a dot is left out.

    Raises MigkitError for a folder without traces and a place given twice. Whether a file given by its name exists is
    seen when it is opened.
    """
    found = [file for place in places for file in _below(remote.local_path(place))]
    seen: set[str] = set()
    for file in found:
        if (own := absolute(file.place)) in seen:
            raise MigkitError(f"{file.place}: is given twice")
        seen.add(own)
    return found


def _below(place: str) -> Sequence[Found]:
    # A packed folder may be given by its catalogue.
    place = parent(place) if place.endswith("/" + CATALOGUE) else place
    if remote.is_url(place):
        listed = remote.listing(place)
        if place in listed or not listed:
            return [Found(place, listed.get(place, 0))]
        inside = [Found(url, size) for url, size in listed.items() if _is_trace(url[len(place) :])]
    elif os.path.isdir(place):
        inside = _walked(place)
    else:
        return [Found(place, 0)]
    if not inside:
        raise MigkitError(f"{place}: holds no trace (*.parquet); record one with 'migkit record'")
    return sorted(inside, key=lambda file: file.place.split("/"))


def _walked(folder: str) -> list[Found]:
    def refuse(error: OSError) -> None:
        raise MigkitError(f"{error.filename}: cannot be listed ({error.strerror})") from None

    inside = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [os.path.join(root, name) for name in names if _is_trace(name)]
        inside += [Found(path, os.stat(path).st_size if os.path.exists(path) else 0) for path in paths]
    return inside


def _is_trace(path: str) -> bool:
    return path.endswith(_ENDING) and not any(part.startswith(".") for part in path.split("/"))


def absolute(place: str) -> str:
    """A place that means the same file in every process and folder."""
    return place.rstrip("/") if remote.is_url(place) else os.path.realpath(place)


def stem(place: str) -> str:
    """The name of the trace in a file."""
    return place.rpartition("/")[2].removesuffix(_ENDING)


def parent(place: str) -> str:
    """The folder that a file lies in."""
    return place.rpartition("/")[0]


def folder_name(place: str) -> str:
    """The name of the folder that a file lies in, without what leads to it."""
    return parent(absolute(place)).rpartition("/")[2]
