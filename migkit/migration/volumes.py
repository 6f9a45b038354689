"""Which disks KubeVirt has copied, and why: the class of every volume, and the copy list from a domain's XML.

Rules: kubevirt/kubevirt v0.59.0 to main at d923fdb815, pkg/virt-launcher/virtwrap/live-migration-source.go. A version
stands for its first release.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from migkit.errors import MigkitError
from migkit.migration.request import known_version, since
from migkit.migration.vmi import CLAIMS, Vmi, Volume, VolumeClass

_GENERATED: Final = {
    "configMap", "secret", "downwardAPI", "serviceAccount", "cloudInitNoCloud", "cloudInitConfigDrive", "containerDisk",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """A volume with its class: `shared` (both hosts reach it), `generated` (made anew by KubeVirt), `local` (moves to
    other storage), or empty; and the rule behind it."""

    volume: Volume
    kind: VolumeClass
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskChoice:
    """Whether a disk of the domain is copied, and why. `volume` is the name behind its alias, `target` its device."""

    target: str
    volume: str
    copied: bool
    why: str


def classify(version: str, vmi: Vmi) -> dict[str, Classified]:
    """The class of each volume of a VMI, by name, in its order.

    Volume migration, and with it the class `local`, came with v1.3; of a hostDisk `shared` won over it until v1.5.
    Raises MigkitError where KubeVirt itself breaks off: v0.59 to v1.2 cannot take a hostDisk that leaves `shared` out.
    """
    known_version(version)
    moving = {volume.name for volume in vmi.migrated} if since(version, "1.3") else set()
    return {volume.name: _classified(version, vmi, volume, volume.name in moving) for volume in vmi.volumes}


def _classified(version: str, vmi: Vmi, volume: Volume, moves: bool) -> Classified:
    kind: VolumeClass
    if volume.source in CLAIMS:
        kind, why = (
            ("local", f"a {volume.source} that moves to other storage") if moves else ("shared", f"a {volume.source}")
        )
    elif volume.source == "hostDisk":
        if volume.shared is None and not since(version, "1.3"):
            raise MigkitError(f"{vmi.where}: hostDisk {volume.name} leaves `shared` out, which KubeVirt {version} "
                              f"cannot take: set it")  # fmt: skip
        kind, why = _host_disk(version, volume, moves)
    elif volume.source in _GENERATED:
        kind, why = "generated", f"a {volume.source}"
    else:
        kind, why = "", f"{_a(volume.source or 'volume without a source')} has no class"
    return Classified(volume=volume, kind=kind, why=why)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def _host_disk(version: str, volume: Volume, moves: bool) -> tuple[VolumeClass, str]:
    what = "a claim with a file system" if volume.from_claim else "a hostDisk"
    access = "ReadWriteMany" if volume.from_claim else "shared: true"
    is_shared = volume.shared is True
    if moves and (since(version, "1.6") or not is_shared):
        return "local", f"{what} that moves to other storage"
    if is_shared:
        return "shared", f"{what}, {access}" + ("; until v1.5 that wins over its move" if moves else "")
    return "", f"{what} that is not {access} has no class"


def copy_list(xml: str, classes: Mapping[str, Classified]) -> list[DiskChoice]:
    """Every disk of a domain in its order, with whether it is copied. `classes` as `classify` gives them; a disk whose
    volume has none is copied. Raises MigkitError when the text is no domain XML."""
    return [_choice(disk, classes) for disk in domain_root(xml).iterfind("devices/disk")]


def domain_root(xml: str) -> ET.Element:
    """The root of a domain's XML. Raises MigkitError when it is none."""
    try:
        root = ET.fromstring(xml)
    except ET.ParseError as error:
        raise MigkitError(f"the domain XML cannot be read: {error}") from None
    if root.tag != "domain":
        raise MigkitError(f"the XML is not that of a domain: its root is <{root.tag}>")
    return root


def volume_name(alias: str) -> str:
    """The volume behind a disk's alias.

    >>> volume_name("ua-rootdisk")
    'rootdisk'
    """
    return alias.removeprefix("ua-")


def _choice(disk: ET.Element, classes: Mapping[str, Classified]) -> DiskChoice:
    alias, target = disk.find("alias"), disk.find("target")
    name = "" if alias is None else volume_name(alias.get("name", ""))
    device = "" if target is None else target.get("dev", "")
    copied, why = _decided(disk, classes.get(name))
    return DiskChoice(target=device, volume=name, copied=copied, why=why)


def _decided(disk: ET.Element, classified: Classified | None) -> tuple[bool, str]:
    kind = "" if classified is None else classified.kind
    source = disk.get("type", "")
    if disk.get("device") == "cdrom":
        return False, "a CD-ROM"
    if disk.find("readonly") is not None and kind != "generated":
        return False, "read-only, and not generated"
    if source not in ("file", "block"):
        return False, f"of type {source or '(none)'}, neither file nor block"
    if classified is None:
        return True, "no volume of that name: copied like whatever has no class"
    if kind == "shared":
        return False, f"shared: {classified.why}"
    return True, f"{kind}: {classified.why}" if kind else f"{classified.why}, so it is copied"
