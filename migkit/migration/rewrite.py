"""The destination's domain XML of a volume migration: the size of each moving disk, and its new path where a file
becomes a block device or the other way round.

Rules: kubevirt/kubevirt v1.3.0 to main at d923fdb815, pkg/virt-launcher/virtwrap/live-migration-source.go, paths from
pkg/host-disk and pkg/hotplug-disk. A version stands for its first release: 1.4.1 and 1.5.1 already do as 1.6. Not done
here: what v1.6 to v1.9 do besides (file paths of the target's domain, dedicated CPUs), which needs the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final
from xml.dom import minidom

from migkit.errors import MigkitError
from migkit.migration.request import known_version, since
from migkit.migration.vmi import MigratedVolume, Vmi
from migkit.migration.volumes import classify, domain_root, volume_name

_HOST_DISKS: Final = "/var/run/kubevirt-private/vmi-disks"
_HOTPLUG_DISKS: Final = "/var/run/kubevirt/hotplug-disks"


def rewritten(version: str, xml: str, vmi: Vmi, sizes: Mapping[str, int]) -> str:
    """The domain XML that goes to the destination. What is not concerned stays as it is written.

    Parameters: `sizes`, the virtual size in bytes of each moving volume's image, by volume: neither manifest nor XML
    tells it, KubeVirt asks the image. Raises MigkitError where KubeVirt refuses too (a disk without an alias or a
    path), and for a size that is missing.
    """
    domain_root(xml)
    if not since(known_version(version), "1.3"):
        return xml
    classes = classify(version, vmi)
    root = minidom.parseString(xml).documentElement
    assert root is not None
    disks = [disk for devices in _children(root, "devices") for disk in _children(devices, "disk")]
    moving = {volume.name: volume for volume in vmi.migrated}
    plugged = {volume.name for volume in vmi.volumes if volume.hotpluggable} if since(version, "1.6") else set()
    for disk in disks:
        name = _volume_of(disk)
        if name in classes and classes[name].kind == "local":
            _rewrite(version, disk, moving[name], sizes, hotplugged=name in plugged)
    text: str = root.toxml()
    return text + "\n"


def moving_disks(version: str, xml: str, vmi: Vmi) -> list[str]:
    """The volumes whose disks are rewritten, in the domain's order."""
    local = {name for name, found in classify(version, vmi).items() if found.kind == "local"}
    aliases = (disk.find("alias") for disk in domain_root(xml).iterfind("devices/disk"))
    names = [volume_name(alias.get("name", "")) for alias in aliases if alias is not None]
    return [name for name in names if name in local]


def _volume_of(disk: minidom.Element) -> str:
    alias = next(_children(disk, "alias"), None)
    if alias is None:
        target = next(_children(disk, "target"), None)
        which = target.getAttribute("dev") if target is not None else "?"
        raise MigkitError(f"domain XML: disk {which} has no alias: KubeVirt refuses to migrate it (empty alias)")
    return volume_name(alias.getAttribute("name"))


def _rewrite(
    version: str, disk: minidom.Element, volume: MigratedVolume, sizes: Mapping[str, int], *, hotplugged: bool
) -> None:
    source = next(_children(disk, "source"), None)
    if source is None:
        raise MigkitError(f"domain XML: the disk of volume {volume.name} has no source")
    store = next(_children(source, "dataStore"), None)
    inner = None if store is None else next(_children(store, "source"), None)
    if store is not None and inner is None:
        raise MigkitError(f"domain XML: the disk of volume {volume.name} has a dataStore without a source")
    owner = disk
    if inner is not None and store is not None and since(version, "1.9"):
        owner, source = store, inner
    if not (inner or source).hasAttribute("file") and not (inner or source).hasAttribute("dev"):
        raise MigkitError(f"domain XML: the disk of volume {volume.name} has no path")
    _slice(version, source, volume.name, sizes)
    modes = (volume.source_mode, volume.destination_mode)
    if modes == ("Filesystem", "Block"):
        path = f"{_HOTPLUG_DISKS}/{volume.name}" if hotplugged else f"/dev/{volume.name}"
        _repoint(owner, source, "block", "dev", path)
    elif modes == ("Block", "Filesystem"):
        folder = f"{_HOST_DISKS}/{volume.name}"
        inside = f"{folder}/disk.img" if since(version, "1.4") else folder
        _repoint(owner, source, "file", "file", f"{_HOTPLUG_DISKS}/{volume.name}.img" if hotplugged else inside)


def _slice(version: str, source: minidom.Element, name: str, sizes: Mapping[str, int]) -> None:
    """From v1.6 on only where there are no slices; before, the first one is overwritten."""
    slices = next(_children(source, "slices"), None)
    if slices is not None and since(version, "1.6"):
        return
    if name not in sizes:
        raise MigkitError(f"the virtual size of volume {name} is in no manifest: give it, e.g. --disk-size {name}=10Gi "
                          f"(qemu-img info tells it)")  # fmt: skip
    if slices is None:
        slices = source.appendChild(_new(source, "slices"))
    one = next(_children(slices, "slice"), None)
    if one is None:
        one = slices.appendChild(_new(source, "slice"))
    for attribute, value in (("type", "storage"), ("offset", "0"), ("size", str(sizes[name]))):
        one.setAttribute(attribute, value)


def _repoint(owner: minidom.Element, source: minidom.Element, kind: str, attribute: str, path: str) -> None:
    for old in ("file", "dev"):
        if source.hasAttribute(old):
            source.removeAttribute(old)
    source.setAttribute(attribute, path)
    owner.setAttribute("type", kind)


def _new(near: minidom.Element, tag: str) -> minidom.Element:
    document = near.ownerDocument
    assert document is not None
    return document.createElement(tag)


def _children(element: minidom.Element, tag: str) -> Iterator[minidom.Element]:
    for child in element.childNodes:
        if isinstance(child, minidom.Element) and child.tagName == tag:
            yield child
