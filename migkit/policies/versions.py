"""The versions of KubeVirt as data: which rules, which options, which defaults; and a policy made of them.

Defaults and admission: kubevirt/kubevirt pkg/virt-config and the MigrationPolicy webhook of each tag, v0.59.0 to main
at d923fdb815.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Literal

from migkit.errors import UsageError, unknown
from migkit.policies.base import NS_PER_S, Options
from migkit.policies.integers import wrap
from migkit.policies.size import parse_quantity

Rules = Literal["polling", "events"]
Kind = Literal["seconds", "ms", "count", "percent", "flag", "factor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a policy, by its name in KubeVirt's data. `group` is the flag it belongs to, if any."""

    kind: Kind
    default: int | bool | str
    doc: str
    group: str = ""
    lowest: Decimal | None = None
    highest: Decimal | None = None
    above: bool = False


def _factor(default: str, doc: str, lowest: str, highest: str | None = None, *, above: bool = False) -> Option:
    top = None if highest is None else Decimal(highest)
    return Option(kind="factor", default=default, doc=doc, group="stall_detection", lowest=Decimal(lowest), highest=top,
                  above=above)  # fmt: skip


def _tuning(kind: Kind, default: int, doc: str) -> Option:
    return Option(kind=kind, default=default, doc=doc, group="downtime_tuning", lowest=Decimal(1))


_COMMON = {
    "progress_timeout": Option(kind="seconds", default=150, doc="abort when remaining has not dropped for so long"),
    "completion_timeout_per_gib": Option(kind="seconds", default=150, doc="completion deadline per GB of data"),
    "allow_post_copy": Option(kind="flag", default=False, doc="post-copy may be started at the deadline"),
}
_DISRUPTION = {
    "allow_workload_disruption": Option(
        kind="flag", default=False, doc="the guest may be disturbed at the deadline; unset: as allow_post_copy"
    )
}
_DOWNTIME = {
    "max_downtime_ms": Option(
        kind="ms", default=900, lowest=Decimal(1), highest=Decimal(2_000_000),
        doc="the longest pause of the guest that is accepted",
    )
}  # fmt: skip
_STALL = {
    "stall_detection": Option(kind="flag", default=False, doc="act when the iterations' minima stop falling (VEP 248)"),
    "stall_margin": Option(
        kind="percent",
        default=4,
        group="stall_detection",
        highest=Decimal(100),
        doc="a minimum must fall by more than this to count",
    ),
    "stall_progress_timeout": Option(
        kind="seconds", default=40, group="stall_detection", doc="the window in which the minimum has to fall"
    ),
    "switchover_timeout": Option(
        kind="seconds", default=60, group="stall_detection", doc="time for the switchover once it was asked for"
    ),
    "ewma_alpha": _factor("0.4", "weight of the newest bandwidth", "0", "1", above=True),
    "precopy_possible_factor": _factor("1.5", "how far above max_downtime_ms a switchover is still tried", "1"),
    "patience_window_decay_factor": _factor("0.5", "how fast patience with a stall shrinks", "0", "1"),
    "search_local_minima": Option(
        kind="flag", default=True, group="stall_detection", doc="switch over only near the least that remained"
    ),
    "completion_timeout_factor": _factor("2", "by how much the deadline is extended for a disruption", "1"),
}
_TUNING = {
    "downtime_tuning": Option(kind="flag", default=False, doc="raise the downtime limit step by step"),
    "initial_ms": _tuning("ms", 150, "the first downtime limit"),
    "steps": _tuning("count", 7, "steps from there to max_downtime_ms"),
    "start_after_iteration": _tuning("count", 3, "the first iteration that may be followed by a step"),
    "cooldown_seconds": _tuning("seconds", 10, "least time between steps"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Versions that decide alike. `ends_with_job`: types 3 and 4 end the monitor; `disruption_gate`: at the deadline
    allow_workload_disruption is asked first; `settles_by`: who tells the migration's result, and how (drivers);
    `quantities`: factors are Kubernetes quantities instead of plain decimals."""

    rules: Rules
    options: Mapping[str, Option]
    settles_by: Literal["post-copy era", "1.5", "1.6", "1.9", "main"]
    ends_with_job: bool = False
    disruption_gate: bool = False
    quantities: bool = False


_POST_COPY_ERA = Family(rules="polling", options=_COMMON, settles_by="post-copy era", ends_with_job=True)
_V15 = Family(
    rules="polling", options=_COMMON | _DISRUPTION, settles_by="1.5", ends_with_job=True, disruption_gate=True
)
_V16 = Family(rules="polling", options=_COMMON | _DISRUPTION, settles_by="1.6", disruption_gate=True)
_V19 = Family(rules="events", options=_COMMON | _DISRUPTION | _DOWNTIME | _STALL, settles_by="1.9")
_MAIN = Family(
    rules="events", options=_COMMON | _DISRUPTION | _DOWNTIME | _STALL | _TUNING, settles_by="main", quantities=True
)
VERSIONS: Mapping[str, Family] = {
    **dict.fromkeys(("0.59", "1.0", "1.1", "1.2", "1.3", "1.4"), _POST_COPY_ERA),
    "1.5": _V15,
    **dict.fromkeys(("1.6", "1.7", "1.8"), _V16),
    "1.9": _V19,
    "main": _MAIN,
}
# Up to v1.3 a GB of data had this many seconds; since v1.3 migrated volumes count as data.
_OLD_PER_GIB = dict.fromkeys(("0.59", "1.0", "1.1", "1.2", "1.3"), 800)
_WITHOUT_MIGRATED_VOLUMES = ("0.59", "1.0", "1.1", "1.2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The migration monitor of one KubeVirt version with its options.

    Attributes: `version`, a key of VERSIONS; `options`, every option of that version by name, defaults filled in;
    `given`, the names the caller set.
    """

    version: str
    options: Mapping[str, int | bool | str]
    given: frozenset[str] = field(default=frozenset())

    @property
    def family(self) -> Family:
        """What this version shares with others."""
        return VERSIONS[self.version]

    @property
    def name(self) -> str:
        """As it is written on the command line, e.g. kubevirt-1.9-stall."""
        stall = "-stall" if self.options.get("stall_detection") else ""
        tuning = "-tuning" if self.options.get("downtime_tuning") and not stall else ""
        return f"kubevirt-{self.version}{stall}{tuning}"

    @property
    def counts_migrated_volumes(self) -> bool:
        """Whether migrated volumes are part of the data size."""
        return self.version not in _WITHOUT_MIGRATED_VOLUMES

    @property
    def hears_iterations(self) -> bool:
        """Whether iteration events wake this monitor."""
        return bool(self.options.get("stall_detection"))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.version, dict(self.options), self.given)

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={self.options[name]}" for name in self.options if name in self.given)
        return self.name + (f" ({shown})" if shown else "")

    def computed(self, *, data_size_gb: int, has_vfio: bool) -> Options:
        """The options as the rules compute with them, for a guest of this data size (see `migkit.policies.size`)."""
        return computed_options(self.family, self.options, data_size_gb=data_size_gb, has_vfio=has_vfio)


def _restored(version: str, options: Mapping[str, int | bool | str], given: frozenset[str]) -> Policy:
    """A policy that was sent to another process."""
    return Policy(version=version, options=MappingProxyType(dict(options)), given=given)


def kubevirt(version: str, *, admission: bool = True, **options: Any) -> Policy:
    """The migration monitor of a KubeVirt version.

    Parameters: `version`, "0.59" to "1.9" or "main"; options by name with the version's defaults, seconds, ms or plain
    numbers as their names say; `admission=False` takes values that KubeVirt's admission would refuse.
    Raises UsageError for an unknown version or option (the nearest is named), or a value out of range.

    >>> kubevirt("1.8", progress_timeout=30).options["completion_timeout_per_gib"]
    150
    """
    if not isinstance(version, str):
        raise UsageError(f"version {version!r}: write the version as text, e.g. '1.8' (1.10 is not 1.1)")
    if version not in VERSIONS:
        raise unknown("KubeVirt version", version, VERSIONS)
    known = VERSIONS[version].options
    given: dict[str, int | bool | str] = {}
    for name, value in options.items():
        if name not in known:
            _elsewhere(version, name)
        quantities = VERSIONS[version].quantities
        given[name] = _checked(name, known[name], value, admission=admission, quantities=quantities)
    values = {name: option.default for name, option in known.items()}
    if version in _OLD_PER_GIB:
        values["completion_timeout_per_gib"] = _OLD_PER_GIB[version]
    values |= given
    if "allow_workload_disruption" in known and "allow_workload_disruption" not in given:
        values["allow_workload_disruption"] = values["allow_post_copy"]
    for name in given:
        group = known[name].group
        if group and not values[group]:
            raise UsageError(f"option {name!r} has no effect without {group}=true")
    return Policy(version=version, options=MappingProxyType(values), given=frozenset(given))


def _elsewhere(version: str, name: str) -> None:
    having = [other for other, family in VERSIONS.items() if name in family.options]
    if having:
        raise UsageError(f"option {name!r} is not in KubeVirt {version}; it came with {having[0]}")
    raise unknown("option", name, VERSIONS[version].options)


def policy(name: str, *, admission: bool = True, **options: Any) -> Policy:
    """A policy by its name on the command line: kubevirt-VERSION, with -stall (stall detection) or -tuning (downtime
    tuning) behind it where the version has that. Raises UsageError for an unknown one, naming the nearest.

    >>> policy("kubevirt-1.9-stall").options["stall_detection"]
    True
    """
    if name not in policy_names():
        raise unknown("policy", name, policy_names())
    _, version, *feature = name.split("-")
    flag = {"stall": "stall_detection", "tuning": "downtime_tuning"}
    return kubevirt(version, admission=admission, **{flag[f]: True for f in feature}, **options)


def policy_names() -> list[str]:
    """Every name that `policy` knows."""
    names = []
    for version, family in VERSIONS.items():
        names.append(f"kubevirt-{version}")
        names += [f"kubevirt-{version}-stall"] if "stall_detection" in family.options else []
        names += [f"kubevirt-{version}-tuning"] if "downtime_tuning" in family.options else []
    return names


def _checked(name: str, option: Option, value: Any, *, admission: bool, quantities: bool) -> int | bool | str:
    if option.kind == "flag":
        return read_flag(name, value)
    if option.kind == "factor":
        return _checked_factor(name, option, value, admission=admission, quantities=quantities)
    try:
        number = int(str(value).replace("_", "?"))
    except ValueError:
        raise UsageError(f"option {name!r}: {value!r} is not a whole number ({option.kind})") from None
    low, high = int(option.lowest or 0), int(option.highest if option.highest is not None else 2**63 - 1)
    if not -(2**63) <= number < 2**63 or (admission and not low <= number <= high):
        top = f" to {high}" if option.highest is not None else " or more"
        raise UsageError(f"option {name!r}: {number} is out of range; must be {low}{top}")
    return number


def read_flag(name: str, value: Any) -> bool:
    """true or false, as text or not. Raises UsageError for anything else."""
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise UsageError(f"option {name!r}: {value!r} is neither true nor false")


def _checked_factor(name: str, option: Option, value: Any, *, admission: bool, quantities: bool) -> str:
    """As text, the way it was written: versions read the same digits into different floats."""
    try:
        number = parse_quantity(str(value)) if quantities else Decimal(str(value))
    except (InvalidOperation, UsageError):
        raise UsageError(f"option {name!r}: {value!r} is not a number") from None
    text = str(number) if quantities else str(value)
    finite = number.is_finite()
    if not admission and finite and abs(number) < 10**300:
        return text
    low, high = option.lowest, option.highest
    too_low = finite and low is not None and (number < low or (option.above and number == low))
    if not finite or too_low or (high is not None and number > high):
        opening = "above " if option.above else "at least "
        raise UsageError(f"option {name!r}: {value} is out of range; must be {opening}{low}"
                         + (f", at most {high}" if high is not None else ""))  # fmt: skip
    if number != round(number, 3):
        raise UsageError(f"option {name!r}: {value} has more than 3 decimals")
    return text


def computed_options(family: Family, values: Mapping[str, Any], *, data_size_gb: int, has_vfio: bool) -> Options:
    """Options by name into the numbers that the rules compute with; names that the version lacks fall to zero."""
    max_downtime_ms = int(values.get("max_downtime_ms", 0))
    factor = quantity_factor if family.quantities else float
    initial_ms, start_after = int(values.get("initial_ms", 150)), int(values.get("start_after_iteration", 3))
    return Options(
        ends_with_job=family.ends_with_job,
        disruption_gate=family.disruption_gate,
        progress_timeout_s=int(values["progress_timeout"]),
        acceptable_s=wrap(int(values["completion_timeout_per_gib"]) * data_size_gb),
        allow_post_copy=bool(values["allow_post_copy"]),
        allow_workload_disruption=bool(values.get("allow_workload_disruption", False)),
        has_vfio=has_vfio,
        max_downtime_ms=max_downtime_ms,
        tuning=bool(values.get("downtime_tuning", False)),
        tuning_initial_ms=min(initial_ms if initial_ms >= 0 else 150, max_downtime_ms),
        tuning_steps=max(int(values.get("steps", 7)), 1),
        tuning_start_after=start_after if start_after >= 0 else 3,
        tuning_cooldown_ns=max(int(values.get("cooldown_seconds", 10)), 1) * NS_PER_S,
        stall=bool(values.get("stall_detection", False)),
        margin=float(values.get("stall_margin", 0)) / 100,
        window_ms=wrap(int(values.get("stall_progress_timeout", 0)) * 1000),
        switchover_s=int(values.get("switchover_timeout", 0)),
        alpha=factor(values.get("ewma_alpha", "0")),
        precopy_factor=factor(values.get("precopy_possible_factor", "0")),
        decay=factor(values.get("patience_window_decay_factor", "0")),
        completion_factor=factor(values.get("completion_timeout_factor", "0")),
        search_minima=bool(values.get("search_local_minima", False)),
    )


def quantity_factor(text: str | float) -> float:
    """A factor as main reads it: a Kubernetes quantity, in canonical form a whole number of units, thousandths,
    millionths or billionths, made a float by one multiplication. 0.7 becomes 700 x 10^-3 = 0.7000000000000001."""
    number = Decimal(str(text))
    for places in (0, 3, 6, 9):
        scaled = number.scaleb(places)
        if scaled == scaled.to_integral_value():
            return float(int(scaled)) * 10.0**-places
    raise UsageError(f"{text}: more than 9 decimals do not fit a quantity")
