"""Runs a decision rule over a recorded trace: what it would have done, when, and how sure that is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from migkit.drivers.columns import columns
from migkit.drivers.evidence import INTERNAL_COLUMNS, evidence, internals
from migkit.drivers.monitor import ACTIONS, POLL_NS, Monitor
from migkit.drivers.record import CODES, SAME_NS, Record
from migkit.drivers.replies import refused
from migkit.drivers.schedule import PHASES, Schedule, schedules
from migkit.errors import MigkitError, UsageError, unknown
from migkit.fidelity import Answer, Level, answers, interval_ms, trace_data_size
from migkit.meta import TraceMeta
from migkit.policies import base
from migkit.policies.base import Options, Wakes
from migkit.policies.size import checked_size
from migkit.policies.versions import Policy
from migkit.trace import Trace
from migkit.units import NS_PER_MS, NS_PER_S

DECISION_COLUMNS = (
    "t_s", "earliest_s", "latest_s", "phases", "action", "argument", "succeeded", "reason", "basis", "evidence",
)  # fmt: skip

Decision = tuple[int, str, int | None, bool, str, str]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a policy would have done to a recorded migration.

    Attributes:
        decisions: one row a decision in time order: `t_s` (since the job began, at the first phase), `earliest_s` and
            `latest_s` over the phases of the monitor's timer, `phases` (how many of them decide it), `action`,
            `argument` (ms), `succeeded`, `reason`, `basis` (observed, bounded, modelled, unknowable), `evidence`.
        internals: the monitor's values after each wake of the first phase (`evidence.INTERNAL_COLUMNS`).
        divergence_s: when the replay first leaves what was really done; None when it never does.
        result: how the monitor ended, or "running" when the recording ends first.
        deadline_s: the completion deadline, 0 for none; `data_size_gb`, the size behind it.
        fidelity: whether the trace can answer for this policy: exactly, approximately (no decision is better than
            bounded then), or, where the caller went on anyway, not at all (every decision is modelled).
        has_vfio: whether the rules took the guest for one with host devices; `notes`, what weakens this replay.
    """

    trace: Trace
    policy: Policy
    decisions: pd.DataFrame
    internals: pd.DataFrame
    divergence_s: float | None
    result: str
    deadline_s: int
    data_size_gb: int
    wakes_recorded: bool
    fidelity: Answer
    has_vfio: bool = False
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Everything but the internals, as one JSON object."""
        rows = json.loads(self.decisions.to_json(orient="records", double_precision=3))
        known = {
            "trace": self.trace.name,
            "provenance": self.trace.meta.provenance,
            "outcome": self.trace.meta.end.outcome,
            "policy": self.policy.name,
            "options": dict(self.policy.options),
            "data_size_gb": self.data_size_gb,
            "deadline_s": self.deadline_s,
            "has_vfio": self.has_vfio,
            "notes": list(self.notes),
            "wakes": "recorded" if self.wakes_recorded else f"rebuilt at {PHASES} phases of {POLL_NS // NS_PER_MS} ms",
            "fidelity": self.fidelity.level,
            "fidelity_why": self.fidelity.why or None,
            "result": self.result,
            "divergence_s": None if self.divergence_s is None else round(self.divergence_s, 3),
            "decisions": rows,
        }
        return json.dumps(known)

    def __repr__(self) -> str:
        first = "nothing" if self.decisions.empty else f"{self.decisions['action'].iloc[0]} first"
        return f"<Replay of {self.trace.name or 'a trace'} under {self.policy.name}: {first}>"


def replay(
    trace: Trace,
    policy: Policy,
    *,
    failures: Mapping[str, Sequence[int]] | None = None,
    data_size_gb: int | None = None,
    has_vfio: bool | None = None,
    compiled_form: bool = False,
    anyway: bool = False,
) -> Replay:
    """Reruns a policy over a trace at 8 phases of the monitor's 400 ms, or at the wakes that it was recorded with.

    Parameters: `failures`, libvirt call name -> which of its calls fail, counted from 1, 0 for every one;
    `data_size_gb` and `has_vfio`, where the trace does not know them or other ones are meant; `compiled_form` runs the
    rules compiled by numba; `anyway` replays a policy that the trace cannot answer (`migkit.fidelity`), iterations
    read off the counter where there are no events. A call succeeds unless `failures` or the trace's own record of it
    says otherwise. Raises MigkitError when the trace holds no running migration or cannot answer for the policy, or
    nobody knows the data size.

    >>> import migkit as mk
    >>> trace = mk.load("data/traces/noconverge_abort.parquet")
    >>> run = mk.replay(trace, mk.kubevirt("1.8", completion_timeout_per_gib=10))
    >>> run.decisions[["action", "reason"]].values.tolist()
    [['abort', 'timeout']]
    """
    _check(trace, policy, failures or {})
    size = trace_data_size(trace, policy) if data_size_gb is None else checked_size(data_size_gb)
    fidelity = answers(trace, policy, data_size_gb=data_size_gb, has_vfio=has_vfio)
    if fidelity.level == "no" and not anyway:
        raise MigkitError(
            f"{trace.name or 'trace'} cannot answer for {policy.name}: {fidelity.why} (anyway=True, --anyway: go on)"
        )
    vfio = trace_has_vfio(trace.meta) if has_vfio is None else has_vfio
    options = policy.computed(data_size_gb=size, has_vfio=vfio)
    record = Record(columns(trace))
    plans = schedules(record.columns, events=policy.hears_iterations, policy=policy)
    lives = [
        _Life(record, policy, options, plan, failures or {}, compiled_form, watched=index == 0)
        for index, plan in enumerate(plans)
    ]
    divergence_ns = _divergence_ns(record, lives[0])
    return Replay(
        trace=trace,
        policy=policy,
        decisions=_decisions(lives, divergence_ns, _freshness_ns(trace), fidelity.level),
        internals=lives[0].internals(),
        divergence_s=None if divergence_ns is None else divergence_ns / NS_PER_S,
        result=lives[0].result(),
        deadline_s=options.acceptable_s,
        data_size_gb=size,
        wakes_recorded=plans[0].recorded,
        fidelity=fidelity,
        has_vfio=vfio,
        notes=_vfio_notes(recorded=trace.meta.domain.has_vfio, replayed=vfio),
    )


def _vfio_notes(*, recorded: bool | None, replayed: bool) -> tuple[str, ...]:
    """QEMU learns much of a device's state only once the guest stands still."""
    notes = []
    if recorded:
        notes.append(
            "the guest has host devices (VFIO): remaining may be under-reported, without what their state adds at the "
            "switchover; expected downtimes, and rules that rest on them, are then too low"
        )
    if recorded and not replayed:
        notes.append("replayed as a guest without host devices")
    if replayed and not recorded:
        had = "of which the record tells nothing" if recorded is None else "which the recorded one did not have"
        notes.append(
            f"replayed as a guest with host devices (VFIO), {had}: remaining may be under-reported, it holds nothing "
            "of a device's state"
        )
    return tuple(notes)


def _check(trace: Trace, policy: Policy, failures: Mapping[str, Sequence[int]]) -> None:
    if not isinstance(trace, Trace):
        raise UsageError(f"replay takes a trace (mk.load), not {type(trace).__name__}")
    if not isinstance(policy, Policy):
        raise UsageError(
            f"replay takes a policy, not {policy!r}; write mk.policy('kubevirt-1.8') or mk.kubevirt('1.8')"
        )
    for name, numbers in failures.items():
        if name not in (*ACTIONS, "GetJobInfo", "DomainEventMigrationIterationRegister"):
            raise unknown("libvirt call", name, [*ACTIONS, "GetJobInfo"])
        if not isinstance(numbers, Sequence) or not all(isinstance(n, int) for n in numbers):
            raise UsageError(f"failures of {name}: {numbers!r} is not a list of numbers, e.g. [1, 2], or [0] for all")


def trace_has_vfio(meta: TraceMeta) -> bool:
    """Whether the guest has host devices, or was taken for one that has by the rule beside the migration."""
    rule = meta.rule
    return bool(meta.domain.has_vfio if rule is None or rule.has_vfio is None else rule.has_vfio)


class _Life:
    """One monitor over one schedule: a hypervisor that answers from the record."""

    def __init__(
        self, record: Record, policy: Policy, options: Options, plan: Schedule, failures: Mapping[str, Sequence[int]],
        compiled_form: bool, *, watched: bool,
    ) -> None:  # fmt: skip
        self.plan, self.failures = plan, failures
        self.replies, self.used = record.replies(plan).plain(), [0] * base.CANCEL
        self.wakes = record.wakes(plan)
        self.counts: dict[str, int] = {}
        self.evidence: list[str] = []
        self.snapshots: list[dict[str, Any]] = []
        self.monitor = Monitor(policy.family, options, self, errors=lambda row: record.error,
                               room=int(plan.event.sum()), compiled_form=compiled_form)  # fmt: skip
        wakes = self.wakes if compiled_form else Wakes(*(column.tolist() for column in self.wakes))
        row, count = 0, len(plan.t_ns)
        while row < count and not self.monitor.finished:
            end = row + 1 if watched else count
            self.monitor.run(wakes, row, end)
            row = end
            if watched:
                self.snapshots.append(internals(self.monitor, int(plan.t_ns[row - 1])))

    def call(self, row: int, name: str, argument: int | None) -> bool:
        """Scripted, else as it was recorded, else it succeeds."""
        self.counts[name] = count = self.counts.get(name, 0) + 1
        if row >= 0:
            self.evidence.append(evidence(self.monitor, int(self.plan.t_ns[row])))
        numbers = self.failures.get(name, ())
        if 0 in numbers or count in numbers:
            return False
        if row < 0:
            return True
        return not refused(self.replies, self.used, CODES[ACTIONS[name]], row)

    def job_type(self, row: int) -> int | None:
        """What GetJobInfo tells at this wake."""
        self.counts["GetJobInfo"] = count = self.counts.get("GetJobInfo", 0) + 1
        numbers = self.failures.get("GetJobInfo", ())
        if 0 in numbers or count in numbers:
            return None
        return int(self.wakes.job_type[row]) if self.wakes.stats[row] else base.JOB_TYPE_ACTIVE

    def decisions(self) -> list[Decision]:
        """(ns since the job began, action, argument, succeeded, reason, evidence), in order."""
        return [
            (int(self.plan.t_ns[c.row]), ACTIONS[c.name], c.argument, c.succeeded, c.reason, said)
            for c, said in zip(self.monitor.calls, self.evidence, strict=True)
        ]

    def sample_age_ns(self, t_ns: int) -> int:
        """How old the sample was that the wake at `t_ns` read; huge where it read none."""
        row = int(np.searchsorted(self.plan.t_ns, t_ns, side="left"))
        return int(self.plan.age_ns[row])

    def internals(self) -> pd.DataFrame:
        """The watched values, a row a wake."""
        return pd.DataFrame(self.snapshots, columns=list(INTERNAL_COLUMNS))

    def result(self) -> str:
        """How it ended for this monitor."""
        result = self.monitor.result
        if result.ended:
            return f"failed: {result.reason}" if result.failed else "succeeded"
        return "running"


def _divergence_ns(record: Record, life: _Life) -> int | None:
    """The first thing that was done here and not there, or there and not here: one action answers to one. Calls that
    fail change nothing; neither does setting the downtime limit that holds anyway."""
    limit_ms = record.columns.meta.migration.downtime_limit_ms or base.QEMU_DEFAULT_DOWNTIME_MS
    real = _effective([(t, what, argument) for t, what, argument, ok in record.actions if ok], limit_ms)
    ours = _effective([(t, what, argument) for t, what, argument, ok, *_ in life.decisions() if ok], limit_ms)
    alone = []
    for done in ours:
        twin = next((other for other in real if _same(done, other)), None)
        if twin is None:
            alone.append(done[0])
        else:
            real.remove(twin)
    return min([*alone, *(t for t, _, _ in real)], default=None)


Deed = tuple[int, str, int | None]


def _effective(done: Sequence[Deed], limit_ms: int) -> list[Deed]:
    """Without limits that were set to what held already."""
    kept = []
    for deed in done:
        if deed[1] == "set_max_downtime" and deed[2] is not None:
            before, limit_ms = limit_ms, deed[2]
            if before == limit_ms:
                continue
        kept.append(deed)
    return kept


def _same(a: Deed, b: Deed) -> bool:
    same_argument = a[2] == b[2] or a[2] is None or b[2] is None
    return a[1] == b[1] and same_argument and abs(a[0] - b[0]) <= SAME_NS


def _freshness_ns(trace: Trace) -> int:
    """How old a sample may be before a wake that reads it is only bounded: two intervals, but at least 400 ms."""
    return max(int(2 * interval_ms(trace) * NS_PER_MS), POLL_NS)


def _decisions(lives: Sequence[_Life], divergence_ns: int | None, freshness_ns: int, level: Level) -> pd.DataFrame:
    """The decisions of all phases brought together: the same action for the same reason for the n-th time is one."""
    found: dict[tuple[str, str, int], list[tuple[int, _Life, Decision]]] = {}
    for index, life in enumerate(lives):
        counts: dict[tuple[str, str], int] = {}
        for decision in life.decisions():
            kind = (decision[1], decision[4])
            counts[kind] = counts.get(kind, 0) + 1
            found.setdefault((*kind, counts[kind]), []).append((index, life, decision))
    rows = [_merged(group, len(lives), divergence_ns, freshness_ns, level) for group in found.values()]
    rows.sort(key=lambda row: float(row[0]))
    table = pd.DataFrame(rows, columns=list(DECISION_COLUMNS))
    return table.astype({"argument": "Int64"})


def _merged(
    group: Sequence[tuple[int, _Life, Decision]],
    phases: int,
    divergence_ns: int | None,
    freshness_ns: int,
    level: Level,
) -> tuple[Any, ...]:
    times = [decision[0] for _, _, decision in group]
    _, life, (t_ns, action, argument, succeeded, reason, said) = group[0]
    basis = "observed" if len(group) == phases and level == "exact" else "bounded"
    if life.sample_age_ns(t_ns) > freshness_ns:
        basis = "bounded"
    if level == "no":
        basis = "modelled"
    if divergence_ns is not None and t_ns > divergence_ns:
        basis = "unknowable"
    spread = (t_ns / NS_PER_S, min(times) / NS_PER_S, max(times) / NS_PER_S, len(group))
    return (*spread, action, argument, succeeded, reason, basis, said)


def parse_failures(texts: Sequence[str]) -> dict[str, list[int]]:
    """`MigrateStartPostCopy=1,2` (or `=all`) into the form that `replay` takes. Raises UsageError."""
    failures: dict[str, list[int]] = {}
    for text in texts:
        name, _, numbers = text.partition("=")
        try:
            failures[name] = [0] if numbers == "all" else [int(n) for n in numbers.split(",")]
        except ValueError:
            raise UsageError(f"{text!r}: write a libvirt call and which of its calls fail, e.g. Suspend=1,2") from None
    return failures
