"""What a trace keeps of rules that looked on, in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from migkit.cli.replay import SHOWN, action_text, decision_line, listed
from migkit.meta import TraceMeta
from migkit.units import format_s

if TYPE_CHECKING:
    from migkit.trace import Trace


def kept(meta: TraceMeta) -> list[dict[str, Any]]:
    """The shadows of a trace, a rule each."""
    found = meta.notes.get("shadow", [])
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def shadows_in_words(meta: TraceMeta) -> str:
    """What each rule would have done in short: `kubevirt-1.9 would abort at 95.2 s (stuck)`; empty for no rule."""
    return "; ".join(_told(shadow) for shadow in kept(meta))


def _told(shadow: dict[str, Any]) -> str:
    label = shadow.get("label", shadow.get("policy", "?"))
    if "error" in shadow:
        return f"{label}: cannot tell ({shadow['error']})"
    if not shadow.get("decisions"):
        return f"{label} would do nothing"
    # A limit that is raised on the way says less than what is done in the end.
    decisions = shadow["decisions"]
    first = next((one for one in decisions if one["action"] != "set_max_downtime"), decisions[0])
    others = shadow.get("decisions_in_all", len(decisions)) - 1
    rest = f" and {others} more" if others else ""
    what = action_text(first["action"], first["argument"])
    return f"{label} would {what} at {format_s(first['t_s'])} ({first['reason']}){rest}"


def replayed(trace: Trace, shadow: dict[str, Any]) -> str:
    """A kept shadow as `migkit replay` tells a replay."""
    label, policy = shadow.get("label", "?"), shadow.get("policy", "?")
    name = label if label == policy else f"{label} = {policy}"
    head = f"{trace.name} ({trace.meta.provenance}, {trace.meta.end.outcome}), {name} looking on"
    if "error" in shadow:
        return f"{head}: cannot tell ({shadow['error']})"
    decisions = shadow["decisions"]
    lines = [f"  {decision_line(SimpleNamespace(**decision))}" for decision in decisions[:SHOWN]]
    deadline = f"{shadow['deadline_s']} s ({shadow['data_size_gb']} GB)" if shadow["deadline_s"] else "none"
    told = listed(lines, shadow.get("decisions_in_all", len(decisions)), shadow["divergence_s"])
    return "\n".join([f"{head}; completion deadline {deadline}", *told])
