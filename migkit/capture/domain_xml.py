"""The facts of a guest out of libvirt's XML description of it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Final

from migkit.meta import Disk, Domain
from migkit.units import GIB, KIB, MIB

_UNITS: Final = {
    "b": 1, "bytes": 1, "KB": 10**3, "k": KIB, "KiB": KIB, "MB": 10**6, "M": MIB, "MiB": MIB, "GB": 10**9, "G": GIB,
    "GiB": GIB, "TB": 10**12, "T": 1024 * GIB, "TiB": 1024 * GIB,
}  # fmt: skip
_ACCELERATORS: Final = {"kvm": "kvm", "qemu": "tcg"}


def domain_from_xml(xml: str) -> Domain:
    """Name, uuid, memory, processors, disks and assigned devices. Disks come without their capacity."""
    root = ET.fromstring(xml)
    memory = root.find("currentMemory")
    memory = root.find("memory") if memory is None else memory
    vcpu = root.find("vcpu")
    devices = host_devices(root)
    return Domain(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        memory_bytes=None if memory is None else int(memory.text or 0) * _UNITS[memory.get("unit", "KiB")],
        vcpus=None if vcpu is None else int(vcpu.get("current") or vcpu.text or 0),
        disks=tuple(_disk(disk) for disk in root.iterfind("devices/disk")),
        host_devices=tuple(description for description, _ in devices),
        has_vfio=any(vfio for _, vfio in devices),
    )


def accelerator_from_xml(xml: str) -> str:
    """kvm or tcg; empty for another hypervisor."""
    return _ACCELERATORS.get(ET.fromstring(xml).get("type", ""), "")


def _disk(disk: ET.Element) -> Disk:
    source, target = disk.find("source"), disk.find("target")
    return Disk(
        target="" if target is None else target.get("dev", ""),
        kind=disk.get("type", ""),
        device=disk.get("device", "disk"),
        source="" if source is None else _first(source, "file", "dev", "name", "volume", "dir"),
        read_only=disk.find("readonly") is not None,
    )


def _first(element: ET.Element, *names: str) -> str:
    return next((element.attrib[name] for name in names if name in element.attrib), "")


def host_devices(root: ET.Element) -> list[tuple[str, bool]]:
    """A domain's assigned devices: a short description of each, and whether VFIO assigns it (PCI and mediated devices
    yes, USB and SCSI no)."""
    found = [(_described(e), e.get("type") in ("pci", "mdev")) for e in root.iterfind("devices/hostdev")]
    return found + [(_described(e), True) for e in root.iterfind("devices/interface[@type='hostdev']")]


def _described(element: ET.Element) -> str:
    address = element.find("source/address")
    if address is None:
        return element.get("type", "") or element.tag
    if element.get("type") == "scsi":
        return "scsi " + ":".join(address.get(name, "0") for name in ("bus", "target", "unit"))
    parts = [address.attrib[name].removeprefix("0x") for name in ("domain", "bus", "slot") if name in address.attrib]
    place = address.get("uuid") or ":".join(parts) + "." + address.get("function", "0x0").removeprefix("0x")
    return f"{'interface' if element.tag == 'interface' else element.get('type', '')} {place}"
