"""Many settings of one family of rules, in the form that the walks and shortcuts compute with."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from migkit.drivers.columns import Ints
from migkit.policies.base import Options

# Options whose fields are arrays of shape (settings,).
ManyOptions = Any

_FLOATS = ("margin", "alpha", "precopy_factor", "decay", "completion_factor")
_FLAGS = (
    "ends_with_job", "disruption_gate", "allow_post_copy", "allow_workload_disruption", "has_vfio", "tuning", "stall",
    "search_minima",
)  # fmt: skip
_DTYPES: Final = {name: "f8" if name in _FLOATS else "?" if name in _FLAGS else "i8" for name in Options._fields}
OPTIONS_DTYPE: Final = np.dtype(list(_DTYPES.items()), align=True)
# Bandwidths are smoothed for so many weights at once: they fit a processor's widest registers.
LANES: Final = 16


class Shared(NamedTuple):
    """What settings with stall detection have in common, so that it is worked out once.

    `windows`, `alphas`: the different ones, the latter filled up to whole LANES; `pair_window`, `pair_margin`: the
    different pairs of a window, by its place, and a margin; `pair`, `alpha`, shape (settings,): which of them a
    setting has; `order`: the settings by their alpha.
    """

    windows: Ints
    pair_window: Ints
    pair_margin: Any
    pair: Ints
    alphas: Any
    alpha: Ints
    order: Ints


class Settings(NamedTuple):
    """`columns`: options of arrays of shape (settings,); `records`: the same as records of OPTIONS_DTYPE; `stall` and
    `other`: the places of those with stall detection and without it; `stall_records` and `shared`: of the former."""

    columns: ManyOptions
    records: Any
    stall: Ints
    other: Ints
    stall_records: Any
    shared: Shared


def settings(options: Options | ManyOptions) -> Settings:
    """Settings from options whose fields are arrays of shape (settings,), or single values. Worth keeping where they
    meet many traces."""
    alike = np.broadcast_arrays(*(np.atleast_1d(column) for column in options))
    typed: Any = [np.array(c, dtype=t) for c, t in zip(alike, _DTYPES.values(), strict=True)]
    columns: ManyOptions = Options(*typed)
    records = np.empty(columns.stall.shape, dtype=OPTIONS_DTYPE).view(np.recarray)
    for name, column in zip(Options._fields, columns, strict=True):
        records[name] = column
    stall = np.flatnonzero(columns.stall)
    stalls = records if len(stall) == len(records) else records[stall]
    return Settings(columns, records, stall, np.flatnonzero(~columns.stall), stalls, _shared(stalls))


def chosen(columns: ManyOptions, places: Ints) -> ManyOptions:
    """The options of some settings."""
    return columns if len(places) == len(columns.stall) else Options(*(column[places] for column in columns))


def _shared(records: Any) -> Shared:
    windows, window = np.unique(records.window_ms, return_inverse=True)
    margins, margin = np.unique(records.margin, return_inverse=True)
    pairs, pair = np.unique(window * len(margins) + margin, return_inverse=True)
    alphas, alpha = np.unique(records.alpha, return_inverse=True)
    filled = np.concatenate([alphas, np.full(-len(alphas) % LANES, 0.5)])
    count = max(len(margins), 1)
    return Shared(
        windows=windows, pair_window=pairs // count, pair_margin=margins[pairs % count], pair=pair, alphas=filled,
        alpha=alpha, order=np.argsort(alpha, kind="stable"),
    )  # fmt: skip
