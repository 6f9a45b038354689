"""What KubeVirt asks of libvirt, per version."""

from __future__ import annotations

import pytest

from migkit.errors import UsageError
from migkit.migration import FLAGS, PARAMETERS, MigrationOptions, bandwidth_mibps, flags_value, request
from migkit.policies.versions import VERSIONS

ALWAYS = ("VIR_MIGRATE_LIVE", "VIR_MIGRATE_PEER2PEER", "VIR_MIGRATE_PERSIST_DEST")
PLAIN = MigrationOptions()


def short(version: str, **options: object) -> set[str]:
    """Flags beyond those that are always there, without their prefix."""
    asked = request(version, MigrationOptions(**options))
    return {name.removeprefix("VIR_MIGRATE_") for name in asked.flag_names if name not in ALWAYS}


def test_flags_and_parameters_are_libvirts_own():
    libvirt = pytest.importorskip("libvirt")
    assert {name: value for name, (value, _) in FLAGS.items()} == {name: getattr(libvirt, name) for name in FLAGS}
    known = {getattr(libvirt, name) for name in dir(libvirt) if name.startswith("VIR_MIGRATE_PARAM_")}
    # Libvirt 10.9 brought detect-zeroes; older bindings have no name for it.
    assert set(PARAMETERS) - known <= {"migrate_disks_detect_zeroes"}


@pytest.mark.parametrize("version", VERSIONS)
def test_live_peer_to_peer_and_persistent_are_always_asked_for(version):
    asked = request(version, MigrationOptions(cpu_limit="2"))
    assert (asked.flag_names, asked.flags, asked.parameters) == (ALWAYS, 1 + 2 + 8, {})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("option", "flag"),
    [("allow_auto_converge", "AUTO_CONVERGE"), ("allow_post_copy", "POSTCOPY"),
     ("unsafe_migration_override", "UNSAFE")],
)  # fmt: skip
def test_an_option_is_a_flag_in_every_version(version, option, flag):
    assert flag in short(version, **{option: True})
    assert flag not in short(version)


def test_how_the_domain_is_adds_flags():
    assert "VIR_MIGRATE_PAUSED" in request("0.59", PLAIN, paused=True).flag_names
    assert "VIR_MIGRATE_NON_SHARED_INC" in request("0.59", PLAIN, block_migration=True).flag_names


def test_the_value_is_the_sum_of_the_names():
    asked = request("1.9", MigrationOptions(allow_post_copy=True, compression="zstd"), paused=True)
    assert asked.flags == 1 | 2 | 8 | 32 | 2048 | 32768 | 131072 == flags_value(asked.flag_names)


# The history of parallel connections: who sets them, and what keeps them away.
PARALLEL = {
    "nothing": ({}, {"1.5", "1.6", "1.7", "1.8", "1.9", "main"}),
    "annotation": ({"parallel_threads": 4, "cpu_limit": "1"}, {"1.0", "1.1", "1.2", "1.3", "1.4"}),
    "annotation and post-copy": (
        {"parallel_threads": 4, "cpu_limit": "1", "allow_post_copy": True}, {"1.0", "1.1", "1.2", "1.3", "1.4"}),
    "post-copy": ({"allow_post_copy": True}, {"1.9", "main"}),
    "CPU limit": ({"cpu_limit": "500m"}, set()),
    "CPU limit of 0": ({"cpu_limit": "0"}, {"1.5", "1.6", "1.7", "1.8", "1.9", "main"}),
    "dedicated CPUs": ({"dedicated_cpus": True}, {"1.5", "1.6", "1.7", "1.8"}),
}  # fmt: skip


@pytest.mark.parametrize(("options", "versions"), PARALLEL.values(), ids=PARALLEL)
def test_parallel_connections_have_a_history(options, versions):
    assert {version for version in VERSIONS if "PARALLEL" in short(version, **options)} == versions
    for version in VERSIONS:
        parameters = request(version, MigrationOptions(**options)).parameters
        connections = options.get("parallel_threads", 8) if version in versions else None
        assert parameters.get("parallel.connections") == connections


def test_compression_came_with_1_9_and_knows_zstd_only():
    assert {v for v in VERSIONS if "COMPRESSED" in short(v, compression="zstd")} == {"1.9", "main"}
    assert request("1.9", MigrationOptions(compression="zstd")).parameters["compression"] == "zstd"
    for method in ("", "none", "zlib"):
        assert "COMPRESSED" not in short("main", compression=method)


def test_zstd_without_parallel_connections_is_told_to_be_refused():
    asked = request("1.9", MigrationOptions(compression="zstd", cpu_limit="2"))
    assert "VIR_MIGRATE_COMPRESSED" in asked.flag_names
    assert any("would be refused" in note for note in asked.notes)


@pytest.mark.parametrize(
    ("quantity", "mibps"),
    [
        (0, 0), ("0", 0), ("1", 1), ("1048575", 1), ("1Mi", 1), ("1572863", 1), ("1572864", 2), ("1536Ki", 2),
        ("64Mi", 64), ("100M", 95), ("10Gi", 10240), ("1G", 954), ("500m", 0), ("1500m", 1),
    ],
)  # fmt: skip
def test_bandwidth_in_mib_is_rounded_as_kubevirt_does(quantity, mibps):
    assert bandwidth_mibps(quantity) == mibps
    parameters = request("1.9", MigrationOptions(bandwidth_per_migration=quantity)).parameters
    assert parameters.get("bandwidth") == (mibps or None)


def test_the_copy_list_goes_with_detect_zeroes_from_1_5_on():
    disks = ["vda", "vdb"]
    for version in VERSIONS:
        parameters = request(version, PLAIN, block_migration=True, copy_disks=disks).parameters
        assert parameters["migrate_disks"] == disks
        zeroes = parameters.get("migrate_disks_detect_zeroes")
        assert zeroes == (None if version in ("0.59", "1.0", "1.1", "1.2", "1.3", "1.4") else disks)
    assert "migrate_disks" not in request("1.9", PLAIN, block_migration=True).parameters


@pytest.mark.parametrize(
    ("disks", "block_migration", "note"),
    [
        ([], True, "no disk is listed: libvirt then chooses itself (every writable disk that is not shareable)"),
        (["vda"], False, "disks are listed, but without VIR_MIGRATE_NON_SHARED_INC libvirt copies none"),
        (None, True, None), (["vda"], True, None), ([], False, None),
    ],
)  # fmt: skip
def test_disks_and_block_migration_that_do_not_go_together_are_told(disks, block_migration, note):
    asked = request("1.9", PLAIN, block_migration=block_migration, copy_disks=disks)
    assert asked.notes == (() if note is None else (note,))


@pytest.mark.parametrize(
    ("version", "options", "said"),
    [
        ("1.88", {}, "did you mean '1.8'"),
        ("1.9", {"bandwidth_per_migration": "fast"}, "bandwidth_per_migration: 'fast' is not a quantity"),
        ("1.9", {"bandwidth_per_migration": "-1Mi"}, "is less than 0"),
        ("1.4", {"parallel_threads": 0}, "must be 1 or more"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(version, options, said):
    with pytest.raises(UsageError, match=said):
        request(version, MigrationOptions(**options))
