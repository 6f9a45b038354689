"""The lines of KubeVirt's virt-launcher (and one of virt-handler) that tell of a migration.

Format strings: kubevirt/kubevirt pkg/virt-launcher/virtwrap/live-migration-source.go, stall-detector.go and
pkg/virt-handler (vm.go, migration-source.go), every release from v0.55.0 to main at d923fdb815; the JSON around them:
staging/src/kubevirt.io/client-go/log/log.go. A line of statistics names its units; that Mbps meant bytes / 8 000 000
in v1.0.1 to v1.2.0, and bits since, it does not say.
"""

from __future__ import annotations

import datetime
import json
import re
from typing import Any, NamedTuple

STATISTICS = "Migration info for "

_STATISTICS = re.compile(
    r"Migration info for (?P<uid>\S*): TimeElapsed:(\d{1,20})ms "
    r"DataProcessed:(\d{1,20})(?P<bytes>B|MiB) DataRemaining:(\d{1,20})(?P=bytes) DataTotal:(\d{1,20})(?P=bytes) "
    r"MemoryProcessed:(\d{1,20})(?P=bytes) MemoryRemaining:(\d{1,20})(?P=bytes) MemoryTotal:(\d{1,20})(?P=bytes) "
    r"MemoryBandwidth:(\d{1,20})(?P<rate>B/s|Mbps) DirtyRate:(\d{1,20})(?P=rate) "
    r"Iteration:(\d{1,20}) PostcopyRequests:(\d{1,20}) "
    r"ConstantPages:(\d{1,20}) NormalPages:(\d{1,20}) NormalData:(\d{1,20})(?P=bytes) "
    r"(?:ExpectedDowntime:(?P<expected>\d{1,20})ms|Downtime:(?P<downtime>\d{1,20})ms DowntimeNet:(?P<net>\d{1,20})ms) "
    r"Disk(?:Bps|Mbps):(?P<disk>\d{1,20})(?: CompressionRatio:(?P<ratio>[\d.]+)x)?(?P<more>(?: \w+:\S+)*)",
    re.ASCII,
)
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_US = datetime.timedelta(microseconds=1)


class Entry(NamedTuple):
    """One line: when it was written (None: nobody knows), of which guest, what it says.

    `guest` is the VMI's UID, else its namespace and name, else empty; `source` and `iteration` stand in the lines of a
    monitor with stall detection; `reason` is the error beside the message.
    """

    wall_ns: int | None
    message: str
    uid: str = ""
    namespace: str = ""
    name: str = ""
    source: str = ""
    iteration: int | None = None
    reason: str = ""
    told: bool = False

    @property
    def guest(self) -> str:
        """What tells guests apart."""
        return self.uid or (f"{self.namespace}/{self.name}" if self.name else "")


class Statistics(NamedTuple):
    """The numbers of one line as they are printed, in its own units."""

    elapsed_ms: int
    processed: int
    remaining: int
    total: int
    memory_processed: int
    memory_remaining: int
    memory_total: int
    bandwidth: int
    dirty_rate: int
    iteration: int
    postcopy_requests: int
    constant_pages: int
    normal_pages: int
    normal_data: int
    migration: str
    in_mib: bool
    in_mbps: bool
    disk_rate: int
    expected_ms: int | None
    downtime_ms: int | None
    downtime_net_ms: int | None
    more: str


class Sample(NamedTuple):
    """A line of statistics. `order` counts lines as they came; `final` are those of the completed job; `named` says
    whether the line named its guest, `told` whether it was JSON."""

    order: int
    wall_ns: int | None
    source: str
    iteration: int | None
    said: Statistics
    final: bool
    place: str
    named: bool = False
    told: bool = False


class Event(NamedTuple):
    """Any other line. `migration` is the UID of the migration that it is of, where that is known."""

    order: int
    item: Entry
    place: str
    migration: str = ""


def entry(text: bytes) -> Entry | None:
    """A log line taken apart, with or without the JSON around it; None where it is cut or of another kind."""
    start = text.find(b'{"')
    if start >= 0 and text.rstrip().endswith(b"}"):
        found = _from_json(text[start:])
        if found is not None:
            return found
    if start >= 0 and b'"component"' in text:
        return None
    return _bare(text)


def _from_json(text: bytes) -> Entry | None:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("msg"), str):
        return None
    words = {key: value for key, value in said.items() if isinstance(value, str)}
    iteration = said.get("iteration")
    return Entry(
        wall_ns=_wall_ns(words.get("timestamp", "").encode("ascii", "replace")),
        message=words["msg"],
        uid=words.get("uid", ""),
        namespace=words.get("namespace", ""),
        name=words.get("name", ""),
        source=words.get("source", ""),
        iteration=iteration if type(iteration) is int and 0 <= iteration < 2**40 else None,
        reason=words.get("reason", ""),
        told=True,
    )


def _bare(text: bytes) -> Entry:
    """A message alone, perhaps with a time before it."""
    stamp = _TIME.search(text[:80])
    rest = text[stamp.end() :] if stamp else text
    return Entry(wall_ns=_wall_ns(stamp[0]) if stamp else None, message=rest.decode("utf-8", "replace").strip())


def _wall_ns(stamp: bytes) -> int | None:
    try:
        moment = datetime.datetime.fromisoformat(stamp.decode("ascii"))
        wall_ns = (moment - _EPOCH) // _US * 1000
    except (ValueError, TypeError, OverflowError):
        return None
    return wall_ns if 0 <= wall_ns < 2**62 else None


def statistics(message: str) -> Statistics | None:
    """The numbers of a line of statistics; None where it is cut short or of a form that no known version writes."""
    match = _STATISTICS.search(message)
    if match is None or match.end() != len(message.rstrip()):
        return None
    named = match.groupdict()
    optional = [None if named[key] is None else int(named[key]) for key in ("expected", "downtime", "net")]
    ratio = f"CompressionRatio:{named['ratio']}" if named["ratio"] else ""
    plain = [int(match[group]) for group in _PLAIN]
    units = [named["uid"], named["bytes"] == "MiB", named["rate"] == "Mbps"]
    return Statistics._make([*plain, *units, int(named["disk"]), *optional, f"{ratio}{named['more']}".strip()])


# The groups of _STATISTICS without a name, in order: the first fields of Statistics.
_PLAIN = [group for group in range(1, _STATISTICS.groups + 1) if group not in _STATISTICS.groupindex.values()]


class Done(NamedTuple):
    """Something that the monitor did to the migration, as its line says. `state`: "asked" before the call (a line of
    failure may follow), "done" or "failed" after it."""

    action: str
    state: str
    argument: int | None = None


_QEMU_LONGEST_MS = 2_000_000
_DONE: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), action, state)
    for pattern, action, state in (
        (r"[Ss]tarting post copy mode for migration", "start_post_copy", "asked"),
        (r"completion timeout reached: starting post-copy mode", "start_post_copy", "asked"),
        (r"failed to start post(?:-copy)? migration", "start_post_copy", "failed"),
        (r"Pausing the guest to allow migration to complete", "suspend", "asked"),
        (r"Signalling suspension failed", "suspend", "failed"),
        (r"Signaled pause for ", "suspend", "done"),
        (r"forcing switchover by setting max downtime to (?P<ms>\d{1,12})ms", "set_max_downtime", "asked"),
        (r"max downtime set to (?P<ms>\d{1,12})ms", "set_max_downtime", "asked"),
        (r"completion timeout reached: setting max downtime to (?P<ms>\d{1,12})ms", "set_max_downtime", "asked"),
        (r"Set max downtime to (?P<s>\d{1,12})s for ", "set_max_downtime", "done"),
        (r"[Ss]etting max downtime failed", "set_max_downtime", "failed"),
        (r"failed to set initial max downtime", "set_max_downtime", "failed"),
        (r"downtime tuning: max_downtime \d+ms -> (?P<ms>\d{1,12})ms", "set_max_downtime", "done"),
        (r"downtime tuning: failed to set max_downtime to (?P<ms>\d{1,12})ms", "set_max_downtime", "failed"),
        (r"[Aa]borting migration(?:: | due to )", "abort", "asked"),
        (r"Live migration abort detected with reason: ", "abort", "done"),
        (r"Live migration abort succeeded", "abort", "done"),
        (r"failed to (?:abort|cancel) migration", "abort", "failed"),
    )
)


def done(message: str) -> Done | None:
    """What the monitor did, by its line; None for a line of another kind."""
    for pattern, action, state in _DONE:
        match = pattern.match(message)
        if match is not None:
            values = match.groupdict()
            if values.get("s"):
                return Done(action, state, min(int(values["s"]) * 1000, _QEMU_LONGEST_MS))
            return Done(action, state, int(values["ms"]) if values.get("ms") else None)
    return None


# Lines worth keeping with a trace as they stand, though no column holds them.
NOTED = re.compile(
    r"initialized migration monitor: |downtime tuning enabled: |migration options matched for vmi |stall detected: |"
    r"relaxed best remaining bytes: |convergence action is nothing because: |[Ll]ive migration stuck for |"
    r"reconciling VM pause state|"
    r"failed to register migration iteration callback|registered migration iteration callback|"
    r"failed to get domain job info|Received a live migration error|VFIO VM detected|"
    r"generated migration parameters: |Initiating live migration|migration monitor failed to start|"
    r"Live migration failed|migration failed with error|Live migration succeeded|migration completed successfully|"
    r"Migration has been completed|Migration was canceled|Migration job failed|set migration result in metadata: "
)

_RESULT = re.compile(r"set migration result in metadata: \{(\S*) .*? true (.*?) ?(Succeeded|Failed|Aborting)? (\w+)\}")


# The lines of a monitor's start: the next migration's, however near the last one's end is.
OPENING = re.compile(
    r"initialized migration monitor: |downtime tuning enabled: |migration options matched for vmi |VFIO VM detected|"
    r"registered migration iteration callback|failed to register migration iteration callback|"
    r"generated migration parameters: |Initiating live migration"
)


def migration_of(message: str) -> str:
    """The UID of the migration that a line names though it names no guest; empty where it names none.

    >>> migration_of("set migration result in metadata: {0b7c9a10 2024-05-06 true Succeeded PreCopy}")
    '0b7c9a10'
    """
    match = _NAMING.match(message)
    return match[1] if match is not None else ""


def is_uid(text: str) -> bool:
    """Whether a text is a UID of Kubernetes; people mask them before they show a log."""
    return re.fullmatch(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text, re.ASCII) is not None


_NAMING = re.compile(r"set migration (?:result|abort status) in metadata: \{(\S+) ")


def outcome(item: Entry) -> tuple[str, str, str] | None:
    """(outcome, evidence, error text) that a line proves; None where it proves none."""
    message = item.message
    if message.startswith(("Live migration succeeded", "migration completed successfully", "Migration has been comp")):
        return ("completed", "the launcher's log", "")
    if message.startswith(("Migration was canceled", "Live migration abort succeeded")):
        return ("cancelled", "the launcher's log", "")
    if message.startswith("Live migration abort detected with reason: "):
        return ("cancelled", "the launcher's log", message.partition("reason: ")[2])
    result = _RESULT.match(message)
    if result is not None:
        aborted = result[3] == "Succeeded" or "has been aborted" in result[2] or "canceled by client" in result[2]
        return ("cancelled" if aborted else "failed", "the launcher's log", result[2])
    if message.startswith(("Live migration failed", "migration failed with error")):
        text = item.reason or message.partition("error: ")[2]
        return ("cancelled" if "canceled by client" in text else "failed", "the launcher's log", text)
    return None


_OPTIONS = {
    "progressTimeout": "progress_timeout", "completionTimeoutPerGiB": "completion_timeout_per_gib",
    "maxDowntimeMs": "max_downtime_ms", "allowPostCopy": "allow_post_copy",
    "allowWorkloadDisruption": "allow_workload_disruption", "stallDetection": "stall_detection",
    "stallMargin": "stall_margin", "stallProgressTimeout": "stall_progress_timeout",
    "switchoverTimeout": "switchover_timeout", "preCopyPossibleFactor": "precopy_possible_factor",
    "precopyPossibleFactor": "precopy_possible_factor", "patienceWindowDecayFactor": "patience_window_decay_factor",
    "bandwidthEWMAAlpha": "ewma_alpha", "ewmaAlpha": "ewma_alpha", "searchLocalMinima": "search_local_minima",
    "completionTimeoutFactor": "completion_timeout_factor", "initialMs": "initial_ms", "initial": "initial_ms",
    "steps": "steps", "startAfterIteration": "start_after_iteration", "cooldown": "cooldown_seconds",
    "cooldownSeconds": "cooldown_seconds", "ceiling": "max_downtime_ms",
}  # fmt: skip
_FACTORS = ("precopy_possible_factor", "patience_window_decay_factor", "ewma_alpha", "completion_timeout_factor")


def options(message: str) -> dict[str, int | bool | str]:
    """The effective options that a line of the monitor's start tells, by a policy's names for them."""
    if message.startswith("migration options matched for vmi "):
        return _options_of_json(message[message.find("{") :])
    if not message.startswith(("initialized migration monitor: ", "downtime tuning enabled: ")):
        return {}
    pairs = (word.partition("=") for word in message.partition(": ")[2].split())
    found = {_OPTIONS[key]: _value(_OPTIONS[key], value) for key, _, value in pairs if key in _OPTIONS}
    if message.startswith("downtime tuning"):
        found["downtime_tuning"] = True
    return {name: value for name, value in found.items() if value is not None}


def _value(name: str, text: str) -> int | bool | str | None:
    if text in ("true", "false"):
        return text == "true"
    number = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)(?:ms|s|%)?", text, re.ASCII)
    if number is None:
        return None
    if name in _FACTORS:
        return number[1]
    if name == "stall_margin" and not text.endswith("%"):
        return round(float(number[1]) * 100)
    return int(number[1]) if number[1].isdigit() else None


def _options_of_json(text: str) -> dict[str, int | bool | str]:
    try:
        told: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    found: dict[str, int | bool | str] = {}
    blocks = (told, told.get("StallDetectorOptions"), told.get("DowntimeTuning"))
    for flag, block in zip(("", "stall_detection", "downtime_tuning"), blocks, strict=True):
        if not isinstance(block, dict):
            continue
        found |= {flag: True} if flag else {}
        for key, value in block.items():
            name = _OPTIONS.get(key[:1].lower() + key[1:])
            if name in _FACTORS:
                found[name] = str(value)
            elif name == "stall_margin" and isinstance(value, float):
                found[name] = round(value * 100)
            elif name is not None and isinstance(value, int):
                found[name] = value
    return found
