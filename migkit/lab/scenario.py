"""Scenarios of the lab: a few lines of TOML that say what the guest does, how it migrates, and what happens to it."""

from __future__ import annotations

import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from migkit.errors import MigkitError, unknown

T = TypeVar("T")

BUNDLED: Final = Path(__file__).with_name("scenarios.toml")
PATTERNS: Final = ("idle", "sequential", "random", "hotcold", "bursty")
LIMITS: Final = ("nothing", "bandwidth", "dirty rate", "downtime limit", "destination", "network")

# What can be done to a migration, and the key of its argument.
ACTIONS: Final[Mapping[str, str | None]] = {
    "start_post_copy": None,
    "suspend": None,
    "abort": None,
    "set_max_downtime": "downtime_ms",
    "set_bandwidth": "bandwidth_mibps",
    "stop_destination": "seconds",
    "link_down": "seconds",
}
_RESERVED_MIB = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """The guest and what it does to its memory; see guest/init.c."""

    memory_mib: int = 256
    pattern: str = "idle"
    ws_mib: int = 16
    rate_mibps: float = 0
    burst_on_s: float = 1
    burst_off_s: float = 1
    hot_ratio: float = 0.1
    cpu_bound: bool = False
    hb_ms: float = 10
    disk_mib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """How it is migrated. `downtime_ms` is the downtime limit; None leaves QEMU's own, 300 ms."""

    bandwidth_mibps: int
    downtime_ms: int | None = None
    post_copy: bool = False
    auto_converge: bool = False
    auto_converge_initial: int | None = None
    auto_converge_increment: int | None = None
    block_copy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something done to the migration `at_s` seconds after it was asked for. The argument's key tells its unit."""

    at_s: float
    do: str
    downtime_ms: int | None = None
    bandwidth_mibps: int | None = None
    seconds: float | None = None

    @property
    def argument(self) -> float | None:
        """The argument in the unit of its key; None for an action without one."""
        key = ACTIONS[self.do]
        return None if key is None else getattr(self, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What a rule is judged against: what holds the migration up, and whether it would end by itself, nobody acting."""

    limited_by: str
    converges: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One migration of the lab. `seconds` is about how long it takes."""

    name: str
    description: str
    seconds: float
    guest: Guest
    migration: Migration
    truth: Truth | None = None
    actions: tuple[Action, ...] = field(default=())


def load(path: Path | None = None) -> dict[str, Scenario]:
    """The scenarios of a TOML file by name, or migkit's own.

    Raises MigkitError, naming file and scenario, for what is not TOML, lacks a key, or has a value that cannot be;
    an unknown key is a UsageError with the nearest known one.
    """
    path = path or BUNDLED
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MigkitError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise MigkitError(f"{path}: cannot be read as TOML ({str(error).splitlines()[0]})") from None
    if not tables:
        raise MigkitError(f"{path}: holds no scenario")
    return {name: _scenario(f"{path.name}: {name}", name, table) for name, table in tables.items()}


def choose(scenarios: Mapping[str, Scenario], names: list[str]) -> list[Scenario]:
    """The scenarios of these names. Raises UsageError, naming the nearest, for one that does not exist."""
    for name in names:
        if name not in scenarios:
            raise unknown("scenario", name, scenarios)
    return [scenarios[name] for name in names]


def _scenario(where: str, name: str, table: Any) -> Scenario:
    if not isinstance(table, dict):
        raise MigkitError(f"{where}: must be a table of description, seconds, guest and migration")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise MigkitError(f"{where}: a scenario's name is made of a-z, 0-9 and dashes")
    scenario = _build(Scenario, {"name": name, **table}, where)
    _check(scenario, where)
    return scenario


def _build(cls: type[T], table: Any, where: str) -> T:
    if not isinstance(table, dict):
        raise MigkitError(f"{where}: must be a table")
    assert dataclasses.is_dataclass(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in table:
        if key not in fields:
            raise type(error := unknown("key", key, fields))(f"{where}: {error}")
    needed = (f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING)
    if missing := [key for key in needed if key not in table]:
        raise MigkitError(f"{where}: {missing[0]} is missing")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in table.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise MigkitError(f"{where}: must be a list of tables")
        return tuple(_value(typing.get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    fits = isinstance(value, int | float) if hint is float else isinstance(value, hint)
    if not fits or (isinstance(value, bool) and hint is not bool):
        word = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
        raise MigkitError(f"{where}: must be {word}, not {value!r}")
    return value


def _check(scenario: Scenario, where: str) -> None:
    guest, migration = scenario.guest, scenario.migration
    if guest.pattern not in PATTERNS:
        raise type(error := unknown("pattern", guest.pattern, PATTERNS))(f"{where}.guest: {error}")
    if scenario.truth is not None and scenario.truth.limited_by not in LIMITS:
        raise type(error := unknown("limit", scenario.truth.limited_by, LIMITS))(f"{where}.truth: {error}")
    room = guest.memory_mib - _RESERVED_MIB
    _require(1 <= guest.ws_mib <= room, f"{where}.guest.ws_mib: must be 1 to {room} (memory_mib - {_RESERVED_MIB})")
    _require(guest.rate_mibps >= 0, f"{where}.guest.rate_mibps: must not be negative")
    _require(0 < guest.hot_ratio <= 1, f"{where}.guest.hot_ratio: must be more than 0 and at most 1")
    _require(min(guest.burst_on_s, guest.burst_off_s) > 0, f"{where}.guest: burst_on_s and burst_off_s must be above 0")
    _require(guest.hb_ms >= 1, f"{where}.guest.hb_ms: must be at least 1")
    _require(migration.bandwidth_mibps > 0, f"{where}.migration.bandwidth_mibps: must be above 0")
    _require(migration.block_copy == (guest.disk_mib > 0), f"{where}: block_copy and guest.disk_mib need each other")
    for index, action in enumerate(scenario.actions):
        _check_action(action, f"{where}.actions[{index}]", migration)


def _check_action(action: Action, where: str, migration: Migration) -> None:
    if action.do not in ACTIONS:
        raise type(error := unknown("action", action.do, ACTIONS))(f"{where}: {error}")
    _require(action.at_s >= 0, f"{where}.at_s: must not be negative")
    for key in ("downtime_ms", "bandwidth_mibps", "seconds"):
        given, wanted = getattr(action, key) is not None, ACTIONS[action.do] == key
        _require(given == wanted, f"{where}: {action.do} {'needs' if wanted else 'takes no'} {key}")
        _require(not given or getattr(action, key) > 0, f"{where}.{key}: must be above 0")
    allowed = migration.post_copy or action.do != "start_post_copy"
    _require(allowed, f"{where}: start_post_copy needs post_copy = true in migration")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise MigkitError(message)
