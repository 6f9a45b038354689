"""Which disks are copied, per version, from a VMI's manifest and a domain's XML as KubeVirt writes them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from migkit.errors import MigkitError
from migkit.migration import classify, copy_list, read_vmi
from migkit.migration.vmi import Vmi, Volume
from migkit.policies.versions import VERSIONS

HERE = Path(__file__).parent / "manifests"
MANIFEST = yaml.safe_load((HERE / "vmi.yaml").read_text())
XML = (HERE / "domain.xml").read_text()
BEFORE_1_3 = ("0.59", "1.0", "1.1", "1.2")
FROM_1_3_TO_1_5 = ("1.3", "1.4", "1.5")


def manifest() -> dict:
    return copy.deepcopy(MANIFEST)


def kinds(version: str, body: dict) -> dict[str, str]:
    return {name: found.kind for name, found in classify(version, read_vmi(body)).items()}


def copied(version: str, body: dict, xml: str = XML) -> list[str]:
    return [disk.target for disk in copy_list(xml, classify(version, read_vmi(body))) if disk.copied]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_classes_of_a_vmi_in_every_version(version):
    old = version in BEFORE_1_3
    assert kinds(version, manifest()) == {
        "rootdisk": "shared",
        "data": "" if old else "local",
        "blockdata": "shared" if old else "local",
        "plugged": "shared",
        "cloudinit": "generated",
        "scratch": "",
        "seed": "generated",
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_copy_list_keeps_the_domains_order(version):
    old = version in BEFORE_1_3
    assert copied(version, manifest()) == (["vdb"] if old else ["vdb", "vdc"]) + ["vdd", "vde", "vdf"]


@pytest.mark.parametrize("version", [version for version in VERSIONS if version not in BEFORE_1_3])
@pytest.mark.parametrize("by_claim", [True, False])
def test_a_shared_host_disk_that_moves_is_shared_until_1_5(version, by_claim):
    body = manifest()
    if by_claim:
        body["status"]["volumeStatus"][1]["persistentVolumeClaimInfo"]["accessModes"] = ["ReadWriteMany"]
    else:
        body["spec"]["volumes"][1] = {"name": "data", "hostDisk": {"path": "/x", "type": "Disk", "shared": True}}
    assert kinds(version, body)["data"] == ("shared" if version in FROM_1_3_TO_1_5 else "local")
    assert ("vdb" in copied(version, body)) == (version not in FROM_1_3_TO_1_5)


@pytest.mark.parametrize(
    ("change", "source"),
    [
        ({"volumeMode": "Block"}, "persistentVolumeClaim"),
        ({"volumeMode": None}, "hostDisk"),
        ({}, "hostDisk"),
    ],
)
def test_a_claim_with_a_file_system_reaches_the_launcher_as_a_host_disk(change, source):
    body = manifest()
    body["status"]["volumeStatus"][1]["persistentVolumeClaimInfo"] |= change
    assert next(v for v in read_vmi(body).volumes if v.name == "data").source == source


def test_a_claim_stays_one_where_it_is_hotplugged_passed_through_or_of_unknown_mode():
    body = manifest()
    assert next(v for v in read_vmi(body).volumes if v.name == "plugged").source == "persistentVolumeClaim"
    body["spec"]["domain"]["devices"]["filesystems"] = [{"name": "data", "virtiofs": {}}]
    assert next(v for v in read_vmi(body).volumes if v.name == "data").source == "persistentVolumeClaim"
    body = manifest()
    del body["status"]["volumeStatus"]
    assert next(v for v in read_vmi(body).volumes if v.name == "data").source == "persistentVolumeClaim"


def test_a_host_disk_that_does_not_say_shared_breaks_old_versions_and_has_no_class_later():
    vmi = Vmi(where="a.yaml", volumes=(Volume(name="local", source="hostDisk"),))
    for version in BEFORE_1_3:
        with pytest.raises(MigkitError, match=r"a\.yaml: hostDisk local leaves `shared` out"):
            classify(version, vmi)
    assert classify("1.3", vmi)["local"].kind == ""


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("configMap", "generated"), ("secret", "generated"), ("downwardAPI", "generated"),
        ("serviceAccount", "generated"), ("cloudInitConfigDrive", "generated"), ("cloudInitNoCloud", "generated"),
        ("containerDisk", "generated"), ("emptyDisk", ""), ("ephemeral", ""), ("sysprep", ""), ("memoryDump", ""),
        ("downwardMetrics", ""), ("dataVolume", "shared"), ("persistentVolumeClaim", "shared"),
    ],
)  # fmt: skip
def test_every_kind_of_volume_has_its_class(source, kind):
    body = {"spec": {"volumes": [{"name": "v", source: {}}]}}
    assert kinds("1.9", body) == {"v": kind}


DISK = "<disk type='{type}' device='{device}'><target dev='vdz'/>{more}<alias name='{alias}'/></disk>"


@pytest.mark.parametrize(
    ("disk", "is_copied", "why"),
    [
        ({"device": "cdrom", "alias": "ua-seed"}, False, "a CD-ROM"),
        ({"more": "<readonly/>", "alias": "ua-data"}, False, "read-only, and not generated"),
        ({"more": "<readonly/>", "alias": "ua-seed"}, True, "generated: a containerDisk"),
        ({"type": "network", "alias": "ua-data"}, False, "of type network, neither file nor block"),
        ({"type": "block", "alias": "ua-rootdisk"}, False, "shared: a dataVolume"),
        ({"alias": "ua-scratch"}, True, "an emptyDisk has no class, so it is copied"),
        ({"alias": "virtio-disk0"}, True, "no volume of that name: copied like whatever has no class"),
        ({"alias": "data"}, True, "local: a claim with a file system that moves to other storage"),
    ],
)  # fmt: skip
def test_each_rule_of_the_copy_list_says_why(disk, is_copied, why):
    text = DISK.format(**{"type": "file", "device": "disk", "more": "", **disk})
    (choice,) = copy_list(f"<domain><devices>{text}</devices></domain>", classify("1.9", read_vmi(manifest())))
    assert (choice.target, choice.copied, choice.why) == ("vdz", is_copied, why)


def test_without_a_manifest_every_plain_disk_is_copied():
    assert [disk.copied for disk in copy_list(XML, {})] == [True] * 7


@pytest.mark.parametrize(
    ("xml", "said"),
    [("", "cannot be read"), ("<domain", "cannot be read"), ("<pool/>", "its root is <pool>")],
)
def test_what_is_no_domain_is_refused(xml, said):
    with pytest.raises(MigkitError, match=said):
        copy_list(xml, {})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"spec": 5}, "spec is not an object"),
        ({"spec": {"volumes": {"a": 1}}}, "spec.volumes is not a list of objects"),
        ({"spec": {"volumes": [{"secret": {}}]}}, "spec.volumes[0] has no name"),
        ({"spec": {"domain": {"memory": {"guest": "lots"}}}}, "memory: 'lots' is not a quantity"),
        ({"status": {"migratedVolumes": [{"volumeName": "a", "sourcePVCInfo": 3}]}}, "a PVCInfo is not an object"),
        ({"status": {"migratedVolumes": [{"volumeName": "a", "sourcePVCInfo": {"capacity": 3}}]}},
         "capacity is not an object"),
        ({"spec": {"domain": {"resources": {"limits": {"cpu": []}}}}}, None),
    ],
)  # fmt: skip
def test_a_manifest_of_another_shape_names_the_field(body, said):
    if said is None:
        assert read_vmi(body).cpu_limit == 0
        return
    with pytest.raises(MigkitError) as caught:
        read_vmi(body, "web1.yaml")
    assert str(caught.value).startswith("web1.yaml: ")
    assert said in str(caught.value)


def test_the_data_size_takes_the_smaller_of_capacity_and_request_from_1_3_on():
    vmi = read_vmi(manifest())
    assert vmi.data_size_gb("1.2") == 5
    # 4 + 10 + 5 GiB, in decimal gigabytes, rounded up.
    assert vmi.data_size_gb("1.3") == 21
    assert vmi.data_size_gb("1.9", ephemeral_bytes=10**10) == 31


def test_ephemeral_files_count_only_where_blocks_are_copied():
    body = manifest()
    body["status"]["migrationMethod"] = "LiveMigration"
    assert read_vmi(body).data_size_gb("1.9", ephemeral_bytes=10**10) == 21


@pytest.mark.parametrize(
    "claim",
    [None, {}, {"capacity": {"storage": "5Gi"}}, {"requests": {"storage": "5Gi"}},
     {"capacity": {"storage": "1500m"}, "requests": {"storage": "5Gi"}}],
)  # fmt: skip
def test_a_migrated_volume_of_unknown_size_counts_nothing(claim):
    body = {"status": {"migratedVolumes": [{"volumeName": "a", "sourcePVCInfo": claim}]}}
    assert read_vmi(body).migrated[0].source_bytes == 0


def test_the_requested_memory_stands_in_for_the_guests():
    body = {"spec": {"domain": {"resources": {"requests": {"memory": "2Gi"}}}}}
    assert read_vmi(body).data_size_gb("1.9") == 3
    assert read_vmi({}).data_size_gb("1.9") == 0


@pytest.mark.parametrize(
    ("devices", "vfio"),
    [
        ({}, False),
        ({"interfaces": [{"name": "default", "masquerade": {}}]}, False),
        ({"interfaces": [{"name": "net1", "sriov": {}}]}, True),
        ({"gpus": [{"name": "gpu1", "deviceName": "nvidia.com/A16"}]}, True),
        ({"hostDevices": [{"name": "hd1", "deviceName": "intel.com/qat"}]}, True),
    ],
)
def test_vfio_is_a_host_device_a_gpu_or_a_sriov_interface(devices, vfio):
    assert read_vmi({"spec": {"domain": {"devices": devices}}}).has_vfio is vfio


def test_what_decides_on_parallel_connections_is_read():
    body = {
        "metadata": {"annotations": {"kubevirt.io/multiThreadedQemuMigration": "6"}},
        "spec": {
            "domain": {"cpu": {"dedicatedCpuPlacement": True}, "resources": {"limits": {"cpu": 2}}},
        },
    }
    vmi = read_vmi(body)
    assert (vmi.parallel_threads, vmi.cpu_limit, vmi.dedicated_cpus) == (6, "2", True)
    body["metadata"]["annotations"]["kubevirt.io/multiThreadedQemuMigration"] = "many"
    assert read_vmi(body).parallel_threads is None
