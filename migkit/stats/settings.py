"""A sweep's table brought together: one row a setting, over all traces."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import pandas as pd

from migkit.errors import UsageError

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
    known = (table["basis"] != _UNKNOWABLE).to_numpy()
    setting = table["setting"].to_numpy()
    rows = _Rows(setting[known], settings)
    used = table[known]
    acted = used["time_to_action_s"].notna().to_numpy()
    ends = {name: (used["end"] == name).to_numpy() for name in ("completed", "never converged", "failed", "cut short")}
    found: dict[str, Any] = {
        "traces": np.bincount(setting, minlength=settings),
        "acted": rows.count(acted),
        **{name.replace(" ", "_"): rows.count(which) for name, which in ends.items()},
        "unknowable": np.bincount(setting[~known], minlength=settings),
        "false_abort_ratio": rows.ratio(_true(used["false_abort"]), ends["completed"]),
        "false_switchover_ratio": rows.ratio(_true(used["false_switchover"]), ends["completed"]),
        "missed_ratio": rows.ratio(used["missed"].to_numpy(), ends["never converged"]),
    }
    for column, name in _SPREAD.items():
        for q, values in zip(QUANTILES, rows.quantiles(used[column].to_numpy()), strict=True):
            found[name.format(q=f"{q * 100:.0f}")] = values
    return pd.DataFrame(found, index=pd.RangeIndex(settings, name="setting"))


def _true(column: pd.Series[Any]) -> Any:
    return column.fillna(False).to_numpy(dtype=bool)


class _Rows:
    """Rows of a table by their setting."""

    def __init__(self, setting: Any, settings: int) -> None:
        self.setting, self.settings = setting, settings

    def count(self, chosen: Any) -> Any:
        """How many rows of each setting are chosen."""
        return np.bincount(self.setting[chosen], minlength=self.settings)

    def ratio(self, chosen: Any, among: Any) -> Any:
        """The chosen of those among, 0 to 1; NaN where there are none."""
        all_of_them = self.count(among)
        some = self.count(chosen & among)
        return np.divide(some, all_of_them, out=np.full(self.settings, np.nan), where=all_of_them > 0)

    def quantiles(self, values: Any) -> list[Any]:
        """QUANTILES of the known values of each setting (linear between ranks, as NumPy's)."""
        known = ~np.isnan(values)
        setting, values = self.setting[known], values[known].astype(np.float64)
        order = np.lexsort((values, setting))
        values, counts = values[order], np.bincount(setting, minlength=self.settings)
        start = np.concatenate([[0], np.cumsum(counts)[:-1]])
        found = []
        for q in QUANTILES:
            place = q * np.maximum(counts - 1, 0)
            low = np.floor(place).astype(np.int64)
            a = values[np.minimum(start + low, max(len(values) - 1, 0))] if len(values) else np.zeros(self.settings)
            above = np.minimum(low + 1, np.maximum(counts - 1, 0))
            b = values[np.minimum(start + above, max(len(values) - 1, 0))] if len(values) else a
            part = place - low
            with np.errstate(invalid="ignore"):
                mixed = np.where(part > 0, a + (b - a) * part, a)
            found.append(np.where(counts > 0, mixed, np.nan))
        return found
