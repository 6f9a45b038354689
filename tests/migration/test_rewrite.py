"""The destination's XML of a volume migration, per version."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from migkit.errors import MigkitError
from migkit.migration import read_vmi, rewritten
from migkit.migration.rewrite import moving_disks
from migkit.policies.versions import VERSIONS
from tests.migration.test_volumes import BEFORE_1_3, XML, manifest

SIZES = {"data": 10 * 2**30, "blockdata": 5 * 2**30, "plugged": 2**30}
SINCE_1_3 = [version for version in VERSIONS if version not in BEFORE_1_3]
SINCE_1_6 = [version for version in SINCE_1_3 if version not in ("1.3", "1.4", "1.5")]


def disk(text: str, alias: str) -> ET.Element:
    return next(d for d in ET.fromstring(text).iter("disk") if d.find("alias").get("name") == alias)


def source(text: str, alias: str) -> tuple[str, dict, list[dict]]:
    found = disk(text, alias)
    inner = found.find("source")
    return found.get("type"), dict(inner.attrib), [dict(s.attrib) for s in inner.iterfind("slices/slice")]


def slice_of(size: int) -> dict:
    return {"type": "storage", "offset": "0", "size": str(size)}


@pytest.mark.parametrize("version", BEFORE_1_3)
def test_before_1_3_nothing_is_rewritten(version):
    assert rewritten(version, XML, read_vmi(manifest()), {}) == XML


@pytest.mark.parametrize("version", SINCE_1_3)
def test_a_file_becomes_a_block_device_with_its_size(version):
    text = rewritten(version, XML, read_vmi(manifest()), SIZES)
    assert source(text, "ua-data") == ("block", {"dev": "/dev/data", "index": "6"}, [slice_of(10 * 2**30)])


@pytest.mark.parametrize("version", SINCE_1_3)
def test_a_block_device_becomes_a_file_in_a_folder_of_its_own(version):
    text = rewritten(version, XML, read_vmi(manifest()), SIZES)
    folder = "/var/run/kubevirt-private/vmi-disks/blockdata"
    # The first version to do so forgot the file in the folder.
    path = folder if version == "1.3" else f"{folder}/disk.img"
    assert source(text, "ua-blockdata") == ("file", {"file": path, "index": "5"}, [slice_of(5 * 2**30)])


def test_other_disks_comments_and_namespaces_stay_as_they_are():
    text = rewritten("1.9", XML.replace("<devices>", "<devices><!-- kept -->"), read_vmi(manifest()), SIZES)
    assert "<!-- kept -->" in text
    assert '<kubevirt xmlns="http://kubevirt.io">' in text
    for alias in ("ua-rootdisk", "ua-plugged", "ua-cloudinit", "ua-scratch", "ua-seed"):
        assert ET.tostring(disk(text, alias)) == ET.tostring(disk(XML, alias))


def same_modes(body: dict) -> dict:
    for volume in body["status"]["migratedVolumes"]:
        volume["destinationPVCInfo"]["volumeMode"] = volume["sourcePVCInfo"]["volumeMode"]
    return body


def test_the_same_kind_of_storage_gets_a_size_only():
    text = rewritten("1.9", XML, read_vmi(same_modes(manifest())), SIZES)
    path = "/var/run/kubevirt-private/vmi-disks/data/disk.img"
    assert source(text, "ua-data") == ("file", {"file": path, "index": "6"}, [slice_of(10 * 2**30)])


def test_an_unknown_mode_of_the_destination_gets_a_size_only():
    body = manifest()
    del body["status"]["migratedVolumes"][0]["destinationPVCInfo"]["volumeMode"]
    assert source(rewritten("1.9", XML, read_vmi(body), SIZES), "ua-data")[0] == "file"


@pytest.mark.parametrize("version", SINCE_1_3)
@pytest.mark.parametrize("content", ["", "<slice type='storage' offset='512' size='7'/>"])
def test_slices_that_exist_are_overwritten_until_1_5_and_left_alone_later(version, content):
    slices = f"index='6'><slices>{content}</slices></source>"
    text = rewritten(version, XML.replace("index='6'/>", slices), read_vmi(manifest()), SIZES)
    kept = [{"type": "storage", "offset": "512", "size": "7"}] if content else []
    assert source(text, "ua-data")[2] == (kept if version in SINCE_1_6 else [slice_of(10 * 2**30)])


def hotplugged(mode: tuple[str, str]) -> dict:
    body = manifest()
    moving = body["status"]["migratedVolumes"][0]
    moving["volumeName"] = "plugged"
    moving["sourcePVCInfo"]["volumeMode"], moving["destinationPVCInfo"]["volumeMode"] = mode
    return body


@pytest.mark.parametrize("version", SINCE_1_3)
def test_a_hotplugged_disk_has_its_own_paths_from_1_6_on(version):
    new = version in SINCE_1_6
    to_block = rewritten(version, XML, read_vmi(hotplugged(("Filesystem", "Block"))), SIZES)
    device = "/var/run/kubevirt/hotplug-disks/plugged" if new else "/dev/plugged"
    assert source(to_block, "ua-plugged")[:2] == ("block", {"dev": device, "index": "4"})
    to_file = rewritten(version, XML, read_vmi(hotplugged(("Block", "Filesystem"))), SIZES)
    assert (source(to_file, "ua-plugged")[1]["file"] == "/var/run/kubevirt/hotplug-disks/plugged.img") is new


DATA_STORE = """index='6'>
  <dataStore type='file'><format type='raw'/><source file='/data/disk.img'/></dataStore></source>"""


@pytest.mark.parametrize("version", SINCE_1_3)
def test_a_data_store_is_rewritten_inside_from_1_9_on(version):
    text = rewritten(version, XML.replace("index='6'/>", DATA_STORE), read_vmi(manifest()), SIZES)
    found = disk(text, "ua-data")
    inner, outer = found.find("source/dataStore/source"), found.find("source")
    if version in ("1.9", "main"):
        assert (dict(inner.attrib), found.find("source/dataStore").get("type")) == ({"dev": "/dev/data"}, "block")
        assert inner.find("slices/slice").attrib == slice_of(10 * 2**30)
        assert (found.get("type"), outer.find("slices")) == ("file", None)
    else:
        assert dict(inner.attrib) == {"file": "/data/disk.img"}
        assert (outer.get("dev"), outer.find("slices/slice").attrib) == ("/dev/data", slice_of(10 * 2**30))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<alias name='ua-scratch'/>", "", "disk vde has no alias"),
        ("<source file='/var/run/kubevirt-private/vmi-disks/data/disk.img' index='6'/>", "", "data has no source"),
        ("<source file='/var/run/kubevirt-private/vmi-disks/data/disk.img' index='6'/>", "<source/>", "has no path"),
        ("index='6'/>", "index='6'><dataStore type='file'/></source>", "a dataStore without a source"),
    ],
)
def test_what_kubevirt_refuses_is_refused(old, new, said):
    with pytest.raises(MigkitError, match=said):
        rewritten("1.9", XML.replace(old, new), read_vmi(manifest()), SIZES)


def test_a_size_that_nobody_told_is_asked_for():
    with pytest.raises(MigkitError, match="--disk-size data=10Gi"):
        rewritten("1.9", XML, read_vmi(manifest()), {"blockdata": 5})


def test_which_disks_move_is_told_in_the_domains_order():
    assert moving_disks("1.9", XML, read_vmi(manifest())) == ["data", "blockdata"]
    assert moving_disks("1.2", XML, read_vmi(manifest())) == []
