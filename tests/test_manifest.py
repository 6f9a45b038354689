"""KubeVirt's own configuration into a policy, with the origin of every value."""

from __future__ import annotations

import json

import pytest

import migkit as mk
from migkit.cli import main
from migkit.errors import MigkitError, UsageError
from migkit.manifest import changed, defaults, manifest
from migkit.migration import MigrationOptions
from tests.conftest import TRACES

CLUSTER = """
kind: KubeVirt
metadata: {name: kubevirt}
spec:
  configuration:
    developerConfiguration: {featureGates: [MigrationStallDetection]}
    migrations: {completionTimeoutPerGiB: 20, progressTimeout: 60, parallelMigrationsPerCluster: 5}
status: {observedKubeVirtVersion: v1.9.0}
"""
POLICY = """
kind: MigrationPolicy
metadata: {name: fast}
spec:
  selectors: {}
  bandwidthPerMigration: 64Mi
  completionTimeoutPerGiB: 30
  experimental: {stallDetector: {stallMargin: 2, ewmaAlpha: "0.7"}}
"""


@pytest.fixture
def written(tmp_path):
    def write(*texts: str) -> list[str]:
        paths = [tmp_path / f"{i}.yaml" for i in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return [str(path) for path in paths]

    return write


def test_a_policy_lies_over_its_cluster_whatever_the_order(written):
    paths = written(POLICY, CLUSTER)
    found = mk.read_configuration(paths)
    assert found.policy.name == "kubevirt-1.9-stall"
    assert found.policy.options["completion_timeout_per_gib"] == 30
    assert found.policy.options["progress_timeout"] == 60
    assert found.origins["completion_timeout_per_gib"] == (
        f"{paths[0]}: MigrationPolicy fast: spec.completionTimeoutPerGiB"
    )
    assert found.origins["max_downtime_ms"] == "default of KubeVirt 1.9"
    assert found.version_from.endswith("status.observedKubeVirtVersion")
    assert set(found.origins) == set(found.policy.options)


def test_several_documents_and_lists_in_one_file(written):
    (path,) = written(CLUSTER + "---\n" + POLICY)
    assert mk.read_configuration([path]).policy.options["stall_margin"] == 2
    (listed,) = written(json.dumps({"kind": "List", "items": [{"kind": "MigrationPolicy", "spec": {}}]}))
    assert mk.read_configuration([listed], "1.4").policy == mk.kubevirt("1.4")


def test_hyperconverged_has_its_own_default(written):
    (path,) = written("kind: HyperConverged\nspec: {liveMigrationConfig: {progressTimeout: 99}}")
    found = mk.read_configuration([path], "1.8")
    assert (found.policy.options["completion_timeout_per_gib"], found.policy.options["progress_timeout"]) == (20, 99)
    assert "HyperConverged's default" in found.origins["completion_timeout_per_gib"]


def test_what_a_vmi_was_migrated_with_wins(written):
    vmi = """
kind: VirtualMachineInstance
status: {migrationState: {migrationConfiguration: {completionTimeoutPerGiB: 7, allowPostCopy: true}}}
"""
    found = mk.read_configuration(written(vmi, POLICY, CLUSTER))
    assert found.policy.options["completion_timeout_per_gib"] == 7
    assert found.policy.options["allow_workload_disruption"] is True
    assert found.origins["allow_workload_disruption"] == "as allow_post_copy"


def test_main_takes_quantities_and_v19_wants_text(written):
    number = "kind: MigrationPolicy\nspec: {experimental: {stallDetector: {ewmaAlpha: 0.7}}}"
    quantity = "kind: MigrationPolicy\nspec: {experimental: {stallDetector: {ewmaAlpha: 700m}}}"
    for text in (number, quantity):
        policy = mk.read_configuration(written(text), "main").policy
        assert policy.computed(data_size_gb=1, has_vfio=False).alpha == 0.7000000000000001
    with pytest.raises(MigkitError, match=r'ewmaAlpha: KubeVirt 1\.9 wants text here; write "0\.7" in quotes'):
        mk.read_configuration(written(number), "1.9")
    with pytest.raises(MigkitError, match="'700m' is not a number"):
        mk.read_configuration(written(quantity), "1.9")


@pytest.mark.parametrize(
    ("text", "version", "said"),
    [
        ("kind: Pod", "1.9", "kind Pod is none of KubeVirt"),
        ("just words", "1.9", "holds no Kubernetes object"),
        ("a: [", "1.9", "is not YAML"),
        ("", "1.9", "holds no object"),
        ("kind: MigrationPolicy\nspec: {progressTimeout: 3}",
         "1.9", "spec.progressTimeout: a MigrationPolicy has no progressTimeout"),
        ("kind: HyperConverged\nspec: hello", "1.9", "spec is not an object with named fields"),
        ("kind: HyperConverged\nspec: {liveMigrationConfig: {experimental: {stallDetector: true}}}", "1.9",
         "experimental: a HyperConverged has no experimental options; only a MigrationPolicy has"),
        ("kind: MigrationPolicy\nspec: {experimental: {stallDetector: true}}", "1.9",
         "experimental.stallDetector is not an object"),
        ("kind: KubeVirt\nmetadata: hello", "1.9", "metadata is not an object"),
        ("kind: KubeVirt\nstatus: hello", None, "status is not an object"),
        ("kind: KubeVirt\nspec: {configuration: {developerConfiguration: hello}}", "1.9", "is not an object"),
        ("kind: KubeVirt\nspec: {configuration: {developerConfiguration: {featureGates: [{a: b}]}}}", "1.9",
         "featureGates is not a list of names"),
        ("kind: KubeVirt\nspec: {configuration: {migrations: {1: 3}}}", "1.9", "is not an object with named fields"),
        ("kind: MigrationPolicy\n---\nkind: MigrationPolicy", "1.9", "a second MigrationPolicy"),
        ("kind: MigrationPolicy\nspec: {allowPostcopy: true}", "1.9", "did you mean 'allowPostCopy'"),
        ("kind: MigrationPolicy\nspec: {maxDowntimeMs: 0}",
         "1.9", "spec.maxDowntimeMs: 0 is out of range; must be 1 to 2000000"),
        ("kind: MigrationPolicy\nspec: {maxDowntimeMs: 900}",
         "1.8", "spec.maxDowntimeMs: is not in KubeVirt 1.8; it came with 1.9"),
        ("kind: MigrationPolicy\nspec: {completionTimeoutPerGiB: '20'}", "1.9", "'20' is not a whole number"),
        ("kind: MigrationPolicy\nspec: {allowPostCopy: 1}", "1.9", "1 is not true or false"),
        ("kind: MigrationPolicy\nspec: {experimental: {stallDetector: {stallMargin: 101}}}", "1.9", "must be 0 to 100"),
        ("kind: MigrationPolicy\nspec: {experimental: {stallDetection: {}}}", "1.9", "did you mean 'stallDetector'"),
        ("kind: MigrationPolicy\nspec: {experimental: {downtimeTuning: {steps: 2}}}",
         "1.9", "is not in KubeVirt 1.9; it came with main"),
        ("kind: MigrationPolicy\nspec: {experimental: {downtimeTuning: {steps: 0}}}", "main", "must be 1 or more"),
        ("kind: MigrationPolicy\nspec: {experimental: {downtimeTuning: {}, stallDetector: {}}}",
         "main", "exclude each other"),
        ("kind: KubeVirt\nspec: {configuration: {migrations: {maxDowntimeMs: 5}}}",
         "1.9", "needs one of the feature gates"),
        ("kind: KubeVirt\n---\nkind: MigrationPolicy\nspec: {experimental: {stallDetector: {}}}", "1.9",
         "needs the feature gate MigrationStallDetection"),
        ("kind: KubeVirt\nstatus: {observedKubeVirtVersion: v7.3.0}", None, "KubeVirt 7.3 is not known to this migkit"),
    ],
)  # fmt: skip
def test_what_is_wrong_names_file_field_and_range(written, text, version, said):
    (path,) = written(text)
    with pytest.raises(MigkitError) as caught:
        mk.read_configuration([path], version)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line():
    with pytest.raises(MigkitError, match=r"nowhere\.yaml: no such file"):
        mk.read_configuration(["nowhere.yaml"])


def test_replay_takes_the_configuration_and_says_where_values_came_from(written, capsys):
    trace = str(TRACES / "noconverge_abort.parquet")
    arguments = [item for path in written(CLUSTER, POLICY) for item in ("--config", path)]
    assert main(["replay", trace, *arguments, "--set", "completion_timeout_per_gib=11"]) == 0
    out = capsys.readouterr().out
    assert "options of kubevirt-1.9-stall" in out
    assert "--set" in next(line for line in out.splitlines() if "completion_timeout_per_gib" in line)
    assert "completion deadline 11 s" in out


def test_every_policy_of_a_comparison_gets_the_configuration(written, capsys):
    migrations = "{completionTimeoutPerGiB: 10, allowPostCopy: true}"
    (path,) = written(f"kind: KubeVirt\nspec: {{configuration: {{migrations: {migrations}}}}}")
    trace = str(TRACES / "noconverge_abort.parquet")
    two = ["--policy", "kubevirt-1.8", "--policy", "kubevirt-1.9-stall,stall_progress_timeout=10"]
    assert main(["compare", trace, "--config", path, *two]) == 0
    out = capsys.readouterr().out
    assert out.count("completion_timeout_per_gib   ") == 2
    assert "--policy kubevirt-1.9-stall" in out
    assert "start post-copy at 11.2 s" in out


def test_one_path_will_do_too(written):
    (path,) = written(CLUSTER)
    assert mk.read_configuration(path).policy == mk.read_configuration([path]).policy


def test_what_is_asked_of_libvirt_is_read_beside_the_monitors_options(written):
    cluster = """
kind: KubeVirt
spec:
  configuration:
    migrations: {allowAutoConverge: true, bandwidthPerMigration: 1Gi, unsafeMigrationOverride: true}
"""
    policy = """
kind: MigrationPolicy
spec: {bandwidthPerMigration: 64Mi, allowPostCopy: true, experimental: {compression: zstd}}
"""
    paths = written(cluster, policy)
    found = mk.read_configuration(paths)
    assert found.migration == MigrationOptions(
        allow_auto_converge=True, allow_post_copy=True, unsafe_migration_override=True,
        bandwidth_per_migration="64Mi", compression="zstd",
    )  # fmt: skip
    assert found.migration_origins["bandwidth_per_migration"] == (
        f"{paths[1]}: MigrationPolicy: spec.bandwidthPerMigration"
    )
    assert found.migration_origins["allow_post_copy"] == f"{paths[1]}: MigrationPolicy: spec.allowPostCopy"
    assert found.migration_origins["cpu_limit"] == "default of KubeVirt 1.9"


VMI = """
kind: VirtualMachineInstance
metadata: {name: web1, annotations: {kubevirt.io/multiThreadedQemuMigration: "4"}}
spec: {domain: {memory: {guest: 2Gi}, cpu: {dedicatedCpuPlacement: true}, resources: {limits: {cpu: "2"}}}}
"""


def test_a_vmi_says_about_its_processors_what_the_version_asks(written):
    (path,) = written(VMI)
    new, old = mk.read_configuration(path, "1.9"), mk.read_configuration(path, "1.4")
    assert (new.migration.cpu_limit, new.migration.dedicated_cpus, new.migration.parallel_threads) == ("2", True, None)
    assert (old.migration.cpu_limit, old.migration.dedicated_cpus, old.migration.parallel_threads) == (0, False, 4)
    assert new.migration_origins["cpu_limit"].endswith("web1: spec.domain.resources.limits.cpu")
    assert new.vmi.data_size_gb("1.9") == 3


@pytest.mark.parametrize(
    ("text", "version", "said"),
    [
        ("kind: MigrationPolicy\nspec: {bandwidthPerMigration: quick}", "1.9",
         "spec.bandwidthPerMigration: 'quick' is not a quantity"),
        ("kind: MigrationPolicy\nspec: {bandwidthPerMigration: -1Mi}", "1.9", "-1Mi is less than 0"),
        ("kind: MigrationPolicy\nspec: {allowAutoConverge: 1}", "1.9", "1 is not true or false"),
        ("kind: MigrationPolicy\nspec: {unsafeMigrationOverride: true}", "1.9", "has no unsafeMigrationOverride"),
        ("kind: MigrationPolicy\nspec: {experimental: {compression: lz4}}", "1.9", "'lz4' must be none or zstd"),
        ("kind: MigrationPolicy\nspec: {experimental: {compression: zstd}}", "1.8", "it came with 1.9"),
        (VMI + "---" + VMI, "1.9", "a second VirtualMachineInstance"),
        ("kind: VirtualMachineInstance\nspec: {volumes: 3}", "1.9", "spec.volumes is not a list of objects"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_them_names_the_field(written, text, version, said):
    with pytest.raises(MigkitError) as caught:
        mk.read_configuration(written(text), version)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_either_kind_are_changed_by_name_with_their_origin():
    found = changed(
        defaults("1.9"),
        ({"progress_timeout": "30", "compression": "zstd"}, "first"),
        ({"progress_timeout": 40}, "then"),
    )
    assert (found.policy.options["progress_timeout"], found.migration.compression) == (40, "zstd")
    assert (found.origins["progress_timeout"], found.migration_origins["compression"]) == ("then", "first")
    assert found.origins["max_downtime_ms"] == "default of KubeVirt 1.9"
    assert changed(found).policy == found.policy


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("bandwith", 1, "did you mean 'bandwidth_per_migration'"),
        ("allow_postcopy", "true", "did you mean 'allow_post_copy'"),
        ("dedicated_cpus", "yes", "neither true nor false"),
        ("parallel_threads", "4", "is not in KubeVirt 1.9; 1.0 to 1.4 have it"),
        ("bandwidth_per_migration", "-1", "is less than 0"),
        ("compression", "lz4", "must be none or zstd"),
        ("steps", "3", "it came with main"),
    ],
)
def test_a_change_that_cannot_be_is_one_line(name, value, said):
    with pytest.raises(MigkitError, match=said):
        changed(defaults("1.9"), ({name: value}, "--set"))


@pytest.mark.parametrize(
    ("version", "options", "kind"),
    [
        ("1.4", {"completion_timeout_per_gib": 60, "allow_post_copy": True}, "MigrationPolicy"),
        ("1.8", {"progress_timeout": 60}, "KubeVirt"),
        ("1.8", {"progress_timeout": 60, "completion_timeout_per_gib": 30}, "HyperConverged"),
        ("1.9", {"stall_detection": True, "ewma_alpha": "0.7", "max_downtime_ms": 500}, "MigrationPolicy"),
        ("main", {"stall_detection": True, "ewma_alpha": "0.7", "search_local_minima": False}, "MigrationPolicy"),
        ("main", {"downtime_tuning": True, "steps": 3}, "MigrationPolicy"),
    ],
)  # fmt: skip
def test_what_is_written_is_read_back(version, options, kind, tmp_path):
    path = tmp_path / "policy.yaml"
    policy = mk.kubevirt(version, **options)
    text = manifest(policy, kind=kind, evidence=["a line", "another"])
    path.write_text(text)
    assert mk.read_configuration(path, version).policy.options == policy.options
    assert f"kind: {kind}" in text
    if version in ("1.9", "main"):
        assert ('"0.7"' in text) == ("ewma_alpha" in options)
        assert "feature gate Migration" in text


def test_a_kind_that_has_not_all_options_is_refused_with_one_that_has():
    both = mk.kubevirt("1.9", stall_detection=True, progress_timeout=5)
    with pytest.raises(UsageError, match="has no progressTimeout; write it as two objects"):
        manifest(both)
    with pytest.raises(UsageError, match="has no maxDowntimeMs; write it as MigrationPolicy or KubeVirt"):
        manifest(mk.kubevirt("1.9", max_downtime_ms=5), kind="HyperConverged")
    with pytest.raises(UsageError, match="Kubernetes wants lower-case"):
        manifest(mk.kubevirt("1.8", completion_timeout_per_gib=5), name="My Policy")
