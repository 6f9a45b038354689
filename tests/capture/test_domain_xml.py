"""The guest's facts are read from libvirt's description."""

from __future__ import annotations

import pytest

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


# As KubeVirt's virt-launcher and libvirt itself write them in a running domain.
VGPU = """<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci' display='on' ramfb='on'>
  <source><address uuid='aa618089-8b16-4d01-a136-25a0f3c73123'/></source>
  <alias name='ua-gpu-gpu1'/>
  <address type='pci' domain='0x0000' bus='0x09' slot='0x00' function='0x0'/></hostdev>"""
WHOLE_GPU = """<hostdev mode='subsystem' type='pci' managed='no'>
  <driver name='vfio'/>
  <source><address domain='0x0000' bus='0xca' slot='0x00' function='0x0'/></source>
  <alias name='ua-gpu-gpu1'/>
  <address type='pci' domain='0x0000' bus='0x0a' slot='0x00' function='0x0'/></hostdev>"""
SRIOV_OF_KUBEVIRT = """<hostdev mode='subsystem' type='pci' managed='no'>
  <driver name='vfio'/>
  <source><address domain='0x0000' bus='0x65' slot='0x02' function='0x5'/></source>
  <alias name='ua-sriov-net1'/></hostdev>"""
SRIOV_OF_LIBVIRT = """<interface type='hostdev' managed='yes'>
  <mac address='52:54:00:6d:90:02'/>
  <driver name='vfio'/>
  <source><address type='pci' domain='0x0000' bus='0x07' slot='0x10' function='0x1'/></source>
  <teaming type='transient' persistent='ua-backup0'/>
  <alias name='hostdev0'/></interface>"""
SCSI = """<hostdev mode='subsystem' type='scsi' managed='no'>
  <source><adapter name='scsi_host0'/><address bus='0' target='0' unit='0'/></source>
  <alias name='hostdev0'/></hostdev>"""
ORDINARY = "<interface type='ethernet'><mac address='02:00:00:00:00:01'/><model type='virtio'/></interface>"


@pytest.mark.parametrize(
    ("device", "described", "vfio"),
    [
        (VGPU, ("mdev aa618089-8b16-4d01-a136-25a0f3c73123",), True),
        (WHOLE_GPU, ("pci 0000:ca:00.0",), True),
        (SRIOV_OF_KUBEVIRT, ("pci 0000:65:02.5",), True),
        (SRIOV_OF_LIBVIRT, ("interface 0000:07:10.1",), True),
        (ORDINARY, (), False),
    ],
)
def test_gpus_and_sriov_interfaces_are_recognised_as_they_are_written(device, described, vfio):
    domain = domain_from_xml(XML % device)
    assert (domain.host_devices, domain.has_vfio) == (described, vfio)


def test_a_scsi_device_is_listed_and_is_not_vfio():
    domain = domain_from_xml(XML % SCSI)
    assert domain.host_devices == ("scsi 0:0:0",)
    assert domain.has_vfio is False
