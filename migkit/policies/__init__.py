"""Decision rules, pure: KubeVirt's migration monitors. `kubevirt` and `policy` make one."""

from __future__ import annotations

from migkit.policies.versions import Policy, kubevirt, policy, policy_names

__all__ = ["Policy", "kubevirt", "policy", "policy_names"]
