"""The guest as libvirt is told of it, and its disk."""

from __future__ import annotations

import os
from pathlib import Path
from xml.sax.saxutils import escape

from migkit.errors import MigkitError
from migkit.lab.command import find
from migkit.lab.guest import EMULATOR, TCG_FLUSH_MS, GuestImage, command_line
from migkit.lab.hosts import Lab
from migkit.lab.scenario import Guest
from migkit.units import MIB

IMAGES = "/var/lib/libvirt/images"


def settings(guest: Guest, accelerator: str) -> dict[str, object]:
    """What the guest's program is told on the kernel's command line."""
    names = ("pattern", "ws_mib", "ws_end_mib", "ramp_s", "rate_mibps", "rest_mibps", "burst_on_s", "burst_off_s",
             "hot_ratio", "cpu_bound", "hb_ms")  # fmt: skip
    told: dict[str, object] = {name: getattr(guest, name) for name in names}
    return told | {"seed": guest.seed or 0} | {"flush_ms": TCG_FLUSH_MS if accelerator == "tcg" else 0}


def xml(name: str, guest: Guest, image: GuestImage, *, serial: Path, accelerator: str) -> str:
    """The domain: one processor, a serial port that connects to `serial`, a disk if the scenario wants one."""
    disk = f"""
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='{IMAGES}/{name}.raw'/>
      <target dev='vda' bus='virtio'/>
    </disk>"""
    return f"""<domain type='{"kvm" if accelerator == "kvm" else "qemu"}'>
  <name>{name}</name>
  <memory unit='MiB'>{guest.memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64'>hvm</type>
    <kernel>{escape(str(image.kernel))}</kernel>
    <initrd>{escape(str(image.initramfs))}</initrd>
    <cmdline>{escape(command_line(settings(guest, accelerator)))}</cmdline>
  </os>
  <features><acpi/></features>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>{find(EMULATOR)}</emulator>{disk if guest.disk_mib else ""}
    <controller type='usb' model='none'/>
    <serial type='unix'><source mode='connect' path='{escape(str(serial))}'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>"""


def make_disks(lab: Lab, name: str, guest: Guest, *, destination: str = "same") -> None:
    """A full disk on the source and an empty one on the destination, under the same path on either host: of the same
    size, half as large (small), or none (missing)."""
    if not guest.disk_mib:
        return
    try:
        with open(_disk(lab, "a", name), "wb") as full:
            for _ in range(guest.disk_mib):
                full.write(os.urandom(MIB))
        if destination != "missing":
            with open(_disk(lab, "b", name), "wb") as empty:
                empty.truncate(guest.disk_mib * MIB // (2 if destination == "small" else 1))
    except OSError as error:
        raise MigkitError(f"{lab.folder}: the guest's disk cannot be made ({error.strerror or error})") from None


def remove_disks(lab: Lab, name: str) -> None:
    """Removes what `make_disks` made."""
    for host in ("a", "b"):
        _disk(lab, host, name).unlink(missing_ok=True)


def _disk(lab: Lab, host: str, name: str) -> Path:
    return lab.folder / host / "lib" / "images" / f"{name}.raw"
