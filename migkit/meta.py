"""What a trace says about itself: written into the Parquet file, and into the journal while recording.

Plain data, no pandas, no pyarrow: the recorder uses it. Unknown means None, never a made-up value.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import types
import typing
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from migkit.errors import MigkitError
from migkit.schema import LONGEST_MS, OUTCOMES, PROVENANCES, SCHEMA_VERSION

T = TypeVar("T")
# What escapes half a character in JSON, or a whole one as two halves.
_HALVES = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A disk of the domain. `capacity_bytes` is its virtual size where libvirt told it."""

    target: str
    kind: str = ""
    device: str = "disk"
    source: str = ""
    read_only: bool = False
    capacity_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The guest. `host_devices` are short descriptions of assigned devices; has_vfio follows from them."""

    name: str = ""
    uuid: str = ""
    memory_bytes: int | None = None
    vcpus: int | None = None
    disks: tuple[Disk, ...] = ()
    host_devices: tuple[str, ...] = ()
    has_vfio: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where the migration ran from. Versions as x.y.z; the accelerator is kvm or tcg."""

    name: str = ""
    libvirt_version: str = ""
    qemu_version: str = ""
    accelerator: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What was asked of libvirt, as far as it is known. Parameters keep libvirt's names and units."""

    flags: int | None = None
    flag_names: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    downtime_limit_ms: int | None = None
    started_wall_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """How it was recorded. `gaps` are (from, to) monotonic ns during which nobody could look. What a source rounded
    before anybody could record it: `resolution_bytes` of amounts and `resolution_bps` of rates, both rounded down;
    `start_uncertain_ms`, by how much the moment when the job began may be off; `lacks`, columns that the source never
    has, whatever libvirt said."""

    recorder: str = ""
    interval_ms: float | None = None
    resolution_bytes: int | None = None
    resolution_bps: int | None = None
    start_uncertain_ms: float | None = None
    lacks: tuple[str, ...] = ()
    iteration_events: bool | None = None
    read_only: bool | None = None
    via: str = ""
    gaps: tuple[tuple[int, int], ...] = ()
    names_masked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure in words: what happened, why, what to do about it, the error's own text, where the guest is now."""

    what: str
    why: str = ""
    do: str = ""
    original: str = ""
    where_guest_runs: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How it ended. `evidence` says what proves the outcome; `completed` are libvirt's final job stats by its own
    keys, and `completed_from` who gave them: event, destination or source; `failure`, in words what failed, None where
    nothing did or nobody has put it into words (see migkit.failures); `ended_by_ms`, how long after the job's start
    somebody told that it had ended, where nothing but that bounds its end."""

    outcome: str = "lost"
    evidence: str = ""
    error_code: int | None = None
    error_text: str = ""
    completed: dict[str, Any] | None = None
    completed_from: str = ""
    failure: Failure | None = None
    ended_by_ms: int | None = None

    @property
    def elapsed_ms(self) -> int | None:
        """When the job was done, by libvirt's final statistics; None where there are none, or it failed."""
        told = (self.completed or {}).get("time_elapsed") if self.outcome == "completed" else None
        return None if told is None else int(told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What the guest itself lived through: it beats every `interval_ms`. `downtime_ms` is the gap from its last beat
    on the source to its first on the destination; `p99_gap_ms` is the resolution: the 99th percentile of other gaps;
    `largest_gap_ms` is the longest anywhere, the downtime included."""

    interval_ms: float
    downtime_ms: float | None = None
    p99_gap_ms: float | None = None
    largest_gap_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """The scenario behind a trace of the lab: the truth that a rule is judged against."""

    scenario: str = ""
    description: str = ""
    guest: dict[str, Any] = field(default_factory=dict)
    truth: dict[str, Any] = field(default_factory=dict)
    guest_corrupted: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The rule that ran beside the migration, woken as the trace's `wake` rows tell. `acted`: its calls were really
    made, else they only counted as made. `decisions` holds a dictionary a call (`migkit.drivers.live.LIVE_COLUMNS`),
    `result` how the monitor ended; both are empty when the recorder was cut short: a replay has them."""

    policy: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    data_size_gb: int | None = None
    has_vfio: bool | None = None
    acted: bool = False
    decisions: tuple[dict[str, Any], ...] = ()
    result: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceMeta:
    """Everything a trace knows besides its rows."""

    provenance: str = "recorded"
    origin: str = ""
    schema_version: int = SCHEMA_VERSION
    domain: Domain = field(default_factory=Domain)
    host: Host = field(default_factory=Host)
    migration: Migration = field(default_factory=Migration)
    cadence: Cadence = field(default_factory=Cadence)
    end: End = field(default_factory=End)
    heartbeat: Heartbeat | None = None
    lab: Lab | None = None
    rule: Rule | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.provenance not in PROVENANCES:
            raise MigkitError(f"provenance {self.provenance!r}: must be one of {', '.join(PROVENANCES)}")
        elapsed = (self.end.completed or {}).get("time_elapsed", 0)
        if isinstance(elapsed, bool) or not isinstance(elapsed, int | float) or not 0 <= elapsed <= LONGEST_MS:
            raise MigkitError(f"final time_elapsed {elapsed!r}: must be a number of ms, two weeks at the most")
        if self.end.outcome not in OUTCOMES:
            raise MigkitError(f"outcome {self.end.outcome!r}: must be one of {', '.join(OUTCOMES)}")

    def to_json(self) -> str:
        """Compact JSON; what is unknown is left out."""
        return json.dumps(_plain(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> TraceMeta:
        """The metadata of a trace of this schema version or an older one.

        Raises MigkitError when it is not migkit's metadata, or of a newer schema than this migkit knows.
        """
        try:
            data = json.loads(text)
            if _HALVES.search(text if isinstance(text, str) else text.decode("utf-8", "replace")):
                data = _whole_characters(data)
            version = int(data["schema_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise MigkitError(f"the trace's metadata is damaged ({error}): record or import it again") from None
        if version > SCHEMA_VERSION:
            raise MigkitError(
                f"the trace has schema version {version}, this migkit reads up to {SCHEMA_VERSION}: update migkit"
            )
        try:
            return _build(cls, data)
        except (TypeError, ValueError, AttributeError) as error:
            raise MigkitError(f"the trace's metadata is damaged ({error}): record or import it again") from None


def _whole_characters(value: Any) -> Any:
    """Without halves of characters: JSON's escapes can name one, which no file and no terminal takes."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "ignore").decode()
    if isinstance(value, list):
        return [_whole_characters(one) for one in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(one) for name, one in value.items()}
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _plain(v) for name, v in pairs if v is not None and v != "" and v != () and v != {}}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def _build(cls: type[T], data: dict[str, Any]) -> T:
    hints = _hints(typing.cast(Hashable, cls))
    return cls(**{name: _convert(hints[name], value) for name, value in data.items() if name in hints})


# To resolve annotations for each trace anew costs more than all else about reading its metadata.
@functools.cache
def _hints(cls: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@functools.cache
def _known(hint: Any) -> Any:
    """What an optional field holds when it holds something; None for another field."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(arm for arm in typing.get_args(hint) if arm is not type(None))
    return None


def _convert(hint: Any, value: Any) -> Any:
    if hint in (str, int, float, bool):
        return value
    if (known := _known(hint)) is not None:
        return None if value is None else _convert(known, value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value)
    if typing.get_origin(hint) is tuple:
        arms = typing.get_args(hint)
        inner = [arms[0]] * len(value) if arms[-1] is Ellipsis else list(arms)
        return tuple(_convert(arm, item) for arm, item in zip(inner, value, strict=True))
    return value
