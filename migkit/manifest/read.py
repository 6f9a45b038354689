"""KubeVirt's configuration in: from a cluster's and a policy's YAML to the options of a monitor and of the migration
itself, with their origins.

Fields: kubevirt/kubevirt staging/src/kubevirt.io/api (KubeVirt, MigrationPolicy, VirtualMachineInstance) from v0.59.0
to main at d923fdb815, kubevirt/hyperconverged-cluster-operator (HyperConverged).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migkit.errors import MigkitError, UsageError, unknown
from migkit.manifest.documents import ORDER, Document, documents
from migkit.manifest.fields import (
    CLUSTER_ONLY,
    EXPERIMENTAL,
    GATES,
    MIGRATION,
    MONITOR,
    OF_THE_VMI,
    OTHER,
    SELECTION,
    STALL,
    TUNING,
)
from migkit.migration.request import MigrationOptions, applies, bandwidth_mibps, span
from migkit.migration.vmi import Vmi, read_vmi
from migkit.policies.size import parse_quantity
from migkit.policies.versions import VERSIONS, Policy, kubevirt, read_flag

# The newest release: what is meant where nobody says which KubeVirt.
NEWEST = "1.9"
_ASSUMED = "assumed, the newest release; --policy kubevirt-VERSION, or --version, sets it"
# HyperConverged's own default, from its change #4426 on.
_HCO_DEFAULTS = {"completion_timeout_per_gib": 20}

_GATES_PATH = "spec.configuration.developerConfiguration.featureGates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The effective options of a monitor, and of the migration that it watches.

    Attributes: `origins` and `migration_origins` tell for every option of `policy` and of `migration` where its value
    came from, `version_from` where the version did; `vmi`, the facts of the VMI whose manifest was among the files.
    """

    policy: Policy
    origins: Mapping[str, str]
    version_from: str
    migration: MigrationOptions
    migration_origins: Mapping[str, str]
    vmi: Vmi | None = None


def read_configuration(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], version: str | None = None
) -> Configuration:
    """Effective options from YAML or JSON files of KubeVirt, HyperConverged, MigrationPolicy and VMI objects.

    Parameters: `paths`, a file or several, of one or several documents; kinds are laid over each other (policy over
    cluster, a VMI's own effective configuration over both), whatever the order of the files; `version`, else the one
    that a KubeVirt object observed, else the newest release. Raises MigkitError that names file, field and range.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else paths
    found = [document for path in listed for document in documents(Path(path))]
    _one_of_each(found)
    found.sort(key=lambda document: ORDER.index(document.kind))
    chosen, version_from = _version(found, version)
    _check_gates(found)
    given: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for document in found:
        of_this = _options(document, chosen)
        if "allow_post_copy" in of_this:
            # A layer that speaks of post-copy alone speaks of disruption too (migrationpolicy.go).
            given.pop("allow_workload_disruption", None)
            origins.pop("allow_workload_disruption", None)
        for name, (value, field) in of_this.items():
            given[name], origins[name] = value, f"{document.where}: {field}"
            _check(chosen, name, value, origins[name])
    own = {name: given.pop(name) for name in _OWN if name in given}
    vmi = next((read_vmi(d.body, d.where) for d in found if d.kind == "VirtualMachineInstance"), None)
    if vmi is not None:
        own |= {name: getattr(vmi, name) for name in OF_THE_VMI if getattr(vmi, name) and applies(chosen, name)}
        origins |= {name: f"{vmi.where}: {field}" for name, field in OF_THE_VMI.items() if name in own}
    return _assembled(_policy(chosen, given), version_from, own, origins, vmi)


def _one_of_each(found: list[Document]) -> None:
    """Raises MigkitError where there is nothing, or two of what there can be one of."""
    if not found:
        raise MigkitError("the configuration holds no object; give a KubeVirt, HyperConverged or MigrationPolicy")
    kinds = {"MigrationPolicy": "KubeVirt applies one to a VMI", "VirtualMachineInstance": "one migrates at a time"}
    for kind, why in kinds.items():
        same = [document for document in found if document.kind == kind]
        if len(same) > 1:
            raise MigkitError(f"{same[1].where}: a second {kind}; {why}: give that one")


def defaults(version: str | None = None) -> Configuration:
    """What a KubeVirt version, else the newest release, does where nobody configures anything. Raises UsageError for
    an unknown version."""
    return _assembled(kubevirt(version or NEWEST), "given" if version else _ASSUMED, {}, {}, None)


def changed(configuration: Configuration, *layers: tuple[Mapping[str, Any], str]) -> Configuration:
    """A configuration with options of either kind set by name: layers of (values by name, where they come from), later
    ones over earlier ones.

    Raises UsageError for an unknown option, naming the nearest, and for a value out of range.
    """
    own = {name: getattr(configuration.migration, name) for name in _OWN}
    given: dict[str, Any] = {name: configuration.policy.options[name] for name in configuration.policy.given}
    origins = {name: configuration.origins[name] for name in given}
    origins |= {name: configuration.migration_origins[name] for name in _OWN}
    version = configuration.policy.version
    for changes, origin in layers:
        for name, value in changes.items():
            if name in _OWN:
                own[name] = _typed(version, name, value)
            else:
                given[name] = value
        origins |= dict.fromkeys(changes, origin)
    _known(version, given)
    return _assembled(kubevirt(version, **given), configuration.version_from, own, origins, configuration.vmi)


def _known(version: str, names: Iterable[str]) -> None:
    """An unknown option is near to one of either kind."""
    everywhere = {name for family in VERSIONS.values() for name in family.options}
    for name in names:
        if name not in everywhere:
            raise unknown("option", name, [*VERSIONS[version].options, *_OWN])


def _typed(version: str, name: str, value: Any) -> Any:
    """An option of the migration as it is written on a command line."""
    text = str(value)
    if not applies(version, name):
        first, last = span(name)
        until = f"it came with {first}" if last == "main" else f"{first} to {last} have it"
        raise UsageError(f"option {name!r} is not in KubeVirt {version}; {until}")
    if isinstance(getattr(MigrationOptions(), name), bool):
        return read_flag(name, value)
    if name == "parallel_threads" and (not text.isdecimal() or int(text) < 1):
        raise UsageError(f"option {name!r}: {value!r} is not a whole number of 1 or more")
    if name == "compression" and text not in ("none", "zstd"):
        raise UsageError(f"option {name!r}: {value!r} must be none or zstd")
    if name in ("bandwidth_per_migration", "cpu_limit") and parse_quantity(text) < 0:
        raise UsageError(f"option {name!r}: {value!r} is less than 0")
    return int(text) if name == "parallel_threads" else text


# The options of a migration that the monitor does not have.
_OWN = tuple(field.name for field in dataclasses.fields(MigrationOptions) if field.name != "allow_post_copy")
_FOLLOWS = "as allow_post_copy"


def _assembled(
    policy: Policy, version_from: str, own: Mapping[str, Any], origins: Mapping[str, str], vmi: Vmi | None
) -> Configuration:
    """The origins of all options, defaults included; of a migration they go along with the monitor's post-copy."""
    default = f"default of KubeVirt {policy.version}"
    told = {name: origins.get(name, default) for name in policy.options}
    if "allow_workload_disruption" in told and "allow_workload_disruption" not in policy.given:
        told["allow_workload_disruption"] = _FOLLOWS
    own_told = {name: origins.get(name, default) for name in _OWN}
    return Configuration(
        policy=policy,
        origins=told,
        version_from=version_from,
        migration=MigrationOptions(**own, allow_post_copy=bool(policy.options["allow_post_copy"])),
        migration_origins=own_told | {"allow_post_copy": told["allow_post_copy"]},
        vmi=vmi,
    )


def _version(documents: Iterable[Document], version: str | None) -> tuple[str, str]:
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
                raise MigkitError(
                    f"{document.where}: status.observedKubeVirtVersion: KubeVirt {match[1]} is not known to this "
                    f"migkit; name the nearest: --policy kubevirt-main, or --version main"
                )
            return match[1], f"{document.where}: status.observedKubeVirtVersion"
    return NEWEST, _ASSUMED


def _options(document: Document, version: str) -> dict[str, tuple[Any, str]]:
    """Option name -> (value, field) of one document."""
    found: dict[str, tuple[Any, str]] = {}
    if document.kind == "HyperConverged":
        found |= {name: (value, "HyperConverged's default") for name, value in _HCO_DEFAULTS.items()}
    skipped = (*OTHER, *(SELECTION if document.kind == "MigrationPolicy" else ()))
    fields = MONITOR | {field: name for field, name in MIGRATION.items() if field != "compression"}
    for field, value in document.settings.items():
        path = f"{document.path}.{field}"
        if value is None or field in skipped:
            continue
        if field == "experimental" and document.kind not in EXPERIMENTAL:
            raise MigkitError(f"{document.where}: {path}: a {document.kind} has no experimental options; "
                              "only a MigrationPolicy has")  # fmt: skip
        if field == "experimental":
            found |= _experimental(document, value, path, version)
        elif field in CLUSTER_ONLY and document.kind == "MigrationPolicy":
            raise MigkitError(f"{document.where}: {path}: a MigrationPolicy has no {field}; only the cluster has")
        elif field in fields:
            found[fields[field]] = (value, path)
        else:
            raise _unknown_field(document, path, field, [*fields, *skipped, "experimental"])
    return found


def _experimental(document: Document, block: Any, path: str, version: str) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    if not isinstance(block, Mapping):
        raise MigkitError(f"{document.where}: {path} is not an object with named fields")
    flags = {"stallDetector": ("stall_detection", STALL), "downtimeTuning": ("downtime_tuning", TUNING)}
    if all(block.get(name) is not None for name in flags) and document.kind == "MigrationPolicy":
        raise MigkitError(f"{document.where}: {path}: stallDetector and downtimeTuning exclude each other")
    for name, inner in block.items():
        if inner is None:
            continue
        if name == "compression":
            found[name] = (inner, f"{path}.{name}")
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


def _as_written(document: Document, version: str, path: str, field: str, value: Any) -> Any:
    """v1.9 has its factors as strings; later versions as quantities, which may be numbers."""
    option = VERSIONS[version].options.get(STALL.get(field, ""))
    is_factor = option is not None and option.kind == "factor"
    if is_factor and not VERSIONS[version].quantities and not isinstance(value, str):
        raise MigkitError(f'{document.where}: {path}: KubeVirt {version} wants text here; write "{value}" in quotes')
    return value


def _unknown_field(document: Document, path: str, field: str, known: Iterable[str]) -> MigkitError:
    return MigkitError(f"{document.where}: {path}: {unknown('field', field, known)}")


def _check(version: str, name: str, value: Any, origin: str) -> None:
    """One value alone, so that an error names its field."""
    if name in MIGRATION.values():
        _check_migration(version, name, value, origin)
        return
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


def _check_migration(version: str, name: str, value: Any, origin: str) -> None:
    if name == "compression":
        if not applies(version, name):
            raise MigkitError(f"{origin}: is not in KubeVirt {version}; it came with {span(name)[0]}")
        if value not in ("none", "zstd"):
            raise MigkitError(f"{origin}: {value!r} must be none or zstd")
    elif name == "bandwidth_per_migration":
        try:
            bandwidth_mibps(value)
        except UsageError as error:
            raise MigkitError(f"{origin}: {str(error).partition(': ')[2]}") from None
    elif not isinstance(value, bool):
        raise MigkitError(f"{origin}: {value!r} is not true or false")


def _policy(version: str, given: Mapping[str, Any]) -> Policy:
    """Settings of a feature that no layer turns on have no effect and are left out."""
    known = VERSIONS[version].options
    used = {name: value for name, value in given.items() if not known[name].group or given.get(known[name].group)}
    return kubevirt(version, **used)


def _check_gates(documents: Iterable[Document]) -> None:
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
