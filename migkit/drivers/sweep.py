"""Many traces under many settings: what each setting would have done first to each migration."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from migkit.dataset import Bad, Dataset, Partition, open_dataset
from migkit.drivers.first import Prepared, firsts, prepare
from migkit.drivers.outcomes import BASES, OUTCOMES, WHAT, Acted, outcomes
from migkit.drivers.recorded import ENDS, Recorded, recorded
from migkit.drivers.replay import checked_size, trace_data_size
from migkit.drivers.rows import Rows
from migkit.drivers.settings import Settings, as_arrays, expand, for_trace
from migkit.errors import MigkitError, UsageError
from migkit.fidelity import answers
from migkit.meta import TraceMeta
from migkit.policies import base
from migkit.policies.base import Options
from migkit.policies.versions import Policy
from migkit.trace import Trace

# So many replays are a typing error rather than a wish, and take hours.
MOST_REPLAYS: Final = 10**8
TRACES_A_PARTITION: Final = 100
_REPLAYS_PER_S: Final = 400_000

TRACE_COLUMNS: Final = (
    "trace", "end", "end_s", "changed_s", "improved_s", "best_remaining_bytes", "iterations", "data_size_gb", "basis",
    "group", "fingerprint",
)  # fmt: skip
_CATEGORIES = {"what": WHAT, "reason": base.REASON_NAMES, "basis": BASES}
_FLAGS = ("false_abort", "false_switchover")


class Executor(Protocol):
    """Anything with `map`: concurrent.futures, joblib's, `dask.distributed.Client(...).get_executor(pure=False)`."""

    def map(self, call: Callable[..., Any], *parts: Iterable[Any]) -> Iterable[Any]:
        """Calls over the parts, results in their order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What each setting would have done to each trace.

    Attributes:
        table: one row a trace and setting: `trace`, `setting` (a number), the varied options, and the columns of
            `outcomes.OUTCOMES`.
        settings: one row a setting: the varied options.
        traces: one row a trace (`TRACE_COLUMNS`): how its record ended, when its operator changed it (censored from
            then on), when it stopped improving, the data size behind its deadline, what may be grouped (its scenario,
            else its guest).
        left_out: one row a place that was not swept, and why.
        policy: what was varied; `policies`, the policy of each setting.
        complete: False when it was interrupted.
        source: the traces; `how`, the arguments that say how they are to be read.
    """

    table: pd.DataFrame
    settings: pd.DataFrame
    traces: pd.DataFrame
    left_out: pd.DataFrame
    policy: Policy
    policies: tuple[Policy, ...] = field(repr=False)
    complete: bool
    source: Dataset | Loose = field(repr=False)
    how: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        part = "" if self.complete else ", interrupted"
        return f"<Sweep of {len(self.traces)} traces x {len(self.settings)} settings of {self.policy.name}{part}>"


def sweep(
    traces: Dataset | Sequence[Trace] | str | os.PathLike[str],
    policy: Policy,
    *,
    settings: Iterable[Mapping[str, Any]] | pd.DataFrame | None = None,
    sample: int | None = None,
    seed: int = 0,
    keep: Callable[[dict[str, Any]], bool] | None = None,
    data_size_gb: int | None = None,
    has_vfio: bool | None = None,
    inexact: bool = False,
    skip_bad: bool = False,
    large: bool = False,
    executor: Executor | None = None,
    method: str = "shortcut",
    progress: bool = False,
    **lists: Iterable[Any],
) -> Sweep:
    """Every trace under every combination of the listed options: `stall_margin=[2, 4, 8]`.

    Parameters: `traces`, a dataset or the place of one; `settings`, a table (or dictionaries) of settings instead
    of lists; `sample`, so many drawn at random with `seed`; `keep`, a test of a combination (a dictionary of all
    options); `data_size_gb` and `has_vfio` as for `replay`; `inexact`, take along traces that cannot tell exactly what
    this policy does, labelled *bounded*; `skip_bad`, leave out what cannot be read and count it; `large`, more than
    10^8 replays are meant; `executor`, anything with `map` (threads by default); `method`, shortcut, advance (the
    rules themselves, compiled) or plain: they give the same; `progress`, a bar.

    Ctrl-C returns what is done. Raises UsageError for settings that cannot be, MigkitError for traces that cannot.

    >>> import migkit as mk
    >>> found = mk.sweep("data/traces", mk.kubevirt("1.8"), progress_timeout=[30, 150])
    >>> len(found.table) == 2 * len(found.traces)
    True
    """
    chosen = expand(policy, lists, given=settings, sample=sample, seed=seed, keep=keep)
    source = traces if isinstance(traces, Dataset | Loose) else _dataset(traces, skip_bad=skip_bad)
    _check_size(len(source), len(chosen), large=large)
    job = _Job(
        policies=chosen.policies, data_size_gb=None if data_size_gb is None else checked_size(data_size_gb),
        has_vfio=has_vfio, inexact=inexact, skip_bad=skip_bad, method=method,
    )  # fmt: skip
    parts, complete = _run(job, source, executor, progress=progress)
    left_out = [*source.bad, *(pair for part in parts for pair in part.left_out)]
    done = [one for part in parts for one in part.done]
    if not done:
        raise MigkitError(_nothing(left_out, complete=complete))
    return Sweep(
        table=_table(done, chosen), settings=chosen.table, traces=_traces(done),
        left_out=pd.DataFrame(left_out, columns=["place", "why"]), policy=policy, policies=chosen.policies,
        complete=complete, source=source, how=job.how(),
    )  # fmt: skip


def _check_size(traces: int, count: int, *, large: bool) -> None:
    replays = traces * count
    if replays > MOST_REPLAYS and not large:
        minutes = replays / _REPLAYS_PER_S / 60
        raise UsageError(
            f"{traces} traces x {count} settings are {replays:.2g} replays, {minutes:.0f} minutes or more and "
            f"{replays * 60 / 2**30:.0f} GiB of results: draw some with sample=, or say large=True (--yes)"
        )


def _nothing(left_out: Sequence[tuple[str, str]], *, complete: bool) -> str:
    if not complete:
        return "stopped before the first traces were done"
    place, why = left_out[0] if left_out else ("the dataset", "it is empty")
    more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
    return f"no trace can be swept: {place}: {why}{more}"


# --- one partition: what a worker does ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What every worker needs to know. Small, and goes to other processes and machines."""

    policies: tuple[Policy, ...]
    data_size_gb: int | None
    has_vfio: bool | None
    inexact: bool
    skip_bad: bool
    method: str

    def how(self) -> dict[str, Any]:
        """Everything but the policies."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "policies"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """A trace's row of facts and its columns of outcomes."""

    facts: tuple[Any, ...]
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    done: list[_Done]
    left_out: list[Bad]


def _part(job: _Job, partition: Partition | _Share) -> _Part:
    """Sweeps the traces of one partition."""
    found = _Part(done=[], left_out=[])
    groups = _groups(job.policies)
    bad: list[Bad] | None = [] if job.skip_bad else None
    for name, table, meta in partition.tables(bad=bad):
        trace = Rows(name, table, meta)
        try:
            found.done.append(_trace(job, groups, trace))
        except MigkitError as error:
            if not job.skip_bad:
                raise
            found.left_out.append(Bad(trace.name, str(error).removeprefix(f"{trace.name}: ")))
    found.left_out.extend(bad or [])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """The settings that are woken alike: by polls alone, or by iteration events too."""

    places: Any
    events: bool
    policy: Policy
    options: Options


def _groups(policies: Sequence[Policy]) -> list[_Group]:
    hears = np.array([policy.hears_iterations for policy in policies])
    found = []
    for events in (False, True):
        places = np.flatnonzero(hears == events)
        if len(places):
            own = [policies[place] for place in places]
            found.append(_Group(places=places, events=events, policy=own[0], options=as_arrays(own)))
    return found


def _trace(job: _Job, groups: Sequence[_Group], trace: Rows) -> _Done:
    """One trace under all settings."""
    facts = recorded(trace)
    levels = {_level(trace, group.policy, inexact=job.inexact) for group in groups}
    policy = groups[0].policy
    size = trace_data_size(trace, policy) if job.data_size_gb is None else job.data_size_gb
    vfio = bool(trace.meta.domain.has_vfio) if job.has_vfio is None else job.has_vfio
    acted = _acted(job, groups, trace, size, vfio)
    columns = outcomes(facts, acted, approximate=len(levels - {"exact"}) > 0)
    return _Done(facts=_facts(facts, trace, size, levels), columns=columns)


def _level(trace: Rows, policy: Policy, *, inexact: bool) -> str:
    """What the trace can say of a policy; raises MigkitError for what it cannot, or not exactly unless `inexact`."""
    answer = answers(trace.trace(), policy)
    if answer.level == "no" or (answer.level == "approximate" and not inexact):
        hint = "" if answer.level == "no" else "; inexact=True (--inexact) takes it along, labelled"
        raise MigkitError(f"{trace.name}: cannot tell what {policy.name} does: {answer.why}{hint}")
    return answer.level


def _acted(job: _Job, groups: Sequence[_Group], trace: Rows, size: int, vfio: bool) -> Acted:
    """The first decisive actions of all settings, in their order."""
    found = {name: np.full(len(job.policies), -1, dtype=np.int64) for name in Acted.__dataclass_fields__}
    found["event"] = np.zeros(len(job.policies), dtype=bool)
    for group in groups:
        options = for_trace(group.options, data_size_gb=size, has_vfio=vfio)
        own = first_actions(prepare(trace, events=group.events), group.policy, options, method=job.method)
        for name, values in found.items():
            values[group.places] = getattr(own, name)
    return Acted(**found)


def first_actions(prepared: Prepared, policy: Policy, options: Options, *, method: str = "shortcut") -> Acted:
    """The first decisive actions on a prepared trace, in the time since its job began."""
    first = firsts(prepared, policy.family.rules, options, method=method)
    wakes, at = prepared.wakes, np.maximum(first.wake, 0)
    return Acted(
        t_ns=np.where(first.wake >= 0, wakes.t_ns[at], -1), action=first.action, argument=first.argument,
        reason=first.reason, age_ns=prepared.age_ns[at], event=np.asarray(wakes.event)[at],
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


# --- all partitions -------------------------------------------------------------------------------------------------


def _run(job: _Job, source: Dataset | Loose, executor: Executor | None, *, progress: bool) -> tuple[list[_Part], bool]:
    """The parts in the order of the traces, and whether they are all."""
    from tqdm.auto import tqdm

    partitions = source.partitions(_partition_size(len(source)))
    own = ThreadPoolExecutor(os.cpu_count()) if executor is None else None
    parts: list[_Part] = []
    with tqdm(total=len(source), unit="trace", disable=None if progress else True) as bar:
        try:
            for part in (own or executor).map(functools.partial(_part, job), partitions):  # type: ignore[union-attr]
                parts.append(part)
                bar.update(len(part.done) + len(part.left_out))
        except KeyboardInterrupt:
            return parts, False
        finally:
            if own is not None:
                own.shutdown(wait=False, cancel_futures=True)
    return parts, True


def _partition_size(traces: int) -> int:
    """About a hundred traces a task; fewer where that would leave a processor idle."""
    return max(1, min(TRACES_A_PARTITION, -(-traces // (4 * (os.cpu_count() or 1)))))


def _table(done: Sequence[_Done], chosen: Settings) -> pd.DataFrame:
    """The rows of all traces one after another, in columns that are no wider than they need be."""
    count, traces = len(chosen), len(done)
    names = [one.facts[0] for one in done]
    table: dict[str, Any] = {
        "trace": pd.Categorical.from_codes(np.repeat(np.arange(traces, dtype=np.int32), count), names),
        "setting": np.tile(np.arange(count, dtype=np.int32), traces),
    }
    for name in chosen.table.columns:
        table[name] = np.tile(_narrow(chosen.table[name]), traces)
    ends = [one.facts[1] for one in done]
    table["end"] = pd.Categorical(np.repeat(np.array(ends, dtype=object), count), ENDS)
    for outcome in OUTCOMES:
        values = np.concatenate([one.columns.pop(outcome.name) for one in done])
        table[outcome.name] = _labelled(outcome.name, values)
    return pd.DataFrame(table, copy=False)


def _narrow(column: pd.Series[Any]) -> Any:
    values = column.to_numpy()
    if values.dtype.kind == "f" and not np.isnan(values).any():
        return values
    return values.astype(np.int32) if values.dtype.kind == "i" and abs(values).max(initial=0) < 2**31 else values


def _labelled(name: str, values: Any) -> Any:
    if name in _CATEGORIES:
        return pd.Categorical.from_codes(values, list(_CATEGORIES[name]))
    if name in _FLAGS:
        return pd.arrays.BooleanArray(values > 0, values < 0)
    return values


def _traces(done: Sequence[_Done]) -> pd.DataFrame:
    return pd.DataFrame([one.facts for one in done], columns=list(TRACE_COLUMNS))


class Loose:
    """Traces in memory, as a sweep reads a dataset."""

    def __init__(self, traces: Iterable[Trace]) -> None:
        self._traces = list(traces)
        self.bad: list[Bad] = []

    def __len__(self) -> int:
        return len(self._traces)

    def __getitem__(self, name: str) -> Trace:
        return next(trace for trace in self._traces if trace.name == name)

    def partitions(self, traces: int) -> list[_Share]:
        """Shares of at most so many traces."""
        return [_Share(self._traces[a : a + traces]) for a in range(0, len(self), traces)]


@dataclass(frozen=True, slots=True)
class _Share:
    """Some of the traces in memory, read like a partition of a dataset."""

    _traces: list[Trace]

    def tables(self, *, bad: list[Bad] | None = None) -> Iterator[tuple[str, pa.Table, TraceMeta]]:
        """Name, rows and metadata of each."""
        for trace in self._traces:
            yield trace.name, Rows.of(trace).table, trace.meta


def _dataset(traces: Iterable[Trace] | str | os.PathLike[str], *, skip_bad: bool) -> Dataset | Loose:
    if isinstance(traces, str | os.PathLike):
        return open_dataset(traces, skip_bad=skip_bad)
    listed = list(traces)
    if len({trace.name for trace in listed}) < len(listed):
        raise UsageError("two of the traces have the same name; rename one (mk.Trace is a dataclass: replace its name)")
    return Loose(listed)
