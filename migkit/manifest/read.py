"""KubeVirt's configuration in: from a cluster's and a policy's YAML to the options of a monitor, with their origins.

Fields: kubevirt/kubevirt staging/src/kubevirt.io/api (KubeVirt, MigrationPolicy, VirtualMachineInstance) from v0.59.0
to main at d923fdb815, kubevirt/hyperconverged-cluster-operator (HyperConverged).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migkit.errors import MigkitError, UsageError, unknown
from migkit.policies.versions import VERSIONS, Policy, kubevirt

# The newest release: what is meant where nobody says which KubeVirt.
NEWEST = "1.9"
# HyperConverged's own default, from its change #4426 on.
_HCO_DEFAULTS = {"completion_timeout_per_gib": 20}

MONITOR = {
    "progressTimeout": "progress_timeout",
    "completionTimeoutPerGiB": "completion_timeout_per_gib",
    "allowPostCopy": "allow_post_copy",
    "allowWorkloadDisruption": "allow_workload_disruption",
    "maxDowntimeMs": "max_downtime_ms",
}
STALL = {
    "stallMargin": "stall_margin",
    "stallProgressTimeout": "stall_progress_timeout",
    "switchoverTimeout": "switchover_timeout",
    "ewmaAlpha": "ewma_alpha",
    "precopyPossibleFactor": "precopy_possible_factor",
    "patienceWindowDecayFactor": "patience_window_decay_factor",
    "searchLocalMinima": "search_local_minima",
    "completionTimeoutFactor": "completion_timeout_factor",
}
TUNING = {
    "initialMs": "initial_ms",
    "steps": "steps",
    "startAfterIteration": "start_after_iteration",
    "cooldownSeconds": "cooldown_seconds",
}
# Fields beside them that say nothing to the monitor.
_OTHER = (
    "allowAutoConverge", "bandwidthPerMigration", "disableTLS", "matchSELinuxLevelOnMigration", "network",
    "nodeDrainTaintKey", "parallelMigrationsPerCluster", "parallelOutboundMigrationsPerNode",
    "unsafeMigrationOverride", "utilityVolumesTimeout",
)  # fmt: skip
_SELECTION = ("selectors",)
# Kinds with a block of experimental options: a policy, and what a VMI was really migrated with.
_EXPERIMENTAL = ("MigrationPolicy", "VirtualMachineInstance")
GATES = {"stallDetector": "MigrationStallDetection", "downtimeTuning": "MigrationDowntimeTuning"}
_GATES_PATH = "spec.configuration.developerConfiguration.featureGates"
_WHERE = {
    "KubeVirt": ("spec", "configuration", "migrations"),
    "HyperConverged": ("spec", "liveMigrationConfig"),
    "MigrationPolicy": ("spec",),
    "VirtualMachineInstance": ("status", "migrationState", "migrationConfiguration"),
}
# Later kinds lie over earlier ones: a policy over its cluster, what a VMI was really migrated with over both.
_ORDER = ("HyperConverged", "KubeVirt", "MigrationPolicy", "VirtualMachineInstance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The effective options of a monitor. `origins` tells for every option where its value came from; `version_from`
    where the version did."""

    policy: Policy
    origins: Mapping[str, str]
    version_from: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    kind: str
    body: Mapping[str, Any]
    where: str

    @property
    def path(self) -> str:
        """Of the migration settings inside the document."""
        return ".".join(_WHERE[self.kind])

    @property
    def settings(self) -> Mapping[str, Any]:
        """The migration settings, empty when there are none."""
        return self.object_at(*_WHERE[self.kind])

    def object_at(self, *names: str) -> Mapping[str, Any]:
        """The object at a path, empty where there is none. Raises MigkitError for anything else there."""
        found = self.body
        for depth, name in enumerate(names, 1):
            inner: Any = found.get(name)
            if inner is None:
                return {}
            if not isinstance(inner, Mapping) or not all(isinstance(key, str) for key in inner):
                raise MigkitError(f"{self.where}: {'.'.join(names[:depth])} is not an object with named fields")
            found = inner
        return found


def read_configuration(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], version: str | None = None
) -> Configuration:
    """Effective options from YAML or JSON files of KubeVirt, HyperConverged, MigrationPolicy and VMI objects.

    Parameters: `paths`, a file or several, of one or several documents; kinds are laid over each other (policy over
    cluster, a VMI's own effective configuration over both), whatever the order of the files; `version`, else the one
    that a KubeVirt object observed, else the newest release. Raises MigkitError that names file, field and range.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else paths
    documents = [document for path in listed for document in _documents(Path(path))]
    policies = [document for document in documents if document.kind == "MigrationPolicy"]
    if len(policies) > 1:
        raise MigkitError(
            f"{policies[1].where}: a second MigrationPolicy; KubeVirt applies one to a VMI: give that one"
        )
    documents.sort(key=lambda document: _ORDER.index(document.kind))
    if not documents:
        raise MigkitError("the configuration holds no object; give a KubeVirt, HyperConverged or MigrationPolicy")
    chosen, version_from = _version(documents, version)
    _check_gates(documents)
    given: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for document in documents:
        own = _options(document, chosen)
        if "allow_post_copy" in own:
            # A layer that speaks of post-copy alone speaks of disruption too (migrationpolicy.go).
            given.pop("allow_workload_disruption", None)
            origins.pop("allow_workload_disruption", None)
        for name, (value, field) in own.items():
            given[name], origins[name] = value, f"{document.where}: {field}"
            _check(chosen, name, value, origins[name])
    made = _policy(chosen, given)
    for name in made.options:
        origins.setdefault(name, f"default of KubeVirt {chosen}")
    if "allow_workload_disruption" in made.options and "allow_workload_disruption" not in given:
        origins["allow_workload_disruption"] = "as allow_post_copy"
    return Configuration(policy=made, origins=origins, version_from=version_from)


def _documents(path: Path) -> Iterator[_Document]:
    try:
        import yaml

        with open(path) as stream:
            bodies = list(yaml.safe_load_all(stream))
    except FileNotFoundError:
        raise MigkitError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MigkitError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise MigkitError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    for body in bodies:
        items = body.get("items", [body]) if isinstance(body, Mapping) else [body]
        for item in items if isinstance(items, list) else [items]:
            if item is not None:
                yield _document(path, item)


def _document(path: Path, body: Any) -> _Document:
    if not isinstance(body, Mapping) or not isinstance(body.get("kind"), str):
        raise MigkitError(f"{path}: holds no Kubernetes object (an object with a kind)")
    kind = body["kind"]
    if kind not in _WHERE:
        raise MigkitError(f"{path}: kind {kind} is none of {', '.join(_WHERE)}")
    name = _Document(kind=kind, body=body, where=f"{path}: {kind}").object_at("metadata").get("name", "")
    return _Document(kind=kind, body=body, where=f"{path}: {kind}{f' {name}' if name else ''}")


def _version(documents: Iterable[_Document], version: str | None) -> tuple[str, str]:
    if version is not None:
        if version not in VERSIONS:
            raise unknown("KubeVirt version", version, VERSIONS)
        return version, "given"
    for document in documents:
        if document.kind != "KubeVirt":
            continue
        match = re.match(r"v?(\d+\.\d+)", str(document.object_at("status").get("observedKubeVirtVersion", "")))
        if match:
            if match[1] not in VERSIONS:
                raise MigkitError(f"{document.where}: status.observedKubeVirtVersion: KubeVirt {match[1]} is not known "
                                  f"to this migkit; name the nearest one, e.g. --policy kubevirt-main")  # fmt: skip
            return match[1], f"{document.where}: status.observedKubeVirtVersion"
    return NEWEST, "assumed, the newest release; --policy kubevirt-VERSION sets it"


def _options(document: _Document, version: str) -> dict[str, tuple[Any, str]]:
    """Option name -> (value, field) of one document."""
    found: dict[str, tuple[Any, str]] = {}
    if document.kind == "HyperConverged":
        found |= {name: (value, "HyperConverged's default") for name, value in _HCO_DEFAULTS.items()}
    skipped = (*_OTHER, *(_SELECTION if document.kind == "MigrationPolicy" else ()))
    for field, value in document.settings.items():
        path = f"{document.path}.{field}"
        if value is None or field in skipped:
            continue
        if field == "experimental" and document.kind not in _EXPERIMENTAL:
            raise MigkitError(f"{document.where}: {path}: a {document.kind} has no experimental options; "
                              "only a MigrationPolicy has")  # fmt: skip
        if field == "experimental":
            found |= _experimental(document, value, path, version)
        elif field == "progressTimeout" and document.kind == "MigrationPolicy":
            raise MigkitError(
                f"{document.where}: {path}: a MigrationPolicy has no progressTimeout; only the cluster has"
            )
        elif field in MONITOR:
            found[MONITOR[field]] = (value, path)
        else:
            raise _unknown_field(document, path, field, [*MONITOR, *skipped, "experimental"])
    return found


def _experimental(document: _Document, block: Any, path: str, version: str) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    if not isinstance(block, Mapping):
        raise MigkitError(f"{document.where}: {path} is not an object with named fields")
    flags = {"stallDetector": ("stall_detection", STALL), "downtimeTuning": ("downtime_tuning", TUNING)}
    if all(block.get(name) is not None for name in flags) and document.kind == "MigrationPolicy":
        raise MigkitError(f"{document.where}: {path}: stallDetector and downtimeTuning exclude each other")
    for name, inner in block.items():
        if name == "compression" or inner is None:
            continue
        if name not in flags:
            raise _unknown_field(document, f"{path}.{name}", name, [*flags, "compression"])
        flag, fields = flags[name]
        if not isinstance(inner, Mapping):
            raise MigkitError(f"{document.where}: {path}.{name} is not an object with named fields")
        found[flag] = (True, f"{path}.{name}")
        for field, value in inner.items():
            if field not in fields:
                raise _unknown_field(document, f"{path}.{name}.{field}", field, fields)
            found[fields[field]] = (_as_written(document, version, f"{path}.{name}.{field}", field, value),
                                    f"{path}.{name}.{field}")  # fmt: skip
    return found


def _as_written(document: _Document, version: str, path: str, field: str, value: Any) -> Any:
    """v1.9 has its factors as strings; later versions as quantities, which may be numbers."""
    option = VERSIONS[version].options.get(STALL.get(field, ""))
    is_factor = option is not None and option.kind == "factor"
    if is_factor and not VERSIONS[version].quantities and not isinstance(value, str):
        raise MigkitError(f'{document.where}: {path}: KubeVirt {version} wants text here; write "{value}" in quotes')
    return value


def _unknown_field(document: _Document, path: str, field: str, known: Iterable[str]) -> MigkitError:
    return MigkitError(f"{document.where}: {path}: {unknown('field', field, known)}")


def _check(version: str, name: str, value: Any, origin: str) -> None:
    """One value alone, so that an error names its field."""
    option = VERSIONS[version].options.get(name)
    if option is None:
        since = next(other for other, family in VERSIONS.items() if name in family.options)
        raise MigkitError(f"{origin}: is not in KubeVirt {version}; it came with {since}")
    wrong = isinstance(value, bool) != (option.kind == "flag") or isinstance(value, Mapping | list)
    if wrong or (option.kind not in ("flag", "factor") and not isinstance(value, int)):
        kinds = {"flag": "true or false", "factor": "a number"}
        raise MigkitError(f"{origin}: {value!r} is not {kinds.get(option.kind, 'a whole number')}")
    group = {option.group: True} if option.group else {}
    try:
        kubevirt(version, **group, **{name: value})
    except UsageError as error:
        raise MigkitError(f"{origin}: {str(error).partition(': ')[2] or error}") from None


def _policy(version: str, given: Mapping[str, Any]) -> Policy:
    """Settings of a feature that no layer turns on have no effect and are left out."""
    known = VERSIONS[version].options
    used = {name: value for name, value in given.items() if not known[name].group or given.get(known[name].group)}
    return kubevirt(version, **used)


def _check_gates(documents: Iterable[_Document]) -> None:
    """With a KubeVirt object at hand its feature gates are known: a setting behind a closed one would be refused."""
    clusters = [document for document in documents if document.kind == "KubeVirt"]
    if not clusters:
        return
    cluster = clusters[-1]
    named = cluster.object_at("spec", "configuration", "developerConfiguration").get("featureGates") or []
    if not isinstance(named, list) or not all(isinstance(gate, str) for gate in named):
        raise MigkitError(f"{cluster.where}: {_GATES_PATH} is not a list of names")
    gates = set(named)
    for document in documents:
        if document.kind == "VirtualMachineInstance":
            continue
        block = document.settings.get("experimental")
        used = [name for name in GATES if isinstance(block, Mapping) and block.get(name) is not None]
        for name in used:
            if GATES[name] not in gates:
                field = f"{document.path}.experimental.{name}"
                raise MigkitError(f"{document.where}: {field} needs the feature gate {GATES[name]} ({_GATES_PATH})")
        if document.settings.get("maxDowntimeMs") is not None and not gates & set(GATES.values()):
            raise MigkitError(f"{document.where}: {document.path}.maxDowntimeMs needs one of the feature gates "
                              f"{' and '.join(GATES.values())}")  # fmt: skip
