"""A sweep's table brought together: one row a setting, over all traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd

from migkit.errors import UsageError
from migkit.units import format_bytes, format_ms, format_s

QUANTILES: Final = (0.5, 0.95)
# Column of a sweep -> its name with the quantile where the unit would be.
_SPREAD: Final = {
    "time_to_action_s": "time_to_action_p{q}_s",
    "completed_after_s": "completed_after_p{q}_s",
    "implied_downtime_ms": "implied_downtime_p{q}_ms",
    "regret_ratio": "regret_p{q}_ratio",
    "wasted_bytes": "wasted_p{q}_bytes",
    "sent_before_action_bytes": "sent_before_action_p{q}_bytes",
}
FIGURES: Final = (
    "traces", "acted", "completed", "never_converged", "failed", "cut_short", "unknowable", "false_abort_ratio",
    "false_switchover_ratio", "missed_ratio",
    *(name.format(q=f"{q * 100:.0f}") for name in _SPREAD.values() for q in QUANTILES),
)  # fmt: skip
# What an open-loop replay cannot know says nothing of a setting.
_UNKNOWABLE: Final = "unknowable"
_ENDS: Final = ("completed", "never converged", "failed", "cut short")


class Swept(Protocol):
    """A sweep: its table and its settings."""

    @property
    def table(self) -> pd.DataFrame:
        """One row a trace and setting."""
        ...

    @property
    def settings(self) -> pd.DataFrame:
        """One row a setting."""
        ...


def by_setting(sweep: Swept) -> pd.DataFrame:
    """One row a setting, over all traces of a sweep.

    Returns the varied options, then: `traces`; `acted` (on how many); `completed`, `never_converged`, `failed`,
    `cut_short` (how the records ended; cut short are those that their operator changed before one could tell);
    `unknowable` (how many an open-loop replay cannot answer: they are in no other figure); `false_abort_ratio` and
    `false_switchover_ratio` of the records that completed by themselves; `missed_ratio` of those that never converged;
    median and 95th percentile over the traces that have a value of time_to_action, completed_after, implied_downtime,
    regret, wasted and sent_before_action, each with its unit last. Ratios are 0 to 1, null where nothing is counted.

    >>> import migkit as mk
    >>> by = mk.stats.by_setting(mk.sweep("data/traces", mk.kubevirt("1.8"), progress_timeout=[5, 150]))
    >>> bool(by["false_abort_ratio"].iloc[0] > by["false_abort_ratio"].iloc[1])
    True
    """
    return sweep.settings.join(figures(sweep.table, len(sweep.settings)))


def figures(table: pd.DataFrame, settings: int) -> pd.DataFrame:
    """The figures of `by_setting` for a sweep's table or a part of its rows."""
    if table.empty:
        raise UsageError("the table of the sweep is empty")
    rows = _Rows(table["setting"].to_numpy(), settings)
    known = (table["basis"] != _UNKNOWABLE).to_numpy()
    acted = table["time_to_action_s"].notna().to_numpy()
    ends = {name: (table["end"] == name).to_numpy() & known for name in _ENDS}
    found: dict[str, Any] = {
        "traces": rows.count(np.ones(len(table), dtype=bool)),
        "acted": rows.count(acted & known),
        **{name.replace(" ", "_"): rows.count(which) for name, which in ends.items()},
        "unknowable": rows.count(~known),
        "false_abort_ratio": rows.ratio(_true(table["false_abort"]), ends["completed"]),
        "false_switchover_ratio": rows.ratio(_true(table["false_switchover"]), ends["completed"]),
        "missed_ratio": rows.ratio(table["missed"].to_numpy(), ends["never converged"]),
    }
    for column, name in _SPREAD.items():
        values = np.where(known, table[column].to_numpy(), np.float32(np.nan))
        for q, own in zip(QUANTILES, rows.quantiles(values), strict=True):
            found[name.format(q=f"{q * 100:.0f}")] = own
    return pd.DataFrame(found, index=pd.RangeIndex(settings, name="setting"))


def _true(column: pd.Series[Any]) -> Any:
    return column.fillna(False).to_numpy(dtype=bool)


class _Rows:
    """Rows of a table by their setting. In a whole sweep every trace has every setting in order: then the rows are a
    matrix of traces and settings, which is sorted in a fraction of the time and room."""

    def __init__(self, setting: Any, settings: int) -> None:
        self.setting, self.settings = setting, settings
        whole = len(setting) % settings == 0
        self.whole = whole and bool((setting.reshape(-1, settings) == np.arange(settings)).all())

    def count(self, chosen: Any) -> Any:
        """How many rows of each setting are chosen."""
        if self.whole:
            return chosen.reshape(-1, self.settings).sum(axis=0)
        return np.bincount(self.setting[chosen], minlength=self.settings)

    def ratio(self, chosen: Any, among: Any) -> Any:
        """The chosen of those among, 0 to 1; NaN where there are none."""
        all_of_them = self.count(among)
        some = self.count(chosen & among)
        return np.divide(some, all_of_them, out=np.full(self.settings, np.nan), where=all_of_them > 0)

    def quantiles(self, values: Any) -> list[Any]:
        """QUANTILES of the known values of each setting, linear between ranks; NaN where there are none."""
        if self.whole:
            ordered = np.sort(values.reshape(-1, self.settings), axis=0)
            counts = len(ordered) - np.isnan(ordered).sum(axis=0)
            each = np.arange(self.settings)
            return [_between(lambda rank: ordered[rank, each], counts, q) for q in QUANTILES]
        known = ~np.isnan(values)
        setting, kept = self.setting[known], values[known]
        kept = np.append(kept[np.lexsort((kept, setting))], np.nan)
        counts = np.bincount(setting, minlength=self.settings)
        start = np.concatenate([[0], np.cumsum(counts)[:-1]])
        return [_between(lambda rank: kept[np.where(counts > 0, start + rank, -1)], counts, q) for q in QUANTILES]


def _between(at: Callable[[Any], Any], counts: Any, q: float) -> Any:
    """The q-quantile of each setting out of its ordered values."""
    place = q * np.maximum(counts - 1, 0)
    low = np.floor(place).astype(np.int64)
    a, b = (at(rank).astype(np.float64) for rank in (low, np.minimum(low + 1, np.maximum(counts - 1, 0))))
    with np.errstate(invalid="ignore"):
        mixed = np.where(place > low, a + (b - a) * (place - low), a)
    return np.where(counts > 0, mixed, np.nan)


def figure_text(name: str, value: float) -> str:
    """A figure as a person reads it, by the unit in its name; a dash for an unknown one."""
    if not np.isfinite(value):
        return "-"
    if name.endswith("_ratio"):
        return f"{value * 100:.3g} %"
    for ending, write in (("_bytes", format_bytes), ("_ms", format_ms), ("_s", format_s)):
        if name.endswith(ending):
            return write(value)
    return f"{value:.3g}"
