"""The options of a monitor as YAML that KubeVirt admits: a MigrationPolicy, or a patch of the cluster's configuration.

Fields and admission: kubevirt/kubevirt staging/src/kubevirt.io/api/core/v1/types.go (MigrationConfiguration) and
migrations/v1alpha1/types.go (MigrationPolicySpec), pkg/virt-api/webhooks/validating-webhook/admitters at v1.9.0 and
main at d923fdb815; kubevirt/hyperconverged-cluster-operator (LiveMigrationConfigurations). Experimental blocks are a
MigrationPolicy's alone; progressTimeout is the cluster's alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from migkit.errors import UsageError
from migkit.manifest.fields import GATES, MONITOR, STALL, TUNING
from migkit.policies.versions import Policy, kubevirt

KINDS: Final = ("MigrationPolicy", "KubeVirt", "HyperConverged")
_MAX_DOWNTIME: Final = "max_downtime_ms"
_CANNOT: Final[Mapping[str, tuple[str, ...]]] = {
    "MigrationPolicy": ("progress_timeout",),
    "KubeVirt": (),
    "HyperConverged": ("allow_workload_disruption", _MAX_DOWNTIME),
}
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def manifest(
    policy: Policy,
    *,
    kind: str | None = None,
    version: str | None = None,
    name: str = "migkit-tuned",
    evidence: Iterable[str] = (),
) -> str:
    """The options that the policy was given, as YAML for one version of KubeVirt.

    Parameters: `kind`, MigrationPolicy, KubeVirt or HyperConverged (a patch of the cluster's object); the default is
    the first that has all the options; `version`, when it is for another than the policy's; `name` of the
    MigrationPolicy; `evidence`, lines for the comment above. Raises UsageError for an option that the kind or the
    version does not have, and for a name that Kubernetes would refuse.

    >>> print(manifest(kubevirt("1.8", completion_timeout_per_gib=60)))
    apiVersion: migrations.kubevirt.io/v1alpha1
    kind: MigrationPolicy
    metadata:
      name: migkit-tuned
    spec:
      selectors: {}  # every virtual machine; narrow it down by labels
      completionTimeoutPerGiB: 60
    <BLANKLINE>
    """
    given: dict[str, Any] = {option: policy.options[option] for option in policy.given}
    asked = policy if version is None else kubevirt(version, **given)
    chosen = kind or next((k for k in KINDS if not _missing(asked, k)), KINDS[0])
    if chosen not in KINDS:
        raise UsageError(f"kind {chosen!r}: must be one of {', '.join(KINDS)}")
    if missing := _missing(asked, chosen):
        raise UsageError(f"a {chosen} has no {_field(missing[0])}; write it as {_other(asked, missing[0])}")
    if not _NAME.fullmatch(name):
        raise UsageError(f"name {name!r}: Kubernetes wants lower-case letters, digits, dashes and dots")
    head = [f"# {line}".rstrip() for line in (*evidence, *_needs(asked, chosen))]
    body = {"MigrationPolicy": _migration_policy, "KubeVirt": _cluster, "HyperConverged": _hyperconverged}[chosen]
    return "\n".join([*head, *body(asked, name)]) + "\n"


def _missing(policy: Policy, kind: str) -> list[str]:
    """Given options that objects of a kind cannot carry."""
    experimental = {"stall_detection", "downtime_tuning"} if kind != "MigrationPolicy" else set()
    known = policy.family.options
    lacking = {name for name in policy.given if name in _CANNOT[kind]}
    lacking |= {name for name in policy.given if (known[name].group or name) in experimental and policy.options[name]}
    return [name for name in known if name in lacking]


def _other(policy: Policy, name: str) -> str:
    able = [kind for kind in KINDS if not _missing(policy, kind)]
    return " or ".join(able) or "two objects, each with the options that it has"


def _field(name: str) -> str:
    blocks = {"stall_detection": "experimental.stallDetector", "downtime_tuning": "experimental.downtimeTuning"}
    names = {own: field for fields in (MONITOR, STALL, TUNING) for field, own in fields.items()}
    return blocks.get(name) or names[name]


def _needs(policy: Policy, kind: str) -> list[str]:
    """What has to be on in the cluster first."""
    if kind != "MigrationPolicy" or not (gates := _gates(policy)):
        return []
    return [f"Needs the feature gate {' and '.join(gates)} in the KubeVirt object: "
            "spec.configuration.developerConfiguration.featureGates"]  # fmt: skip


def _gates(policy: Policy) -> list[str]:
    used = {
        "stallDetector": policy.options.get("stall_detection"),
        "downtimeTuning": policy.options.get("downtime_tuning"),
    }
    gates = [GATES[block] for block, on in used.items() if on]
    # The downtime's ceiling may be set as soon as either of the gates is open.
    return gates or ([GATES["stallDetector"]] if _MAX_DOWNTIME in policy.given else [])


def _migration_policy(policy: Policy, name: str) -> list[str]:
    lines = [
        "apiVersion: migrations.kubevirt.io/v1alpha1", "kind: MigrationPolicy", "metadata:", f"  name: {name}", "spec:",
        "  selectors: {}  # every virtual machine; narrow it down by labels",
        *_fields(policy, MONITOR, indent=2),
    ]  # fmt: skip
    blocks = [("stallDetector", "stall_detection", STALL), ("downtimeTuning", "downtime_tuning", TUNING)]
    on = [(block, fields) for block, flag, fields in blocks if policy.options.get(flag)]
    if on:
        lines.append("  experimental:")
    for block, fields in on:
        own = _fields(policy, fields, indent=6)
        lines += [f"    {block}:" + ("" if own else " {}"), *own]
    return lines


def _cluster(policy: Policy, _name: str) -> list[str]:
    lines = ["apiVersion: kubevirt.io/v1", "kind: KubeVirt", "metadata:", "  name: kubevirt", "  namespace: kubevirt",
             "spec:", "  configuration:"]  # fmt: skip
    if gates := _gates(policy):
        lines += [f"    # add {' and '.join(gates)} to developerConfiguration.featureGates by hand:",
                  "    # a merge patch would replace the whole list"]  # fmt: skip
    own = _fields(policy, MONITOR, indent=6)
    return [*lines, "    migrations:" + ("" if own else " {}"), *own]


def _hyperconverged(policy: Policy, _name: str) -> list[str]:
    own = _fields(policy, MONITOR, indent=4)
    return ["apiVersion: hco.kubevirt.io/v1beta1", "kind: HyperConverged", "metadata:",
            "  name: kubevirt-hyperconverged", "  namespace: kubevirt-hyperconverged", "spec:",
            "  liveMigrationConfig:" + ("" if own else " {}"), *own]  # fmt: skip


def _fields(policy: Policy, fields: Mapping[str, str], *, indent: int) -> list[str]:
    """The given ones; factors are text for every version (a quantity may be written as text)."""
    given = [(field, policy.options[name]) for field, name in fields.items() if name in policy.given]
    return [f"{' ' * indent}{field}: {_scalar(value)}" for field, value in given]


def _scalar(value: Any) -> str:
    return json.dumps(value)


def evidence_lines(facts: Sequence[tuple[str, str]]) -> list[str]:
    """Facts as lines of a comment, their values under each other."""
    width = max((len(name) for name, _ in facts), default=0)
    return [f"{name.ljust(width)}  {value}" for name, value in facts]
