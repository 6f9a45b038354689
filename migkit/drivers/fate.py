"""What one setting at a time does to a few migrations, at once: the step behind a slider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migkit.drivers.first import prepare
from migkit.drivers.outcomes import WHAT, outcomes
from migkit.drivers.recorded import recorded
from migkit.drivers.replay import trace_data_size
from migkit.drivers.rows import Rows
from migkit.drivers.settings import as_arrays, expand, for_trace
from migkit.drivers.sweep import first_actions
from migkit.policies.versions import Policy
from migkit.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What happens first to a migration (`outcomes.WHAT`), when (NaN: the setting does nothing), and whether it would
    have completed by itself."""

    what: str
    t_s: float
    false: bool

    @property
    def acts(self) -> bool:
        """Whether the setting does anything."""
        return self.t_s == self.t_s


class Fates:
    """Traces made ready once, under one policy whose options are varied."""

    def __init__(self, traces: Sequence[Trace], policy: Policy) -> None:
        self._policy = policy
        rows = [Rows.of(trace) for trace in traces]
        self._ready = [(recorded(one), one, trace_data_size(trace, policy)) for one, trace in zip(rows, traces, strict=True)]
        self._prepared: dict[tuple[int, bool], Any] = {}

    def under(self, setting: Mapping[str, Any]) -> list[Fate]:
        """What the setting (option -> value) does to each trace."""
        (policy,) = expand(self._policy, {name: [value] for name, value in setting.items()}).policies
        options = as_arrays([policy])
        found = []
        for place, (facts, rows, size) in enumerate(self._ready):
            key = (place, policy.hears_iterations)
            if key not in self._prepared:
                self._prepared[key] = prepare(rows, events=policy.hears_iterations)
            vfio = bool(rows.meta.domain.has_vfio)
            own = for_trace(options, data_size_gb=size, has_vfio=vfio)
            columns = outcomes(facts, first_actions(self._prepared[key], policy, own))
            false = bool(columns["false_abort"][0] == 1 or columns["false_switchover"][0] == 1)
            found.append(Fate(what=WHAT[columns["what"][0]], t_s=float(columns["time_to_action_s"][0]), false=false))
        return found
