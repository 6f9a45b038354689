"""All that is asked of libvirt for one guest, from its options, its manifest and its domain's XML together.

`migkit flags` tells it and `migkit migrate` asks for it: both go through here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from migkit.capture.domain_xml import host_devices
from migkit.migration.request import MigrationOptions, Request, request
from migkit.migration.vmi import Vmi
from migkit.migration.volumes import Classified, DiskChoice, classify, copy_list, domain_root

# The first libvirt that knows it (include/libvirt/libvirt-domain.h). KubeVirt brings a newer one; other hosts may not.
_ZEROES: Final = "migrate_disks_detect_zeroes"
_ZEROES_SINCE: Final = (10, 9, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked for one guest.

    Attributes: `volumes`, their classes by name, where there is a VMI; `disks`, which are copied and why, None where
    nobody looked into a domain's XML; `block_migration`; `data_size_gb`, the size behind the completion deadline, None
    without a VMI; `has_vfio`, None where neither VMI nor XML tells.
    """

    request: Request
    volumes: Mapping[str, Classified] = field(default_factory=dict)
    disks: list[DiskChoice] | None = None
    block_migration: bool = False
    data_size_gb: int | None = None
    has_vfio: bool | None = None


def plan(
    version: str, options: MigrationOptions, *, vmi: Vmi | None = None, xml: str | None = None,
    block_migration: bool = False, paused: bool = False, ephemeral_bytes: int = 0, libvirt: str = "",
) -> Plan:  # fmt: skip
    """What a KubeVirt version asks of libvirt for a guest.

    Parameters: `version`, `options`, `paused` as in `request`; `vmi`, the guest's manifest; `xml`, its domain's;
    `block_migration` asks for it even where the VMI does not; `ephemeral_bytes`, the files of ephemeral disks;
    `libvirt`, the version of the daemon that is asked, e.g. "9.0.0": what it does not know is left out, and a note says
    so. Raises MigkitError for an XML that is no domain's, and what `request` and `classify` raise.
    """
    volumes = classify(version, vmi) if vmi else {}
    disks = None if xml is None else copy_list(xml, volumes)
    block = block_migration or (vmi is not None and vmi.block_migration)
    copied = None if disks is None else [disk.target for disk in disks if disk.copied]
    asked = request(version, options, block_migration=block, paused=paused, copy_disks=copied)
    return Plan(
        request=known_to(libvirt, asked), volumes=volumes, disks=disks, block_migration=block,
        data_size_gb=vmi.data_size_gb(version, ephemeral_bytes=ephemeral_bytes) if vmi else None,
        has_vfio=_has_vfio(vmi, xml),
    )  # fmt: skip


def known_to(libvirt: str, asked: Request) -> Request:
    """The request as a libvirt of this version takes it; unchanged where the version is unknown.

    >>> asked = request("1.9", MigrationOptions(), block_migration=True, copy_disks=["vda"])
    >>> list(known_to("9.0.0", asked).parameters), list(known_to("10.9.0", asked).parameters)[1:]
    (['parallel.connections', 'migrate_disks'], ['migrate_disks', 'migrate_disks_detect_zeroes'])
    """
    version = tuple(int(part) for part in libvirt.split(".") if part.isdigit())
    if not version or version >= _ZEROES_SINCE or _ZEROES not in asked.parameters:
        return asked
    kept = {name: value for name, value in asked.parameters.items() if name != _ZEROES}
    note = f"{_ZEROES} is left out: libvirt {libvirt} does not know it (10.9.0 does), so zeroes of a disk are sent too"
    return dataclasses.replace(asked, parameters=kept, notes=(*asked.notes, note))


def _has_vfio(vmi: Vmi | None, xml: str | None) -> bool | None:
    """Whether either tells of an assigned device; None where there is neither."""
    told = [] if vmi is None else [vmi.has_vfio]
    if xml is not None:
        told += [any(vfio for _, vfio in host_devices(domain_root(xml)))]
    return any(told) if told else None
