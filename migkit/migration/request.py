"""What KubeVirt asks of libvirt for a migration: flags and parameters, per version.

Rules: kubevirt/kubevirt v0.59.0 to main at d923fdb815, pkg/virt-launcher/virtwrap/live-migration-source.go (flags and
parameters), pkg/virt-handler/vm.go and migration-source.go (threads), pkg/virt-launcher/virtwrap/converter/vcpu/vcpu.go
(bandwidth). Libvirt's conditions: src/qemu/qemu_migration_params.c. A version stands for its first release.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from migkit.errors import UsageError, unknown
from migkit.policies.size import parse_quantity
from migkit.policies.versions import VERSIONS
from migkit.units import MIB

# libvirt's virDomainMigrateFlags that KubeVirt uses: stable numbers, each with what it does.
FLAGS: Final[Mapping[str, tuple[int, str]]] = {
    "VIR_MIGRATE_LIVE": (1 << 0, "the guest runs on while its memory is copied"),
    "VIR_MIGRATE_PEER2PEER": (1 << 1, "the source's libvirt talks to the destination's by itself"),
    "VIR_MIGRATE_PERSIST_DEST": (1 << 3, "the domain is defined on the destination, not only started"),
    "VIR_MIGRATE_PAUSED": (1 << 5, "the guest is left paused on the destination, as it was on the source"),
    "VIR_MIGRATE_NON_SHARED_INC": (1 << 7, "disks that are not shared are copied too, the topmost image of each"),
    "VIR_MIGRATE_UNSAFE": (1 << 9, "libvirt's checks of cache modes and shared storage are passed over"),
    "VIR_MIGRATE_COMPRESSED": (1 << 11, "memory pages are compressed on the way"),
    "VIR_MIGRATE_AUTO_CONVERGE": (1 << 13, "the guest's processors are slowed down while its dirty rate is too high"),
    "VIR_MIGRATE_POSTCOPY": (1 << 15, "post-copy may be started later; by itself it changes nothing"),
    "VIR_MIGRATE_PARALLEL": (1 << 17, "memory is sent over several connections at once"),
}
# The parameters that may come with them, by libvirt's names, each with its unit and what it does.
PARAMETERS: Final[Mapping[str, str]] = {
    "bandwidth": "MiB/s, the most that the migration may send",
    "parallel.connections": "connections for VIR_MIGRATE_PARALLEL",
    "compression": "the method for VIR_MIGRATE_COMPRESSED",
    "migrate_disks": "targets of the disks that are copied",
    "migrate_disks_detect_zeroes": "targets of the disks of which zeroes are not sent",
}
# Options that not every version has: the first and the last that does.
_SPANS: Final = {
    "compression": ("1.9", "main"),
    "parallel_threads": ("1.0", "1.4"),
    "cpu_limit": ("1.5", "main"),
    "dedicated_cpus": ("1.9", "main"),
}
THREADS_ANNOTATION: Final = "kubevirt.io/multiThreadedQemuMigration"
_DEFAULT_THREADS: Final = 8
_NAMES = tuple(VERSIONS)


def since(version: str, first: str) -> bool:
    """Whether a version is `first` or a later one.

    >>> since("main", "1.9"), since("1.4", "1.5")
    (True, False)
    """
    return _NAMES.index(version) >= _NAMES.index(first)


def span(option: str) -> tuple[str, str]:
    """The first and the last version that an option of MigrationOptions means something to."""
    return _SPANS.get(option, (_NAMES[0], _NAMES[-1]))


def applies(version: str, option: str) -> bool:
    """Whether an option of MigrationOptions means something to a version."""
    first, last = span(option)
    return since(version, first) and since(last, version)


def known_version(version: str) -> str:
    """The version itself. Raises UsageError for one that migkit does not know; the nearest is named."""
    if version not in VERSIONS:
        raise unknown("KubeVirt version", version, VERSIONS)
    return version


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationOptions:
    """What KubeVirt's configuration and the VMI say about how to migrate, beside the monitor's own options.

    Attributes: `bandwidth_per_migration`, a quantity of bytes/s, 0 for no limit; `compression`, `zstd` or none (from
    v1.9 on); of the VMI: `parallel_threads`, its annotation (v1.0 to v1.4); `cpu_limit`, a quantity, and
    `dedicated_cpus`, which decide on parallel connections from v1.5 on.
    """

    allow_auto_converge: bool = False
    allow_post_copy: bool = False
    unsafe_migration_override: bool = False
    bandwidth_per_migration: str | int = 0
    compression: str = ""
    parallel_threads: int | None = None
    cpu_limit: str | int = 0
    dedicated_cpus: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of libvirt.

    Attributes: `flags`, their sum; `flag_names` by libvirt's names, in the order of their numbers; `parameters` by
    libvirt's names, in its units (bandwidth: MiB/s); `notes`, what the reader of a configuration may not expect.
    """

    flags: int
    flag_names: tuple[str, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def request(
    version: str, options: MigrationOptions, *, block_migration: bool = False, paused: bool = False,
    copy_disks: Iterable[str] | None = None,
) -> Request:  # fmt: skip
    """The flags and parameters that a KubeVirt version gives libvirt.

    Parameters: `version`, "0.59" to "1.9" or "main"; `block_migration`, the VMI's migration method is BlockMigration;
    `paused`, the domain is paused as the migration starts; `copy_disks`, the targets to copy, in the domain's order
    (see `copy_list`), None where nobody looked. What belongs to a host (URIs, the destination's XML) is the caller's.
    Raises UsageError for an unknown version, a bandwidth that is no quantity, or a number of threads below 1.

    >>> asked = request("1.8", MigrationOptions(bandwidth_per_migration="64Mi"))
    >>> asked.flag_names[-1], asked.parameters
    ('VIR_MIGRATE_PARALLEL', {'bandwidth': 64, 'parallel.connections': 8})
    """
    threads = parallel_connections(known_version(version), options)
    disks = None if copy_disks is None else list(copy_disks)
    method = _compression(version, options)
    wanted = {
        "VIR_MIGRATE_LIVE": True,
        "VIR_MIGRATE_PEER2PEER": True,
        "VIR_MIGRATE_PERSIST_DEST": True,
        "VIR_MIGRATE_PAUSED": paused,
        "VIR_MIGRATE_NON_SHARED_INC": block_migration,
        "VIR_MIGRATE_UNSAFE": options.unsafe_migration_override,
        "VIR_MIGRATE_COMPRESSED": bool(method),
        "VIR_MIGRATE_AUTO_CONVERGE": options.allow_auto_converge,
        "VIR_MIGRATE_POSTCOPY": options.allow_post_copy,
        "VIR_MIGRATE_PARALLEL": threads is not None,
    }
    names = tuple(name for name, on in wanted.items() if on)
    bandwidth = bandwidth_mibps(options.bandwidth_per_migration)
    parameters: dict[str, Any] = {
        "bandwidth": bandwidth or None,
        "parallel.connections": threads,
        "compression": method or None,
        "migrate_disks": disks or None,
        "migrate_disks_detect_zeroes": (disks or None) if since(version, "1.5") else None,
    }
    return Request(
        flags=flags_value(names),
        flag_names=names,
        parameters={name: value for name, value in parameters.items() if value is not None},
        notes=tuple(_notes(version, options, names, disks)),
    )


def flags_value(names: Iterable[str]) -> int:
    """The sum of flags given by libvirt's names."""
    return sum(FLAGS[name][0] for name in names)


def bandwidth_mibps(quantity: str | int) -> int:
    """A bandwidth in libvirt's MiB/s: half a MiB is rounded up, and anything below one is one. 0 means no limit.

    >>> bandwidth_mibps("100M"), bandwidth_mibps("1Ki"), bandwidth_mibps(0)
    (95, 1, 0)
    """
    try:
        number = parse_quantity(quantity)
    except UsageError as error:
        raise UsageError(f"bandwidth_per_migration: {error}") from None
    if number < 0:
        raise UsageError(f"bandwidth_per_migration: {quantity} is less than 0")
    if number >= 2**63:
        raise UsageError(f"bandwidth_per_migration: {quantity} is more than 64 bits hold (less than 8Ei bytes/s)")
    whole = int(number)
    return 1 if 0 < whole < MIB else int(whole / MIB + 0.5)


def parallel_connections(version: str, options: MigrationOptions) -> int | None:
    """How many connections carry memory at once; None for an ordinary migration.

    v1.0 to v1.4 take a VMI's annotation; v1.5 to v1.8 eight unless the VMI limits its CPU or post-copy is allowed;
    v1.9 and later eight unless it limits or owns its CPUs.
    """
    if not since(version, "1.0"):
        return None
    if not since(version, "1.5"):
        if options.parallel_threads is not None and options.parallel_threads < 1:
            raise UsageError(f"parallel_threads: {options.parallel_threads} must be 1 or more")
        return options.parallel_threads
    if parse_quantity(options.cpu_limit) != 0:
        return None
    held_back = options.dedicated_cpus if since(version, "1.9") else options.allow_post_copy
    return None if held_back else _DEFAULT_THREADS


def _compression(version: str, options: MigrationOptions) -> str:
    return "zstd" if options.compression == "zstd" and since(version, "1.9") else ""


def _notes(version: str, options: MigrationOptions, names: Iterable[str], disks: list[str] | None) -> Iterator[str]:
    flags = set(names)
    if options.allow_post_copy and since(version, "1.5") and not since(version, "1.9"):
        yield "parallel connections are left out because post-copy is allowed (v1.5 to v1.8)"
    if {"VIR_MIGRATE_POSTCOPY", "VIR_MIGRATE_PARALLEL"} <= flags:
        yield "some QEMU versions refuse post-copy together with parallel connections as the migration begins"
    if "VIR_MIGRATE_COMPRESSED" in flags and "VIR_MIGRATE_PARALLEL" not in flags:
        yield "libvirt takes zstd only together with VIR_MIGRATE_PARALLEL: this migration would be refused"
    if options.compression not in ("", "none") and "VIR_MIGRATE_COMPRESSED" not in flags:
        why = "an unknown method" if since(version, "1.9") else f"KubeVirt {version} has none"
        yield f"compression {options.compression} is passed over: {why}"
    if disks and "VIR_MIGRATE_NON_SHARED_INC" not in flags:
        yield "disks are listed, but without VIR_MIGRATE_NON_SHARED_INC libvirt copies none"
    if "VIR_MIGRATE_NON_SHARED_INC" in flags and disks == []:
        yield "no disk is listed: libvirt then chooses itself (every writable disk that is not shareable)"
