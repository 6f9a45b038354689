"""The settings of a sweep: from lists, a random draw or a table to policies, and to arrays for the rules."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from migkit.errors import UsageError
from migkit.policies.base import Options
from migkit.policies.versions import Policy, kubevirt

Values = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one sweep, in order.

    Attributes: `policies`, one each; `table`, one row a setting: the options that were varied, in the order given.
    """

    policies: tuple[Policy, ...]
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.policies)


def expand(
    policy: Policy,
    lists: Mapping[str, Iterable[Any]],
    *,
    given: Iterable[Mapping[str, Any]] | pd.DataFrame | None = None,
    sample: int | None = None,
    seed: int = 0,
    keep: Callable[[Values], bool] | None = None,
) -> Settings:
    """All combinations of `lists` (option -> values), or `sample` of them drawn with `seed`, or those `given`.

    `keep` takes a combination as a dictionary of all options and says whether it stays. The policy's own options hold
    for what is not varied. Raises UsageError for an unknown option, a value that admission refuses, a value that
    means nothing beside the others, an empty list, or when nothing is left.
    """
    if given is not None and (lists or sample is not None):
        raise UsageError("settings are given as lists or as a table of settings, not both")
    found = _given(given) if given is not None else _combined(lists, sample, seed)
    own: Values = {name: policy.options[name] for name in policy.given}
    made: list[tuple[Values, Policy]] = []
    for values in found:
        one = kubevirt(policy.version, **own | values)
        if keep is None or keep(dict(one.options)):
            made.append(({name: one.options[name] for name in values}, one))
    if not made:
        raise UsageError("no setting is left to try" + ("; keep= dropped them all" if keep else ""))
    return Settings(policies=tuple(one for _, one in made), table=_table([values for values, _ in made]))


def _table(rows: Sequence[Values]) -> pd.DataFrame:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pd.DataFrame({name: [_number(row.get(name)) for row in rows] for name in names}, index=range(len(rows)))
    return table.rename_axis("setting")


def _number(value: Any) -> Any:
    """Factors are kept as text by a policy; a table wants their number."""
    return float(value) if isinstance(value, str) else value


def _given(table: Iterable[Mapping[str, Any]] | pd.DataFrame) -> Iterator[Values]:
    if isinstance(table, pd.DataFrame):
        for row in table.to_dict(orient="records"):
            yield {str(name): _plain(value) for name, value in row.items() if not pd.isna(value)}
        return
    for entry in table:
        yield dict(entry)


def _combined(lists: Mapping[str, Iterable[Any]], sample: int | None, seed: int) -> Iterator[Values]:
    listed = {name: _values(name, values) for name, values in lists.items()}
    count = count_of(listed)
    if sample is None or sample >= count:
        yield from (dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values()))
        return
    if sample < 1:
        raise UsageError(f"sample {sample}: must be at least 1")
    drawn = random.Random(seed)
    for place in sorted(drawn.sample(range(count), sample)):
        chosen = {}
        for name, values in reversed(listed.items()):
            place, own = divmod(place, len(values))
            chosen[name] = values[own]
        yield {name: chosen[name] for name in listed}


def count_of(lists: Mapping[str, Sequence[Any]]) -> int:
    """How many combinations the lists have."""
    count = 1
    for values in lists.values():
        count *= len(values)
    return count


def _values(name: str, values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(f"option {name!r}: give a list of values, e.g. {name}=[{values}]")
    listed = [_plain(value) for value in values]
    if not listed:
        raise UsageError(f"option {name!r}: the list of values is empty")
    if len(set(map(str, listed))) < len(listed):
        raise UsageError(f"option {name!r}: a value stands in the list twice")
    return listed


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's; a float that is whole as it would be written."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_arrays(policies: Sequence[Policy]) -> Options:
    """The options of all policies, each field an array of shape (settings,); `acceptable_s` is for 1 GB of data."""
    rows = [policy.computed(data_size_gb=1, has_vfio=False) for policy in policies]
    arrays: list[Any] = [np.array(column) for column in zip(*rows, strict=True)]
    return Options(*arrays)


def for_trace(options: Options, *, data_size_gb: int, has_vfio: bool) -> Options:
    """The arrays for a guest of this data size; seconds wrap as Go's integers do."""
    per_gb: Any = options.acceptable_s
    with np.errstate(over="ignore"):
        acceptable_s: Any = per_gb * np.int64(data_size_gb)
    vfio: Any = np.full(len(per_gb), has_vfio)
    return options._replace(acceptable_s=acceptable_s, has_vfio=vfio)
