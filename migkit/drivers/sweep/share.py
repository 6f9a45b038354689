"""One share of the traces under all settings: what a thread, a process or another machine does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from migkit.dataset import Bad, Partition
from migkit.drivers.first import Method, Prepared, firsts, prepare
from migkit.drivers.replay import trace_has_vfio
from migkit.drivers.sweep.outcomes import Acted, outcomes
from migkit.drivers.sweep.recorded import Recorded, recorded
from migkit.drivers.sweep.rows import READS, Rows
from migkit.drivers.sweep.settings import as_arrays, for_trace
from migkit.errors import MigkitError
from migkit.fidelity import MONITOR_MS, ran_beside, samples_answer, trace_data_size, unseen_deadlines
from migkit.meta import TraceMeta
from migkit.policies import base
from migkit.policies.base import Options
from migkit.policies.versions import Policy
from migkit.trace import Trace

# Options that are 0 or off where their rule is not used.
_RULES = (
    "completion_timeout_per_gib", "progress_timeout", "downtime_tuning", "allow_post_copy", "allow_workload_disruption",
)  # fmt: skip


class Loose:
    """Traces in memory, as a sweep reads a dataset."""

    def __init__(self, traces: Iterable[Trace]) -> None:
        self._traces = list(traces)
        self.bad: list[Bad] = []

    def __len__(self) -> int:
        return len(self._traces)

    def __getitem__(self, name: str) -> Trace:
        return next(trace for trace in self._traces if trace.name == name)

    def partitions(self, traces: int) -> list[Held]:
        """Shares of at most so many traces."""
        return [Held(self._traces[a : a + traces]) for a in range(0, len(self), traces)]


@dataclass(frozen=True, slots=True)
class Held:
    """Some of the traces in memory, read like a partition of a dataset."""

    _traces: list[Trace]

    def tables(
        self, columns: Sequence[str] | None = None, *, bad: list[Bad] | None = None
    ) -> Iterator[tuple[str, pa.Table, TraceMeta]]:
        """Name, rows and metadata of each."""
        for trace in self._traces:
            table = Rows.of(trace).table
            yield trace.name, table if columns is None else table.select(columns), trace.meta


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every worker needs to know. Small, and goes to other processes and machines."""

    policies: tuple[Policy, ...]
    data_size_gb: int | None
    has_vfio: bool | None
    inexact: bool
    skip_bad: bool
    method: Method

    def how(self) -> dict[str, Any]:
        """Everything but the policies."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "policies"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A trace's row of facts and its columns of outcomes."""

    facts: tuple[Any, ...]
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    done: list[Done]
    left_out: list[Bad]


def sweep_share(job: Job, partition: Partition | Held) -> Share:
    """Sweeps the traces of one partition."""
    found = Share(done=[], left_out=[])
    groups = _groups(job.policies)
    per_gb_s = np.array([int(policy.options["completion_timeout_per_gib"]) for policy in job.policies])
    bad: list[Bad] | None = [] if job.skip_bad else None
    for name, table, meta in partition.tables(READS, bad=bad):
        trace = Rows(name, table, meta)
        try:
            found.done.append(_trace(job, groups, per_gb_s, trace))
        except MigkitError as error:
            if not job.skip_bad:
                raise
            found.left_out.append(Bad(trace.name, str(error).removeprefix(f"{trace.name}: ")))
    found.left_out.extend(bad or [])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """The settings that are woken alike: by polls alone, or by iteration events too. `hardest`: those of them that a
    trace answers the least; `ran_beside`: the one setting whose own wakes the trace has."""

    places: Any
    events: bool
    policy: Policy
    options: Options
    hardest: tuple[Policy, ...] = ()
    ran_beside: bool = False


def _groups(policies: Sequence[Policy]) -> list[_Group]:
    hears = np.array([policy.hears_iterations for policy in policies])
    found = []
    for events in (False, True):
        places = np.flatnonzero(hears == events)
        if len(places):
            own = [policies[int(place)] for place in places]
            found.append(
                _Group(places=places, events=events, policy=own[0], options=as_arrays(own), hardest=_hardest(own))
            )
    return found


def _hardest(policies: Iterable[Policy]) -> tuple[Policy, ...]:
    """Of settings that use the same rules, the one with the shortest progress timeout: what a coarse trace answers for
    it, it answers for the others too (`migkit.fidelity`)."""
    found: dict[tuple[bool, ...], Policy] = {}
    for policy in policies:
        used = tuple(bool(policy.options.get(name)) for name in _RULES)
        known = found.setdefault(used, policy)
        if int(policy.options["progress_timeout"]) < int(known.options["progress_timeout"]):
            found[used] = policy
    return tuple(found.values())


def _beside(trace: Rows, policies: Sequence[Policy]) -> list[_Group]:
    """The settings that ran beside this migration, if its trace tells of any."""
    if trace.meta.rule is None:
        return []
    return [
        _Group(
            places=np.array([place]), events=one.hears_iterations, policy=one, options=as_arrays([one]), ran_beside=True
        )
        for place, one in enumerate(policies)
        if ran_beside(trace.meta, one)
    ]


def _trace(job: Job, groups: Sequence[_Group], per_gb_s: npt.NDArray[np.int64], trace: Rows) -> Done:
    """One trace under all settings; `per_gb_s`, the seconds for a GB that each one grants."""
    facts = recorded(trace)
    levels = {_level(job, trace, policy) for group in groups for policy in group.hardest}
    policy = groups[0].policy
    size = trace_data_size(trace, policy) if job.data_size_gb is None else job.data_size_gb
    vfio = trace_has_vfio(trace.meta) if job.has_vfio is None else job.has_vfio
    acted = _acted(job, groups, trace, size, vfio)
    columns = outcomes(facts, acted, approximate=len(levels - {"exact"}) > 0 or _unseen(job, trace, per_gb_s * size))
    return Done(facts=_facts(facts, trace, size, levels), columns=columns)


def _level(job: Job, trace: Rows, policy: Policy) -> str:
    """What the trace can say of a policy; raises MigkitError for what it cannot, or not exactly unless `inexact`."""
    size_known = job.data_size_gb is not None
    if _plainly_exact(trace, policy, size_known=size_known):
        return "exact"
    answer = samples_answer(trace.trace(), policy, size_known=size_known, vfio_known=job.has_vfio is not None)
    if answer.level == "no" or (answer.level == "approximate" and not job.inexact):
        hint = "" if answer.level == "no" else "; inexact=True (--inexact) takes it along, labelled"
        raise MigkitError(f"{trace.name}: cannot tell what {policy.name} does: {answer.why}{hint}")
    return answer.level


def _unseen(job: Job, trace: Rows, deadlines_s: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which settings have a deadline of which the trace cannot tell whether the job still ran then."""
    found = unseen_deadlines(trace, deadlines_s)
    if trace.meta.rule is not None:
        found &= ~np.array([ran_beside(trace.meta, policy) for policy in job.policies])
    return found


def _plainly_exact(trace: Rows, policy: Policy, *, size_known: bool) -> bool:
    """Whether it was taken at the monitor's own pace with all that the rule reads: what `answers` calls exact, told
    without pandas."""
    cadence, columns = trace.meta.cadence, trace.columns
    if cadence.interval_ms is None or cadence.interval_ms > MONITOR_MS or cadence.resolution_bytes:
        return False
    if cadence.start_uncertain_ms or not (size_known or trace.meta.domain.memory_bytes is not None):
        return False
    reads = ["time_elapsed_ms", "data_remaining_bytes"]
    if policy.hears_iterations:
        if not columns.came_from("iteration").any():
            return False
        reads += ["memory_bps", "memory_iteration"]
    return all(columns.numbers[name][1][trace.active].any() for name in reads)


def _acted(job: Job, groups: Sequence[_Group], trace: Rows, size: int, vfio: bool) -> Acted:
    """The first decisive actions of all settings, in their order."""
    found: dict[str, Any] = {name: np.full(len(job.policies), -1) for name in Acted.__dataclass_fields__}
    found["event"] = np.zeros(len(job.policies), dtype=bool)
    for group in (*groups, *_beside(trace, job.policies)):
        policy = group.policy if group.ran_beside else None
        prepared = prepare(trace.columns, events=group.events, policy=policy)
        options = for_trace(group.options, data_size_gb=size, has_vfio=vfio)
        own = first_actions(prepared, group.policy, options, method=job.method)
        for name, values in found.items():
            values[group.places] = getattr(own, name)
    return Acted(**found)


def first_actions(prepared: Prepared, policy: Policy, options: Options, *, method: Method = "shortcut") -> Acted:
    """The first decisive actions on a prepared trace, in the time since its job began."""
    first = firsts(prepared, policy.family.rules, options, method=method)
    # A first limit or a step of tuning decides nothing: it changes what the record can tell from there on.
    sets = (first.wake >= 0) & np.isin(first.reason, (base.STALL_INITIAL, base.TUNING))
    first = first._replace(
        changed_wake=np.where(sets & (first.changed_wake < 0), first.wake, first.changed_wake),
        wake=np.where(sets, -1, first.wake),
    )
    wakes, at = prepared.wakes, np.maximum(first.wake, 0)
    return Acted(
        t_ns=np.where(first.wake >= 0, wakes.t_ns[at], -1), action=first.action, argument=first.argument,
        reason=first.reason, age_ns=prepared.plan.age_ns[at], event=np.asarray(wakes.event)[at],
        changed_ns=np.where(first.changed_wake >= 0, wakes.t_ns[np.maximum(first.changed_wake, 0)], -1),
    )  # fmt: skip


def _facts(facts: Recorded, trace: Rows, size: int, levels: set[str]) -> tuple[Any, ...]:
    meta = trace.meta
    group = (meta.lab.scenario if meta.lab else "") or meta.domain.uuid or meta.domain.name or trace.name
    basis = "observed" if levels == {"exact"} else "bounded"
    changed_s, improved_s = (None if np.isinf(v) else v for v in (facts.changed_s, facts.improved_s))
    return (
        facts.name, facts.end, facts.end_s, changed_s, improved_s, facts.best_remaining_bytes, facts.iterations, size,
        basis, group, facts.fingerprint(),
    )  # fmt: skip
