"""`migkit flags`: names, value, parameters, where every option comes from, which disks and why."""

from __future__ import annotations

import json

import pytest

from migkit.cli import main
from migkit.policies.versions import VERSIONS
from tests.migration.test_volumes import HERE

VMI, XML = str(HERE / "vmi.yaml"), str(HERE / "domain.xml")
PRINTED = ["--vmi", VMI, "--xml", XML, "--print-xml"]
CLUSTER = """
kind: KubeVirt
metadata: {name: kubevirt}
spec: {configuration: {migrations: {allowPostCopy: true, bandwidthPerMigration: 64Mi}}}
status: {observedKubeVirtVersion: v1.8.2}
"""


@pytest.fixture
def said(capsys):
    def run(*words: str, code: int = 0) -> str:
        assert main(["flags", *words]) == code
        out = capsys.readouterr()
        return out.err if code else out.out

    return run


@pytest.fixture
def cluster(tmp_path):
    path = tmp_path / "kubevirt.yaml"
    path.write_text(CLUSTER)
    return str(path)


def line(text: str, word: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if word in line.split())


def test_names_value_parameters_and_origins_are_printed(said, cluster):
    out = said("--config", cluster)
    assert "KubeVirt 1.8" in out.splitlines()[0]
    assert "flags 32779 (0x800b)" in out
    assert line(out, "VIR_MIGRATE_POSTCOPY")[1] == "32768"
    assert line(out, "bandwidth")[1] == "64"
    assert f"true  {cluster}: KubeVirt kubevirt: spec.configuration.migrations.allowPostCopy\n" in out
    assert "parallel connections are left out because post-copy is allowed" in out
    assert "volumes" not in out
    assert "deadline" not in out


def test_the_version_on_the_command_line_wins(said, cluster):
    assert "VIR_MIGRATE_PARALLEL" in said("--config", cluster, "--version", "1.9")


def test_a_vmi_and_its_domain_tell_classes_disks_and_the_deadline(said):
    out = said("--version", "1.9", "--vmi", VMI, "--xml", XML, "--set", "completion_timeout_per_gib=20")
    assert "VIR_MIGRATE_NON_SHARED_INC" in out
    assert line(out, "migrate_disks")[1:6] == ["vdb", "vdc", "vdd", "vde", "vdf"]
    assert line(out, "rootdisk")[:2] == ["rootdisk", "shared"]
    assert "vda   rootdisk   not copied  shared: a dataVolume" in out
    assert "completion deadline 420 s: 21 GB x 20 s (--set); files of ephemeral disks come on top" in out
    assert "completion deadline 460 s: 23 GB x 20 s (--set)\n" in said(
        "--version", "1.9", "--vmi", VMI, "--ephemeral", "2Gi", "--set", "completion_timeout_per_gib=20"
    )


def test_without_the_domain_its_disks_are_asked_for(said):
    out = said("--vmi", VMI)
    assert "which disks are copied follows from the domain's XML: give --xml FILE" in out
    assert "migrate_disks" not in out
    assert "no disk is listed" not in out


def test_every_version_has_its_line(said):
    lines = said("--all-versions", "--set", "allow_post_copy=true").splitlines()
    assert [text.split()[0] for text in lines] == list(VERSIONS)
    assert {text.split()[0] for text in lines if "PARALLEL" in text} == {"1.9", "main"}
    old = said("--all-versions", "--set", "compression=zstd").splitlines()[0]
    assert old.split(maxsplit=2)[2] == "option 'compression' is not in KubeVirt 0.59; it came with 1.9"


def test_json_has_everything(said):
    found = json.loads(said("--version", "1.9", "--vmi", VMI, "--xml", XML, "--paused", "--json"))
    assert found["flags"] & 32
    assert found["parameters"]["migrate_disks_detect_zeroes"] == ["vdb", "vdc", "vdd", "vde", "vdf"]
    assert found["volumes"]["data"]["class"] == "local"
    assert found["disks"][0] == {"target": "vda", "volume": "rootdisk", "copied": False, "why": "shared: a dataVolume"}
    assert (found["data_size_gb"], found["deadline_s"], found["has_vfio"]) == (21, 3150, False)


def test_the_destinations_xml_can_be_printed(said):
    sizes = ["--disk-size", "data=10Gi", "--disk-size", "blockdata=5Gi"]
    out = said("--vmi", VMI, "--xml", XML, *sizes, "--print-xml")
    assert '<source index="6" dev="/dev/data"><slices><slice type="storage" offset="0" size="10737418240"/>' in out
    assert out.startswith("<domain")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--version", "1.99"], 2, "unknown KubeVirt version '1.99': did you mean '1.9'?"),
        (["--set", "bandwith=3"], 2, "unknown option 'bandwith': did you mean 'bandwidth_per_migration'?"),
        (["--vmi", "nowhere.yaml"], 1, "nowhere.yaml: no such file"),
        (["--vmi", VMI, "--xml", "nowhere.xml"], 1, "nowhere.xml: cannot be read (No such file or directory)"),
        (["--vmi", XML], 1, "domain.xml: holds no Kubernetes object"),
        (["--xml", VMI], 1, "vmi.yaml: the domain XML cannot be read"),
        (["--print-xml"], 2, "--print-xml needs --vmi FILE and --xml FILE"),
        (["--vmi", VMI, "--xml", XML, "--print-xml"], 1, "give it, e.g. --disk-size data=10Gi"),
        (["--vmi", VMI, "--xml", XML, "--print-xml", "--disk-size", "data=big"], 2, "--disk-size data: 'big' is not"),
        (["--vmi", VMI, "--ephemeral", "some"], 2, "--ephemeral: 'some' is not a quantity"),
        (["--all-versions", "--version", "1.9"], 2, "leave out --version"),
        (["--vmi", VMI, "--ephemeral=-5Gi"], 2, "--ephemeral: -5Gi is no size of a file: it must be 0 or more"),
        (["--vmi", VMI, "--ephemeral", "1e99999999999"], 2, "--ephemeral: '1e99999999999' is not a quantity"),
        (["--ephemeral", "5Gi"], 2, "--ephemeral counts into the deadline of a VMI: give its manifest, too"),
        ([*PRINTED, "--disk-size", "data=-5Gi"], 2, "--disk-size data: -5Gi is no size of a file"),
        ([*PRINTED, "--disk-size", "dat=5Gi"], 2, "--disk-size: unknown volume 'dat': did you mean 'data'?"),
        (["--vmi", VMI, "--disk-size", "data=5Gi"], 2, "--disk-size is for --print-xml alone"),
        (["--set", "bandwidth_per_migration=8Ei"], 2, "bandwidth_per_migration: 8Ei is more than 64 bits hold"),
    ],
)
def test_what_is_wrong_is_one_line(said, words, code, text):
    error = said(*words, code=code)
    assert text in error
    assert error.count("\n") == 1


def test_a_version_that_is_not_known_yet_names_the_options_of_every_verb(said, tmp_path):
    path = tmp_path / "kubevirt.yaml"
    path.write_text(CLUSTER.replace("v1.8.2", "v1.99.0"))
    assert "name the nearest: --policy kubevirt-main, or --version main" in said("--config", str(path), code=1)
    assert "KubeVirt main" in said("--config", str(path), "--version", "main")


def test_a_host_device_of_the_domain_is_seen_without_one_in_the_manifest(said, tmp_path):
    path = tmp_path / "domain.xml"
    device = "<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x3b'/></source></hostdev>"
    path.write_text((HERE / "domain.xml").read_text().replace("</devices>", f"{device}</devices>"))
    assert "the guest has host devices" in said("--vmi", VMI, "--xml", str(path))


def test_a_configuration_is_no_vmi(said, cluster):
    assert "holds no VirtualMachineInstance" in said("--vmi", cluster, code=1)
