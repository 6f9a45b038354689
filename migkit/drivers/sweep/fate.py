"""What one setting at a time does to a few migrations, at once: the step behind a slider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migkit.drivers.first import Prepared, prepare
from migkit.drivers.replay import trace_has_vfio
from migkit.drivers.sweep.outcomes import BASES, WHAT, outcomes
from migkit.drivers.sweep.recorded import recorded
from migkit.drivers.sweep.rows import Rows
from migkit.drivers.sweep.settings import as_arrays, expand, for_trace
from migkit.drivers.sweep.share import first_actions
from migkit.errors import MigkitError
from migkit.fidelity import answers, ran_beside, trace_data_size
from migkit.policies.base import Options
from migkit.policies.versions import Policy
from migkit.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What happens first to a migration (`outcomes.WHAT`, or unknowable once the rule has changed the downtime limit),
    when (NaN: the setting does nothing), and whether it would have completed by itself."""

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
        for trace in traces:
            if (answer := answers(trace, policy)).level == "no":
                raise MigkitError(f"{trace.name}: cannot tell what {policy.name} does: {answer.why}")
        self._ready = [_Ready(Rows.of(trace), trace_data_size(trace, policy)) for trace in traces]

    def under(self, setting: Mapping[str, Any]) -> list[Fate]:
        """What the setting (option -> value) does to each trace."""
        (policy,) = expand(self._policy, {name: [value] for name, value in setting.items()}).policies
        options = as_arrays([policy])
        return [ready.under(policy, options) for ready in self._ready]


class _Ready:
    """One trace with what no setting changes."""

    def __init__(self, rows: Rows, data_size_gb: int) -> None:
        self._rows, self._size, self._facts = rows, data_size_gb, recorded(rows)
        self._prepared: dict[tuple[bool, bool], Prepared] = {}

    def under(self, policy: Policy, options: Options) -> Fate:
        """What a policy does to it."""
        woken = policy.hears_iterations, ran_beside(self._rows.meta, policy)
        if woken not in self._prepared:
            self._prepared[woken] = prepare(self._rows.columns, events=woken[0], policy=policy)
        own = for_trace(options, data_size_gb=self._size, has_vfio=trace_has_vfio(self._rows.meta))
        columns = outcomes(self._facts, first_actions(self._prepared[woken], policy, own))
        if BASES[columns["basis"][0]] == "unknowable":
            return Fate(what="unknowable", t_s=float("nan"), false=False)
        false = bool(columns["false_abort"][0] == 1 or columns["false_switchover"][0] == 1)
        return Fate(what=WHAT[columns["what"][0]], t_s=float(columns["time_to_action_s"][0]), false=false)
