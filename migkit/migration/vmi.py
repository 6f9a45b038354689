"""What a VirtualMachineInstance's manifest says about its migration, read as virt-launcher gets it.

Fields: kubevirt/kubevirt staging/src/kubevirt.io/api/core/v1 from v0.59.0 to main at d923fdb815. What virt-handler
makes of it before it asks for a migration: pkg/host-disk/host-disk.go; capacities: pkg/storage/types/volume.go and
pvc.go; devices: pkg/vmitrait/vmitrait.go; threads: pkg/virt-handler/vm.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from migkit.errors import MigkitError, UsageError
from migkit.migration.request import THREADS_ANNOTATION, since
from migkit.policies.size import data_size_gb as size_of
from migkit.policies.size import parse_quantity

Fields = Mapping[str, Any]
VolumeClass = Literal["shared", "generated", "local", ""]
CLAIMS = ("persistentVolumeClaim", "dataVolume")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume of the VMI. `source` is the name of its source's field; `shared`, of a hostDisk only, None where the
    manifest leaves it out; `from_claim`, virt-handler made the hostDisk of a claim with a file system on it."""

    name: str
    source: str
    shared: bool | None = None
    from_claim: bool = False
    hotpluggable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MigratedVolume:
    """A volume that moves to other storage, by `status.migratedVolumes`. Modes are Filesystem, Block or, where nobody
    said, empty; `source_bytes` is what counts into the data size: the smaller of the claim's capacity and request."""

    name: str
    source_mode: str = ""
    destination_mode: str = ""
    source_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vmi:
    """The facts of a VMI. `memory`, the guest's or else the requested, is a quantity; `parallel_threads` comes from the
    annotation; `where` names the manifest in errors."""

    where: str
    volumes: tuple[Volume, ...] = ()
    migrated: tuple[MigratedVolume, ...] = ()
    memory: str | None = None
    block_migration: bool = False
    has_vfio: bool = False
    parallel_threads: int | None = None
    cpu_limit: str | int = 0
    dedicated_cpus: bool = False

    def data_size_gb(self, version: str, *, ephemeral_bytes: int = 0) -> int:
        """The size behind the completion deadline. `ephemeral_bytes`, the files of ephemeral disks, which no manifest
        tells, count where the migration copies blocks; migrated volumes count from v1.3 on."""
        migrated = [volume.source_bytes for volume in self.migrated] if since(version, "1.3") else []
        ephemeral = ephemeral_bytes if self.block_migration else 0
        return size_of(memory=self.memory, ephemeral_bytes=ephemeral, migrated_bytes=migrated)


def read_vmi(body: Fields, where: str = "VirtualMachineInstance") -> Vmi:
    """A VMI's facts from its manifest, an object as YAML or JSON gives it.

    Raises MigkitError that names the field which is not what KubeVirt writes there.
    """
    manifest = _Manifest(body, where)
    domain = ("spec", "domain")
    devices = (*domain, "devices")
    guest = manifest.get(*domain, "memory", "guest")
    memory = manifest.get(*domain, "resources", "requests", "memory") if guest is None else guest
    limit = manifest.get(*domain, "resources", "limits", "cpu")
    interfaces = manifest.items(*devices, "interfaces")
    assigned = manifest.items(*devices, "hostDevices") or manifest.items(*devices, "gpus")
    return Vmi(
        where=where,
        volumes=tuple(_volumes(manifest)),
        migrated=tuple(_migrated(manifest)),
        memory=None if memory is None else _quantity(memory, f"{where}: memory"),
        block_migration=manifest.get("status", "migrationMethod") == "BlockMigration",
        has_vfio=bool(assigned) or any("sriov" in interface for interface in interfaces),
        parallel_threads=_threads(manifest.get("metadata", "annotations", THREADS_ANNOTATION)),
        cpu_limit=_quantity(limit, f"{where}: resources.limits.cpu") if limit else 0,
        dedicated_cpus=manifest.get(*domain, "cpu", "dedicatedCpuPlacement") is True,
    )


@dataclass(frozen=True, slots=True)
class _Manifest:
    """Looks into an object of unknown shape."""

    body: Fields
    where: str

    def get(self, *names: str) -> Any:
        """What is at a path; None where there is nothing."""
        found: Any = self.body
        for depth, name in enumerate(names):
            if not isinstance(found, Mapping):
                raise MigkitError(f"{self.where}: {'.'.join(names[:depth])} is not an object with named fields")
            found = found.get(name)
            if found is None:
                return None
        return found

    def items(self, *names: str) -> list[Fields]:
        """The objects of a list at a path; empty where there is none."""
        found = self.get(*names)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
            raise MigkitError(f"{self.where}: {'.'.join(names)} is not a list of objects")
        return found

    def named(self, *names: str, key: str = "name") -> Iterator[tuple[str, Fields]]:
        """The objects of such a list by their names."""
        for index, item in enumerate(self.items(*names)):
            if not isinstance(item.get(key), str) or not item[key]:
                raise MigkitError(f"{self.where}: {'.'.join(names)}[{index}] has no {key}")
            yield item[key], item


def _volumes(manifest: _Manifest) -> Iterator[Volume]:
    """The volumes as virt-launcher gets them: a claim with a file system on it has become a hostDisk."""
    claims, hotplugged = {}, set()
    for name, status in manifest.named("status", "volumeStatus"):
        if isinstance(status.get("persistentVolumeClaimInfo"), Mapping):
            claims[name] = status["persistentVolumeClaimInfo"]
        if status.get("hotplugVolume") is not None:
            hotplugged.add(name)
    passed_through = {name for name, _ in manifest.named("spec", "domain", "devices", "filesystems")}
    for name, item in manifest.named("spec", "volumes"):
        source = next((field for field, value in item.items() if field != "name" and value is not None), "")
        value = item.get(source)
        inner: Fields = value if isinstance(value, Mapping) else {}
        claim = claims.get(name)
        replaced = source in CLAIMS and claim is not None and name not in hotplugged | passed_through
        if replaced and claim is not None and claim.get("volumeMode") != "Block":
            shared = "ReadWriteMany" in (claim.get("accessModes") or [])
            yield Volume(name=name, source="hostDisk", shared=shared, from_claim=True)
            continue
        plugged = source in (*CLAIMS, "memoryDump") and inner.get("hotpluggable") is True
        yield Volume(name=name, source=source, shared=inner.get("shared"), hotpluggable=plugged)


def _migrated(manifest: _Manifest) -> Iterator[MigratedVolume]:
    for name, item in manifest.named("status", "migratedVolumes", key="volumeName"):
        source, destination = item.get("sourcePVCInfo") or {}, item.get("destinationPVCInfo") or {}
        if not isinstance(source, Mapping) or not isinstance(destination, Mapping):
            raise MigkitError(f"{manifest.where}: status.migratedVolumes: {name}: a PVCInfo is not an object")
        yield MigratedVolume(
            name=name,
            source_mode=str(source.get("volumeMode") or ""),
            destination_mode=str(destination.get("volumeMode") or ""),
            source_bytes=_claim_bytes(source, f"{manifest.where}: status.migratedVolumes: {name}"),
        )


def _claim_bytes(claim: Fields, where: str) -> int:
    """Capacity or request, the smaller; nothing where one of them is missing or no whole number of bytes."""
    sizes = []
    for field in ("capacity", "requests"):
        inner = claim.get(field) or {}
        if not isinstance(inner, Mapping):
            raise MigkitError(f"{where}: {field} is not an object with named fields")
        if inner.get("storage") is None:
            return 0
        size = parse_quantity(_quantity(inner["storage"], f"{where}: {field}.storage"))
        if size != size.to_integral_value():
            return 0
        sizes.append(int(size))
    return min(sizes)


def _quantity(value: Any, where: str) -> str:
    try:
        parse_quantity(value)
    except UsageError as error:
        raise MigkitError(f"{where}: {error}") from None
    return str(value)


def _threads(annotation: Any) -> int | None:
    """KubeVirt passes over an annotation that is no number."""
    try:
        return int(str(annotation))
    except ValueError:
        return None
