"""What differs between policies over the same traces: the first decision they do not share, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from migkit.drivers.replay import Replay, replay
from migkit.errors import UsageError
from migkit.policies.versions import Policy
from migkit.trace import Trace

TABLE_COLUMNS = (
    "trace", "policy", "differs", "t_s", "baseline_does", "baseline_t_s", "policy_does", "policy_t_s", "beyond_spread",
    "basis", "reason", "evidence",
)  # fmt: skip
_NOTHING = "nothing"
# QEMU's own limit: setting it again does nothing to a migration.
_NO_EFFECT_REASON = "initial-downtime"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Policies against a baseline, the first one given.

    Attributes:
        runs: the replays of each trace by label.
        table: one row a trace and policy other than the baseline (`TABLE_COLUMNS`): whether it decides differently,
            when first (`t_s`), what either does and when, whether the difference is larger than the spread over the
            phases of the monitor's timer, on which basis, why and on which evidence.
    """

    runs: Mapping[str, Sequence[Replay]]
    table: pd.DataFrame

    @property
    def summary(self) -> pd.DataFrame:
        """One row a policy and kind of difference: how many traces, of how many."""
        rows = []
        for policy, group in self.table.groupby("policy", sort=False):
            same = int((~group["differs"]).sum())
            rows.append((policy, "decides the same", same, len(group)))
            differing = group[group["differs"]]
            kinds = pd.Series([_kind(row) for row in differing.itertuples()], dtype="object").value_counts()
            rows += [(policy, str(kind), int(count), len(group)) for kind, count in kinds.items()]
        return pd.DataFrame(rows, columns=["policy", "difference", "traces", "of"])


def compare(traces: Sequence[Trace], policies: Mapping[str, Policy] | Sequence[Policy], **options: Any) -> Comparison:
    """Replays every trace under every policy and holds each against the first policy.

    Parameters: `traces`; `policies`, at least two, with labels or by their names; `options` as for `replay`.
    Raises UsageError for fewer than two policies or two with one name.

    >>> import migkit as mk
    >>> found = mk.compare([mk.load("data/traces/stall_link.parquet")],
    ...                    [mk.kubevirt("1.8"), mk.kubevirt("1.4", progress_timeout=5)])
    >>> found.table["policy_does"].tolist()
    ['abort']
    """
    # Held once: a dataset would read its traces anew for every policy.
    traces = traces if isinstance(traces, Trace) else list(traces)
    if isinstance(traces, Trace) or not all(isinstance(trace, Trace) for trace in traces):
        raise UsageError("compare takes a list of traces, e.g. [trace] or mk.open_dataset(folder)")
    each = policies.values() if isinstance(policies, Mapping) else policies
    if not all(isinstance(policy, Policy) for policy in each):
        raise UsageError("compare takes policies, e.g. [mk.policy('kubevirt-1.8'), mk.policy('kubevirt-1.9')]")
    if isinstance(policies, Mapping):
        labelled = dict(policies)
    else:
        labelled = {policy.name: policy for policy in policies}
        if len(labelled) < len(policies):
            raise UsageError("two of the policies have the same name; give them labels")
    if len(labelled) < 2:
        raise UsageError("comparing needs at least two policies")
    runs = {label: [replay(trace, policy, **options) for trace in traces] for label, policy in labelled.items()}
    baseline, *others = labelled
    rows = [
        (trace.name, label, *_difference(runs[baseline][i], runs[label][i]))
        for i, trace in enumerate(traces)
        for label in others
    ]
    return Comparison(runs=runs, table=pd.DataFrame(rows, columns=list(TABLE_COLUMNS)))


def _difference(ours: Replay, other: Replay) -> tuple[Any, ...]:
    """The first decision that only one of them makes, or makes at another time than the spread explains."""
    left, right = _effective(ours), _effective(other)
    for a, b in zip(left, right, strict=False):
        same = a.action == b.action and (a.argument is b.argument or a.argument == b.argument)
        if same and a.earliest_s <= b.latest_s and b.earliest_s <= a.latest_s:
            continue
        return _row(a if a.t_s <= b.t_s else b, a, b, beyond=True)
    if len(left) > len(right):
        return _row(left[len(right)], left[len(right)], None, beyond=left[len(right)].basis != "bounded")
    if len(right) > len(left):
        return _row(right[len(left)], None, right[len(left)], beyond=right[len(left)].basis != "bounded")
    does, t_s = (_does(left[0]), float(left[0].t_s)) if left else (_NOTHING, None)
    return (False, None, does, t_s, does, t_s, False, "observed", "", "")


def _effective(run: Replay) -> list[Any]:
    """Its decisions as far as the trace can tell, without calls that change nothing."""
    known = run.decisions[run.decisions["basis"] != "unknowable"]
    return [d for d in known.itertuples() if d.reason != _NO_EFFECT_REASON]


def _row(first: Any, ours: Any, other: Any, *, beyond: bool) -> tuple[Any, ...]:
    does = [(_NOTHING, None) if d is None else (_does(d), float(d.t_s)) for d in (ours, other)]
    return (True, float(first.t_s), *does[0], *does[1], beyond, first.basis, first.reason, first.evidence)


def _does(decision: Any) -> str:
    words = str(decision.action).replace("_", " ").replace("post copy", "post-copy")
    return words + ("" if pd.isna(decision.argument) else f" {int(decision.argument)} ms")


def _kind(row: Any) -> str:
    if row.baseline_does == row.policy_does:
        return f"{row.policy_does} comes {'later' if row.policy_t_s > row.baseline_t_s else 'earlier'}"
    return f"{row.baseline_does} becomes {row.policy_does}"
