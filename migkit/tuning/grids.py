"""The values that are tried where nobody names any: around the defaults of each rule, wide enough to see both sides."""

from __future__ import annotations

from typing import Any, Final

from migkit.policies.versions import Policy

_DEADLINES: Final = {"completion_timeout_per_gib": (20, 75, 150, 300, 800)}
_STUCK: Final = {"progress_timeout": (10, 20, 40, 75, 150, 300)}
_STALL: Final = {
    "stall_margin": (2, 4, 8),
    "stall_progress_timeout": (10, 20, 40, 60, 90, 120, 180, 240),
    "max_downtime_ms": (300, 900, 2000),
    "completion_timeout_per_gib": (150, 300, 800),
}
_TUNING: Final = {"max_downtime_ms": (500, 900, 2000), "steps": (3, 7, 14), "cooldown_seconds": (5, 10, 20)}


def default_lists(policy: Policy) -> dict[str, tuple[Any, ...]]:
    """Option -> values to try for this policy."""
    if policy.options.get("stall_detection"):
        return dict(_STALL)
    if policy.options.get("downtime_tuning"):
        return _TUNING | _DEADLINES
    return _STUCK | _DEADLINES
