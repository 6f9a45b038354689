"""The guest's facts are read from libvirt's description."""

from __future__ import annotations

from migkit.capture.domain_xml import accelerator_from_xml, domain_from_xml
from migkit.meta import Disk

XML = """
<domain type='kvm' id='7'>
  <name>web1</name>
  <uuid>b6f3ac8e-0000-4000-8000-000000000001</uuid>
  <memory unit='KiB'>8388608</memory>
  <currentMemory unit='KiB'>4194304</currentMemory>
  <vcpu placement='static' current='2'>8</vcpu>
  <devices>
    <disk type='file' device='disk'>
      <source file='/srv/web1.qcow2'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='network' device='disk'>
      <source protocol='rbd' name='pool/web1'/><target dev='vdb' bus='virtio'/><readonly/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    %s
  </devices>
</domain>
"""
PCI = """<hostdev mode='subsystem' type='pci' managed='yes'>
  <source><address domain='0x0000' bus='0x3b' slot='0x02' function='0x1'/></source></hostdev>"""
MEDIATED = """<hostdev mode='subsystem' type='mdev' model='vfio-pci'>
  <source><address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source></hostdev>"""
USB = "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>"
VF = """<interface type='hostdev'>
  <source><address type='pci' domain='0x0000' bus='0x17' slot='0x0a' function='0x0'/></source></interface>"""


def test_name_memory_processors_and_disks():
    domain = domain_from_xml(XML % "")
    assert (domain.name, domain.uuid) == ("web1", "b6f3ac8e-0000-4000-8000-000000000001")
    assert domain.memory_bytes == 4 * 2**30
    assert domain.vcpus == 2
    assert domain.disks == (
        Disk(target="vda", kind="file", source="/srv/web1.qcow2"),
        Disk(target="vdb", kind="network", source="pool/web1", read_only=True),
        Disk(target="sda", kind="file", device="cdrom", read_only=True),
    )
    assert domain.has_vfio is False
    assert accelerator_from_xml(XML % "") == "kvm"


def test_assigned_devices_are_told_apart():
    domain = domain_from_xml(XML % (PCI + MEDIATED + USB + VF))
    assert domain.host_devices == (
        "pci 0000:3b:02.1", "mdev c2177883-f1bb-47f0-914d-32a22e3a8804", "usb", "interface 0000:17:0a.0",
    )  # fmt: skip
    assert domain.has_vfio is True
    assert domain_from_xml(XML % VF).has_vfio is True


def test_a_usb_device_is_not_assigned_by_vfio():
    assert domain_from_xml(XML % USB).has_vfio is False
