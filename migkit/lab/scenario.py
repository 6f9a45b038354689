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
PATTERNS: Final = ("idle", "sequential", "random", "hotcold", "bursty", "zero")
LIMITS: Final = ("nothing", "bandwidth", "dirty rate", "downtime limit", "destination", "network", "source")
DESTINATION_DISKS: Final = ("same", "small", "missing")

# What can be done to a migration, and the keys of its arguments; a trace's row keeps the first.
ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "start_post_copy": (),
    "suspend": (),
    "abort": (),
    "set_max_downtime": ("downtime_ms",),
    "set_bandwidth": ("bandwidth_mibps",),
    "stop_destination": ("seconds",),
    "kill_destination": (),
    "restart_destination_daemon": (),
    "restart_source_daemon": (),
    "link_down": ("seconds",),
    "slow_link": ("percent", "seconds"),
    "block_port": ("seconds",),
    "cut_socket": (),
}
_ARGUMENTS: Final = ("downtime_ms", "bandwidth_mibps", "seconds", "percent")
_RESERVED_MIB = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """The guest and what it does to its memory; see guest/init.c. `seed` begins its random numbers; None draws one."""

    memory_mib: int = 256
    pattern: str = "idle"
    ws_mib: int = 16
    ws_end_mib: int = 0
    ramp_s: float = 0
    rate_mibps: float = 0
    rest_mibps: float = 0
    burst_on_s: float = 1
    burst_off_s: float = 1
    hot_ratio: float = 0.1
    cpu_bound: bool = False
    seed: int | None = None
    hb_ms: float = 10
    disk_mib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """How it is migrated. `downtime_ms` is the downtime limit; None leaves QEMU's own, 300 ms. `link_mibps` is what
    the link between the hosts carries; None: all there is. `destination_disk` is same, small or missing."""

    bandwidth_mibps: int
    downtime_ms: int | None = None
    post_copy: bool = False
    post_copy_bandwidth_mibps: int | None = None
    auto_converge: bool = False
    auto_converge_initial: int | None = None
    auto_converge_increment: int | None = None
    parallel_connections: int | None = None
    xbzrle_cache_mib: int | None = None
    block_copy: bool = False
    destination_disk: str = "same"
    link_mibps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something done to the migration `at_s` seconds after it was asked for. The arguments' keys tell their units;
    `percent` is of the link's bandwidth, or of the migration's where the link has no limit."""

    at_s: float
    do: str
    downtime_ms: int | None = None
    bandwidth_mibps: int | None = None
    seconds: float | None = None
    percent: float | None = None

    @property
    def argument(self) -> float | None:
        """The first argument in the unit of its key; None for an action without one."""
        keys = ACTIONS[self.do]
        return getattr(self, keys[0]) if keys else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What a rule is judged against: what holds the migration up, whether it would end by itself if nobody acted, and
    where there is a fault, from when to when it lasts, in seconds after the migration was asked for. A fault without
    an end lasts."""

    limited_by: str
    converges: bool
    fault_from_s: float | None = None
    fault_until_s: float | None = None

    @property
    def label(self) -> dict[str, Any]:
        """What a trace's metadata keep of it: the fields that say something."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One migration of the lab. `seconds` is about how long it takes; `beside` names another scenario whose guest is
    migrated at the same time."""

    name: str
    description: str
    seconds: float
    guest: Guest
    migration: Migration
    truth: Truth | None = None
    actions: tuple[Action, ...] = field(default=())
    beside: str | None = None


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises MigkitError, naming it, when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MigkitError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise MigkitError(f"{path}: cannot be read as TOML ({str(error).splitlines()[0]})") from None


def load(path: Path | None = None) -> dict[str, Scenario]:
    """The scenarios of a TOML file by name, or migkit's own.

    Raises MigkitError, naming file and scenario, for what is not TOML, lacks a key, or has a value that cannot be;
    an unknown key is a UsageError with the nearest known one.
    """
    path = path or BUNDLED
    tables = read_toml(path)
    if not tables:
        raise MigkitError(f"{path}: holds no scenario")
    scenarios = {name: _scenario(f"{path.name}: {name}", name, table) for name, table in tables.items()}
    for name, entry in scenarios.items():
        if entry.beside is not None and (entry.beside not in scenarios or entry.beside == name):
            raise MigkitError(f"{path.name}: {name}.beside: must be another scenario of the file")
    return scenarios


def choose(scenarios: Mapping[str, Scenario], names: list[str]) -> list[Scenario]:
    """The scenarios of these names. Raises UsageError, naming the nearest, for one that does not exist."""
    for name in names:
        if name not in scenarios:
            raise unknown("scenario", name, scenarios)
    return [scenarios[name] for name in names]


def seeded(scenario: Scenario, seed: int) -> Scenario:
    """The scenario with a seed for its guest, unless it has one of its own."""
    if scenario.guest.seed is not None:
        return scenario
    return dataclasses.replace(scenario, guest=dataclasses.replace(scenario.guest, seed=seed))


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
    _require(
        migration.destination_disk in DESTINATION_DISKS,
        f"{where}.migration.destination_disk: must be one of {', '.join(DESTINATION_DISKS)}",
    )
    _check_truth(scenario.truth, where)
    _check_guest(guest, where)
    _require(migration.bandwidth_mibps > 0, f"{where}.migration.bandwidth_mibps: must be above 0")
    for key in ("link_mibps", "post_copy_bandwidth_mibps", "parallel_connections", "xbzrle_cache_mib"):
        value = getattr(migration, key)
        _require(value is None or value > 0, f"{where}.migration.{key}: must be above 0")
    _require(migration.block_copy == (guest.disk_mib > 0), f"{where}: block_copy and guest.disk_mib need each other")
    for index, action in enumerate(scenario.actions):
        _check_action(action, f"{where}.actions[{index}]", migration)


def _check_truth(truth: Truth | None, where: str) -> None:
    if truth is None or truth.fault_until_s is None:
        return
    ordered = truth.fault_from_s is not None and truth.fault_from_s < truth.fault_until_s
    _require(ordered, f"{where}.truth: fault_until_s needs an earlier fault_from_s")


def _check_guest(guest: Guest, where: str) -> None:
    room = guest.memory_mib - _RESERVED_MIB
    _require(1 <= guest.ws_mib <= room, f"{where}.guest.ws_mib: must be 1 to {room} (memory_mib - {_RESERVED_MIB})")
    _require(0 <= guest.ws_end_mib <= room, f"{where}.guest.ws_end_mib: must be 0 to {room}")
    for key in ("rate_mibps", "rest_mibps", "ramp_s"):
        _require(getattr(guest, key) >= 0, f"{where}.guest.{key}: must not be negative")
    _require(guest.seed is None or 0 <= guest.seed < 2**31, f"{where}.guest.seed: must be 0 to {2**31 - 1}")
    _require(0 < guest.hot_ratio <= 1, f"{where}.guest.hot_ratio: must be more than 0 and at most 1")
    _require(min(guest.burst_on_s, guest.burst_off_s) > 0, f"{where}.guest: burst_on_s and burst_off_s must be above 0")
    _require(guest.hb_ms >= 1, f"{where}.guest.hb_ms: must be at least 1")


def _check_action(action: Action, where: str, migration: Migration) -> None:
    if action.do not in ACTIONS:
        raise type(error := unknown("action", action.do, ACTIONS))(f"{where}: {error}")
    _require(action.at_s >= 0, f"{where}.at_s: must not be negative")
    for key in _ARGUMENTS:
        given, wanted = getattr(action, key) is not None, key in ACTIONS[action.do]
        _require(given == wanted, f"{where}: {action.do} {'needs' if wanted else 'takes no'} {key}")
        _require(not given or getattr(action, key) > 0, f"{where}.{key}: must be above 0")
    allowed = migration.post_copy or action.do != "start_post_copy"
    _require(allowed, f"{where}: start_post_copy needs post_copy = true in migration")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise MigkitError(message)
