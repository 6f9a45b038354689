"""What the reader of a foreign format is given, and what it makes of it."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from migkit.capture.logs.manifests import Manifests
from migkit.meta import TraceMeta
from migkit.schema import BY_NAME
from migkit.units import NS_PER_S

Row = dict[str, Any]


class Line(NamedTuple):
    """A line without its end, where it stands (a file, or FILE:MEMBER of an archive) and its number there."""

    text: bytes
    place: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is known beside the lines.

    Attributes: `version`, the KubeVirt version that wrote them, as in VERSIONS, where the caller told it; `manifests`,
    the VMI and migration objects given or found; `skipped`, reason -> lines that belong to no migration.
    """

    version: str | None = None
    manifests: Manifests = field(default_factory=Manifests)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """One migration of a foreign source.

    Attributes: `rows` in time order, by the schema's columns, unknown ones left out; `meta`; `name`, of the guest and
    its start, free of characters that a file name cannot have; `skipped`, reason -> lines of this migration that were
    left out; `said`, what was inferred or repaired, in words.
    """

    rows: list[Row]
    meta: TraceMeta
    name: str
    skipped: Counter[str] = field(default_factory=Counter)
    said: tuple[str, ...] = ()


# So many lines that no column holds stand in a trace's notes as they were; others are counted so.
MOST_NOTES, MORE_NOTES = 200, "line of the monitor behind the first 200"
_RANGES = {"int64": (-(2**63), 2**63 - 1), "uint64": (0, 2**64 - 1), "int32": (-(2**31), 2**31 - 1)}


def fits(row: Row) -> bool:
    """Whether every value of a row is of its column's type and in its range, and the clock one that a trace may have.

    >>> fits({"mono_ns": 1, "time_elapsed_ms": 5}), fits({"mono_ns": 1, "time_elapsed_ms": -5})
    (True, False)
    """
    return all(value is None or _fits(name, value) for name, value in row.items())


def _fits(name: str, value: Any) -> bool:
    kind, low, high = _BOUNDS[name]
    if type(value) is not kind:
        return False
    if kind is int:
        return bool(low <= value <= high)
    # Half of a character, as JSON may have it, can be written nowhere.
    return kind is bool or value.isascii() or re.search("[\ud800-\udfff]", value) is None


def _bounds(dtype: str) -> tuple[type, int, int]:
    return (int, *_RANGES[dtype]) if dtype in _RANGES else (bool if dtype == "bool" else str, 0, 0)


_BOUNDS: dict[str, tuple[Any, int, int]] = {name: _bounds(column.dtype) for name, column in BY_NAME.items()}


def trace_name(guest: str, start_wall_ns: int | None, otherwise: str = "") -> str:
    """A trace's name: its guest and when it began; where no time is known, `otherwise`.

    >>> trace_name("prod/web1", 1_700_000_000_000_000_000)
    'prod-web1-20231114T221320Z'
    """
    parts = [guest]
    if start_wall_ns is not None and 0 <= start_wall_ns < 2**62:
        moment = datetime.datetime.fromtimestamp(start_wall_ns // NS_PER_S, datetime.UTC)
        parts.append(moment.strftime("%Y%m%dT%H%M%SZ"))
    else:
        parts.append(otherwise)
    return file_name("-".join(part for part in parts if part))


def file_name(words: str) -> str:
    """Foreign words as the name of a file that everybody can see, on any file system.

    >>> file_name("../a b"), file_name(".")
    ('a-b', 'migration')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip(".-")[:150].strip(".-") or "migration"


class Format(Protocol):
    """A module that reads one foreign format. It never raises for what lines hold: it skips them with a reason."""

    ORIGIN: str
    # A line that holds none of these is passed over unread; none at all: every line is given.
    NEEDLES: tuple[bytes, ...]

    def matches(self, head: bytes) -> bool:
        """Whether a file that begins so, or goes on so, is of this format."""

    def read(self, lines: Iterator[Line], context: Context) -> Iterator[Imported]:
        """The migrations that the lines tell of. Lines of several files come one file after the other."""
