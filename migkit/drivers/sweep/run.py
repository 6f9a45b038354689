"""Many traces under many settings: what each setting would have done first to each migration."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd

from migkit.dataset import Bad, Dataset, open_dataset
from migkit.drivers.first import Method
from migkit.drivers.sweep.outcomes import BASES, OUTCOMES, WHAT
from migkit.drivers.sweep.recorded import ENDS
from migkit.drivers.sweep.settings import Settings, count_of, expand
from migkit.drivers.sweep.share import Done, Job, Loose, sweep_share
from migkit.errors import MigkitError, UsageError
from migkit.policies import base
from migkit.policies.size import checked_size
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
    traces: Dataset | Loose | Sequence[Trace] | str | os.PathLike[str],
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
    method: Method = "shortcut",
    progress: bool = False,
    **lists: Iterable[Any],
) -> Sweep:
    """Every trace under every combination of the listed options: `stall_margin=[2, 4, 8]`.

    Parameters: `traces`, a dataset or the place of one; `settings`, a table (or dictionaries) of settings instead
    of lists; `sample`, so many drawn at random with `seed`; `keep`, a test of a combination (a dictionary of all
    options); `data_size_gb` and `has_vfio` as for `replay`; `inexact`, take along traces that cannot tell exactly what
    this policy does, labelled *bounded*; `skip_bad`, leave out what cannot be read and count it; `large`, more than
    10^8 replays are meant; `executor`, anything with `map`, processes or a Dask cluster (by default one share after
    another: what is left to compute is so little that threads of one process only stand in each other's way);
    `method`, shortcut, advance (the rules themselves, compiled) or plain: they give the same; `progress`, a bar.

    Ctrl-C returns what is done. Raises UsageError for settings that cannot be, MigkitError for traces that cannot.

    >>> import migkit as mk
    >>> found = mk.sweep("data/traces", mk.kubevirt("1.8"), progress_timeout=[30, 150])
    >>> len(found.table) == 2 * len(found.traces)
    True
    """
    source = traces if isinstance(traces, Dataset | Loose) else _dataset(traces, skip_bad=skip_bad)
    listed = {name: list(v) if isinstance(v, Iterable) and not isinstance(v, str) else v for name, v in lists.items()}
    if keep is None and all(isinstance(values, list) for values in listed.values()):
        # Before a policy is made of each: a grid too large is told at once.
        count = count_of(listed)
        _check_size(len(source), count if sample is None else min(sample, count), large=large)
    chosen = expand(policy, listed, given=settings, sample=sample, seed=seed, keep=keep)
    _check_size(len(source), len(chosen), large=large)
    job = Job(
        policies=chosen.policies, data_size_gb=None if data_size_gb is None else checked_size(data_size_gb),
        has_vfio=has_vfio, inexact=inexact, skip_bad=skip_bad, method=method,
    )  # fmt: skip
    rows, left_out = _Rows(len(source), len(chosen)), list(source.bad)
    complete = _run(job, source, executor, rows, left_out, progress=progress)
    if not rows.facts and not complete:
        raise KeyboardInterrupt
    if not rows.facts:
        raise MigkitError(_nothing(left_out))
    facts = pd.DataFrame(rows.facts, columns=list(TRACE_COLUMNS))
    return Sweep(
        table=rows.table(chosen), settings=chosen.table, traces=facts, policy=policy, policies=chosen.policies,
        left_out=pd.DataFrame(left_out, columns=["place", "why"]), complete=complete, source=source, how=job.how(),
    )  # fmt: skip


def _check_size(traces: int, count: int, *, large: bool) -> None:
    replays = traces * count
    if replays > MOST_REPLAYS and not large:
        minutes = replays / _REPLAYS_PER_S / 60
        raise UsageError(
            f"{traces} traces x {count} settings are {replays:.2g} replays, {minutes:.0f} minutes or more and "
            f"{replays * 60 / 2**30:.0f} GiB of results: draw some with sample=, or say large=True (--yes)"
        )


def _nothing(left_out: Sequence[Bad]) -> str:
    place, why = left_out[0] if left_out else ("the dataset", "it is empty")
    more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
    return f"no trace can be swept: {place}: {why}{more}"


# --- all partitions -------------------------------------------------------------------------------------------------


def _run(
    job: Job, source: Dataset | Loose, executor: Executor | None, rows: _Rows, left_out: list[Bad], *, progress: bool
) -> bool:
    """Fills in the rows in the order of the traces; whether they are all."""
    from tqdm.auto import tqdm

    partitions = source.partitions(_partition_size(len(source)))
    call = functools.partial(sweep_share, job)
    shares = map(call, partitions) if executor is None else executor.map(call, partitions)
    with tqdm(total=len(source), unit="trace", disable=None if progress else True) as bar:
        try:
            for share in shares:
                for one in share.done:
                    rows.add(one)
                left_out += share.left_out
                bar.update(len(share.done) + len(share.left_out))
        except KeyboardInterrupt:
            return False
    return True


def _partition_size(traces: int) -> int:
    """About a hundred traces a task; fewer where that would leave a processor idle."""
    return max(1, min(TRACES_A_PARTITION, -(-traces // (4 * (os.cpu_count() or 1)))))


class _Rows:
    """The rows of all traces one after another, in room that is made once, in columns no wider than they need be."""

    def __init__(self, traces: int, settings: int) -> None:
        self._traces, self._settings = traces, settings
        self._columns: dict[str, Any] = {}
        self.facts: list[tuple[Any, ...]] = []

    def add(self, one: Done) -> None:
        """The rows of one more trace."""
        place = len(self.facts) * self._settings
        self.facts.append(one.facts)
        for name, values in one.columns.items():
            if name not in self._columns:
                self._columns[name] = np.empty(self._traces * self._settings, dtype=values.dtype)
            self._columns[name][place : place + self._settings] = values

    def table(self, chosen: Settings) -> pd.DataFrame:
        """The table of a sweep."""
        count, traces = self._settings, len(self.facts)
        names, ends = [facts[0] for facts in self.facts], [ENDS.index(facts[1]) for facts in self.facts]
        made: dict[str, Any] = {
            "trace": _category(np.repeat(np.arange(traces, dtype=np.int32), count), names),
            "setting": np.tile(np.arange(count, dtype=np.int32), traces),
        }
        for name in chosen.table.columns:
            made[name] = np.tile(_narrow(chosen.table[name]), traces)
        made["end"] = _category(np.repeat(np.array(ends, dtype=np.int8), count), ENDS)
        for outcome in OUTCOMES:
            made[outcome.name] = _labelled(outcome.name, self._columns.pop(outcome.name)[: traces * count])
        return pd.DataFrame(made, copy=False)


def _category(codes: Any, names: Sequence[str]) -> Any:
    return pd.Categorical.from_codes(codes, pd.Index(names))


def _narrow(column: pd.Series[Any]) -> Any:
    values = column.to_numpy()
    if values.dtype.kind == "f" and not np.isnan(values).any():
        return values
    return values.astype(np.int32) if values.dtype.kind == "i" and abs(values).max(initial=0) < 2**31 else values


def _labelled(name: str, values: Any) -> Any:
    if name in _CATEGORIES:
        return _category(values, _CATEGORIES[name])
    if name in _FLAGS:
        return pd.arrays.BooleanArray(values > 0, values < 0)
    return values


def _dataset(traces: Iterable[Trace] | str | os.PathLike[str], *, skip_bad: bool) -> Dataset | Loose:
    if isinstance(traces, str | os.PathLike):
        return open_dataset(traces, skip_bad=skip_bad)
    listed = list(traces)
    if len({trace.name for trace in listed}) < len(listed):
        raise UsageError("two of the traces have the same name; rename one")
    return Loose(listed)
