"""What a trace keeps of rules that looked on, in words."""

from __future__ import annotations

from typing import Any

from migkit.cli.replay import action_text
from migkit.meta import TraceMeta
from migkit.units import format_s


def kept(meta: TraceMeta) -> list[dict[str, Any]]:
    """The shadows of a trace, a rule each."""
    found = meta.notes.get("shadow", [])
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def shadows_in_words(meta: TraceMeta) -> str:
    """The first thing that each rule would have done: `kubevirt-1.9 would abort at 95.2 s (stuck)`; empty for none."""
    return "; ".join(_told(shadow) for shadow in kept(meta))


def _told(shadow: dict[str, Any]) -> str:
    label = shadow.get("label", shadow.get("policy", "?"))
    if "error" in shadow:
        return f"{label}: cannot tell ({shadow['error']})"
    if not shadow.get("decisions"):
        return f"{label} would do nothing"
    first = shadow["decisions"][0]
    more = shadow.get("decisions_in_all", len(shadow["decisions"])) - 1
    rest = f", then {more} more" if more else ""
    what = action_text(first["action"], first["argument"])
    return f"{label} would {what} at {format_s(first['t_s'])} ({first['reason']}){rest}"
