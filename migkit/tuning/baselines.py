"""Settings that every recommendation is held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from migkit.policies.versions import Policy, kubevirt

# kubevirt/enhancements VEP 248, text and hyperparameters of August 2026: a window and a switchover budget of 60 s.
_VEP_248: Final = {"stall_progress_timeout": 60, "switchover_timeout": 60}
# kubevirt/hyperconverged-cluster-operator, its default since #4426.
_HYPERCONVERGED: Final = {"completion_timeout_per_gib": 20}


def baselines(policy: Policy) -> dict[str, Policy]:
    """By label: the version's defaults, HyperConverged's, VEP 248's published values where the policy detects stalls,
    and a monitor that does nothing. The policy's features stay on, and what it permits stays permitted."""
    kept: dict[str, Any] = {name: policy.options[name] for name in policy.given if _stays(policy, name)}

    def made(values: Mapping[str, Any]) -> Policy:
        return kubevirt(policy.version, **kept | dict(values))

    found = {"defaults": made({}), "HyperConverged": made(_HYPERCONVERGED)}
    if policy.options.get("stall_detection"):
        found["VEP 248 text"] = made(_VEP_248)
    return found | {"do nothing": kubevirt(policy.version, progress_timeout=0, completion_timeout_per_gib=0)}


def _stays(policy: Policy, name: str) -> bool:
    """Features and permissions are the operator's to give, not values to tune."""
    return policy.family.options[name].kind == "flag" and name != "search_local_minima"
