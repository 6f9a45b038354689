"""A campaign: which migrations of the lab a set is made of, read from a few lines of TOML."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from migkit.errors import MigkitError, unknown
from migkit.lab.scenario import Scenario, read_toml

BUNDLED: Final = Path(__file__).with_name("campaign.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One migration of a campaign. `name` is that of its trace: SCENARIO, or SCENARIO-2 for the second of its kind;
    `seed` begins its guest's random numbers."""

    name: str
    scenario: Scenario
    repeat: int = 1
    seed: int = 0
    interval_ms: float = 100

    @property
    def traces(self) -> tuple[str, ...]:
        """The names of the traces that it leaves: two when another guest migrates beside it."""
        return (self.name,) if self.scenario.beside is None else (self.name, _named(self.scenario.beside, self.repeat))


def load(path: Path | None, scenarios: Mapping[str, Scenario], *, repeats: int | None = None) -> list[Entry]:
    """The migrations of a campaign file, or of migkit's own, the longest first.

    The file has a number `seed`, from which every guest's own follows, and a table a scenario with `repeats` and
    `interval_ms`, both optional; `repeats` here holds for those that say nothing themselves.

    Raises MigkitError, naming file and scenario, for a value that cannot be; an unknown scenario or key is a UsageError
    with the nearest known one.
    """
    path = path or BUNDLED
    data = read_toml(path)
    seed = _whole(data.pop("seed", 0), f"{path.name}: seed", at_least=0)
    entries = [
        entry
        for name, table in data.items()
        for entry in _entries(f"{path.name}: {name}", name, table, scenarios, seed=seed, repeats=repeats)
    ]
    if not entries:
        raise MigkitError(f"{path}: names no scenario")
    return sorted(entries, key=lambda entry: -entry.scenario.seconds)


def missing(entries: Iterable[Entry], output: Path) -> list[Entry]:
    """The entries of which a trace is not in `output` yet."""
    return [entry for entry in entries if not all((output / f"{name}.parquet").exists() for name in entry.traces)]


def _entries(
    where: str, name: str, table: Any, scenarios: Mapping[str, Scenario], *, seed: int, repeats: int | None
) -> Iterator[Entry]:
    if name not in scenarios:
        raise type(error := unknown("scenario", name, scenarios))(f"{where}: {error}")
    known = ("repeats", "interval_ms")
    if not isinstance(table, dict):
        raise MigkitError(f"{where}: must be a table, of {' and '.join(known)} or empty")
    for key in table:
        if key not in known:
            raise type(error := unknown("key", key, known))(f"{where}: {error}")
    count = _whole(table.get("repeats", repeats or 1), f"{where}.repeats", at_least=1)
    interval_ms = _whole(table.get("interval_ms", 100), f"{where}.interval_ms", at_least=1)
    for repeat in range(1, count + 1):
        own = zlib.crc32(f"{seed} {name} {repeat}".encode()) & 0x7FFFFFFF
        yield Entry(
            name=_named(name, repeat), scenario=scenarios[name], repeat=repeat, seed=own, interval_ms=interval_ms
        )


def _named(scenario: str, repeat: int) -> str:
    return scenario if repeat == 1 else f"{scenario}-{repeat}"


def _whole(value: Any, where: str, *, at_least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise MigkitError(f"{where}: must be a whole number, at least {at_least}, not {value!r}")
    return value
