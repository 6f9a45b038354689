"""How the guest is made and told what to do."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from migkit.errors import MigkitError
from migkit.lab import command, domain, guest
from migkit.lab.hosts import Host, Lab
from migkit.lab.scenario import Guest, Migration


def test_every_setting_of_a_scenario_is_read_by_the_guests_program() -> None:
    source = guest.SOURCE.read_text()
    for name in domain.settings(Guest(), "tcg"):
        assert f'"{name}"' in source


def test_a_guest_without_hardware_virtualisation_flushes_its_tlb() -> None:
    assert domain.settings(Guest(), "tcg")["flush_ms"] == guest.TCG_FLUSH_MS
    assert domain.settings(Guest(), "kvm")["flush_ms"] == 0


def test_truth_is_one_on_the_kernels_command_line() -> None:
    assert guest.command_line({"cpu_bound": True, "ws_mib": 8, "pattern": "idle"}).endswith(
        " cpu_bound=1 ws_mib=8 pattern=idle"
    )


@pytest.mark.parametrize(("accelerator", "kind"), [("kvm", "kvm"), ("tcg", "qemu")])
def test_the_domain_is_of_the_accelerators_kind(monkeypatch: pytest.MonkeyPatch, accelerator: str, kind: str) -> None:
    monkeypatch.setattr(domain, "find", lambda name: f"/usr/bin/{name}")
    image = guest.GuestImage(kernel=Path("/k&k"), initramfs=Path("/i"))
    told = Guest(memory_mib=300, disk_mib=8)
    root = ElementTree.fromstring(domain.xml("g", told, image, serial=Path("/s"), accelerator=accelerator))
    assert root.get("type") == kind
    assert root.findtext("memory") == "300"
    assert root.findtext("os/kernel") == "/k&k"
    assert root.find("devices/disk/source") is not None


def test_the_archive_is_what_a_kernel_reads() -> None:
    archive = guest._cpio([("dev", 0o040755, b""), ("init", 0o100755, b"program")])
    assert archive.startswith(b"070701")
    assert len(archive) % 4 == 0
    assert archive.index(b"init\0") < archive.index(b"program") < archive.index(b"TRAILER!!!\0")


def test_a_chosen_kernel_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIGKIT_LAB_CACHE", str(tmp_path))
    monkeypatch.setenv("MIGKIT_LAB_KERNEL", "/nowhere/vmlinuz")
    with pytest.raises(MigkitError, match="MIGKIT_LAB_KERNEL=/nowhere/vmlinuz: no such file"):
        guest.image()


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIGKIT_LAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(MigkitError, match="the guest cannot be made there"):
        guest.image()


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_PATH", "/nowhere")
    with pytest.raises(MigkitError, match="the lab needs libvirtd: apt-get install libvirt-daemon-system"):
        command.find("libvirtd")


def test_a_command_that_fails_tells_its_last_words_in_one_line() -> None:
    with pytest.raises(MigkitError) as caught:
        command.call("sh", "-c", "echo one >&2; echo two >&2; exit 3")
    assert str(caught.value).endswith("failed: two")


def test_a_command_that_hangs_is_given_up() -> None:
    with pytest.raises(MigkitError, match="did not finish within"):
        command.call("sleep", "60", timeout_s=0.05)


@pytest.mark.parametrize(("kind", "size"), [("same", 4), ("small", 2), ("missing", None)])
def test_the_destinations_volume_is_as_asked(tmp_path: Path, kind: str, size: int | None) -> None:
    host = Host(name="a", folder=tmp_path / "a", address="x", holder=0, net_ns=0)
    lab = Lab(folder=tmp_path, a=host, b=host, accelerator="tcg")
    for name in ("a", "b"):
        (tmp_path / name / "lib" / "images").mkdir(parents=True)
    domain.make_disks(lab, "g", Guest(disk_mib=4), destination=kind)
    volume = tmp_path / "b" / "lib" / "images" / "g.raw"
    assert (volume.stat().st_size if volume.exists() else None) == (size and size * 2**20)
    domain.remove_disks(lab, "g")
    assert not list(tmp_path.rglob("*.raw"))


def test_what_a_scenario_asks_for_reaches_libvirt() -> None:
    pytest.importorskip("libvirt")
    from migkit.lab import control

    asked = Migration(
        bandwidth_mibps=32, post_copy=True, post_copy_bandwidth_mibps=4, parallel_connections=3, xbzrle_cache_mib=2
    )
    found = control.parameters(asked, "10.0.0.1")
    assert found["bandwidth.postcopy"] == 4
    assert found["parallel.connections"] == 3
    assert (found["compression"], found["compression.xbzrle.cache"]) == (["xbzrle"], 2 * 2**20)
    names = {"VIR_MIGRATE_POSTCOPY", "VIR_MIGRATE_PARALLEL", "VIR_MIGRATE_COMPRESSED"}
    assert names < set(control.flags(asked)[1])
    assert not names & set(control.flags(Migration(bandwidth_mibps=32))[1])
