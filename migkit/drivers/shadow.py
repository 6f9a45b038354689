"""What rules would have done to a migration, kept in its trace: `meta.notes["shadow"]`.

Decided when the migration is over, by a replay of what was recorded: exact to within the phase of the monitor's timer,
which every decision tells, and free while the migration runs. A monitor that ran along would cost its wake-ups on top
of the recorder's, and know no more.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from migkit.errors import MigkitError
from migkit.meta import TraceMeta
from migkit.policies import kubevirt
from migkit.policies.versions import Policy

if TYPE_CHECKING:
    from migkit.trace import Trace

NOTE: Final = "shadow"
# A call that fails is made again at every wake: the first ones tell it all.
KEPT_DECISIONS: Final = 50
_OF_THE_TRACE: Final = ("trace", "provenance", "outcome")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shadow:
    """Rules that only look on, as `annotate` of `mk.watch`: label, version and options of each, plain data.

    >>> import migkit as mk
    >>> mk.Shadow.of({"tight": mk.kubevirt("1.8", progress_timeout=5)}).rules
    (('tight', '1.8', {'progress_timeout': 5}),)
    """

    rules: tuple[tuple[str, str, dict[str, Any]], ...]

    @classmethod
    def of(cls, policies: Mapping[str, Policy]) -> Shadow:
        """The policies by label."""
        return cls(
            tuple(
                (label, policy.version, {name: policy.options[name] for name in sorted(policy.given)})
                for label, policy in policies.items()
            )
        )

    def __call__(self, rows: list[Row], meta: TraceMeta) -> TraceMeta:
        """The metadata with what each rule would have done to these rows."""
        # Here and not above: a watcher makes a Shadow, and never calls it in its own process.
        from migkit.trace import Trace

        trace = Trace.from_rows(rows, meta, meta.domain.name)
        found = [
            {"label": label, **_shadowed(trace, kubevirt(version, **options))} for label, version, options in self.rules
        ]
        return dataclasses.replace(meta, notes={**meta.notes, NOTE: found})


def _shadowed(trace: Trace, policy: Policy) -> dict[str, Any]:
    """A replay's own JSON without what the trace says anyway; the reason where there can be none."""
    from migkit.drivers.replay import replay

    try:
        told: dict[str, Any] = json.loads(replay(trace, policy).to_json())
    except MigkitError as error:
        return {"policy": policy.name, "options": dict(policy.options), "error": str(error)}
    told["decisions_in_all"] = len(told["decisions"])
    told["decisions"] = told["decisions"][:KEPT_DECISIONS]
    return {key: value for key, value in told.items() if key not in _OF_THE_TRACE}
