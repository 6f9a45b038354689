"""What happened in a migration, as numbers that the answers are made of: flow, passes, windows, interventions.

Only what a recorder can see is used: job statistics, what was asked of libvirt, events, the outcome. What a lab knows
of its own scenario, and what it did to links and processes, is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from migkit import stats
from migkit.explanation.flow import Flow, Window, measure
from migkit.trace import Trace
from migkit.units import MIB

# QEMU's own limit, where nobody said another (migration/options.c, downtime-limit).
_DEFAULT_DOWNTIME_MS = 300.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """Something that was done to a migration: post-copy, pause, downtime limit, bandwidth or abort. `before` and
    `after` are the values in ms or bytes/s where it has any; a `before` of None is unknown, an `after` no limit."""

    t_s: float
    kind: str
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One migration. Times are seconds since the job began.

    `ram_s` and `until_s` bound the pre-copy of the memory; `end_s` is when the job was over or last seen. `tail` has
    all passes of the pre-copy, `passes` the closed ones up to a help that changed it, with `sent_pages_bytes` (pages
    sent, whatever they weighed) and `clean` (outside all windows). `helps` let it end (post-copy, a pause, a limit
    raised), `others` did not (a limit lowered, an abort). `first_pass_s` is (latest moment it was seen,
    earliest at which the next one was), None while it lasts. `downtime_limit_ms` held last, `first_limit_ms` before
    anybody raised it.
    """

    trace: Trace
    flow: Flow
    ram_s: float | None
    until_s: float
    end_s: float
    passes: pd.DataFrame
    tail: pd.DataFrame
    first_pass_s: tuple[float, float] | None
    helps: tuple[Help, ...]
    others: tuple[Help, ...]
    downtime_limit_ms: float
    first_limit_ms: float
    throttle: Floats = field(repr=False)

    @property
    def outcome(self) -> str:
        """How it ended."""
        return self.trace.meta.end.outcome

    @property
    def by_itself(self) -> bool:
        """Whether it completed and nobody helped."""
        return self.outcome == "completed" and not self.helps

    @property
    def ram_duration_s(self) -> float:
        """How long the memory was copied before the switchover, post-copy or the end."""
        return 0.0 if self.ram_s is None else max(self.until_s - self.ram_s, 0.0)

    @property
    def windows(self) -> tuple[Window, ...]:
        """Stalls and slow windows, in time order."""
        return self.flow.windows

    @property
    def throttled(self) -> bool:
        """Whether auto-converge held the guest back."""
        return bool(np.isfinite(self.throttle).any())


def has_assigned_devices(trace: Trace) -> bool:
    """Whether the guest has devices of the host (VFIO), by its definition, by what the rule beside it was told, or by
    the state of them that was sent."""
    rule = trace.meta.rule
    told = bool(trace.meta.domain.has_vfio) or bool(rule is not None and rule.has_vfio)
    return told or bool(np.nan_to_num(trace.column("vfio_data_transferred_bytes")).any())


def course(trace: Trace) -> Course:
    """Reads a trace. Raises MigkitError when it holds no sample of a running migration."""
    phases = stats.phases(trace).set_index("phase")
    ram_s = float(phases.loc["ram", "start_s"]) if "ram" in phases.index else None  # type: ignore[arg-type]
    end_s = float(phases["end_s"].max())
    until_s = float(phases.loc["ram", "end_s"]) if ram_s is not None else end_s  # type: ignore[arg-type]
    flow = measure(trace, limits_bps(trace), until_s)
    done = sorted(_interventions(trace, end_s), key=lambda one: one.t_s)
    helps = tuple(one for one in done if _lets_it_end(one))
    table = stats.iterations(trace)
    return Course(
        trace=trace,
        flow=flow,
        ram_s=ram_s,
        until_s=until_s,
        end_s=end_s,
        passes=_judged(table, flow.windows, _helped_s(helps)),
        tail=table,
        first_pass_s=_first_pass_s(trace, until_s),
        helps=helps,
        others=tuple(one for one in done if not _lets_it_end(one)),
        downtime_limit_ms=_downtime_limit_ms(trace, _helped_s(helps)),
        first_limit_ms=_downtime_limit_ms(
            trace, min((h.t_s for h in helps if h.kind == "downtime limit"), default=end_s)
        ),
        throttle=trace.column("auto_converge_throttle_percent")[trace.active],
    )


def limits_bps(trace: Trace) -> list[tuple[float, float | None]]:
    """The bandwidth limit over time, as far as it is known: (from when, bytes/s or None for no limit)."""
    first = trace.meta.migration.parameters.get("bandwidth")
    steps: list[tuple[float, float | None]] = [(-np.inf, float(first) * MIB if first else None)]
    for t_s, argument in _done(trace, "set_bandwidth"):
        steps.append((t_s, argument * MIB if argument else None))
    return steps


def _done(trace: Trace, action: str) -> list[tuple[float, float | None]]:
    """When this was done to the migration, with its argument; calls that failed are left out."""
    rows = trace.samples
    asked = ((rows["action"] == action) & rows["succeeded"].fillna(True)).fillna(False).to_numpy(dtype=bool)
    arguments = trace.column("argument")
    return [
        (float(trace.t_s[i]), float(arguments[i]) if np.isfinite(arguments[i]) else None) for i in np.flatnonzero(asked)
    ]


def _interventions(trace: Trace, end_s: float) -> list[Help]:
    found = [Help(t_s=t_s, kind="pause") for t_s, _ in _done(trace, "suspend")]
    aborts = [Help(t_s=t_s, kind="abort") for t_s, _ in _done(trace, "abort")]
    # Somebody aborted it, though no row tells of the call.
    untold = [Help(t_s=end_s, kind="abort")] if trace.meta.end.outcome == "cancelled" else []
    found += aborts or untold
    post_copy_s = stats.post_copy_start_s(trace)
    if post_copy_s is not None:
        found.append(Help(t_s=post_copy_s, kind="post-copy"))
    limits = stats.downtime_limits(trace)
    before = _DEFAULT_DOWNTIME_MS
    for t_s, limit_ms in limits.itertuples(index=False):
        if limit_ms != before and 0 < t_s <= end_s:
            found.append(Help(t_s=float(t_s), kind="downtime limit", before=before, after=float(limit_ms)))
        before = float(limit_ms)
    held: float | None = None
    for t_s, limit in limits_bps(trace):
        if np.isfinite(t_s) and limit != held:
            found.append(Help(t_s=t_s, kind="bandwidth", before=held, after=limit))
        held = limit
    return found


def _lets_it_end(one: Help) -> bool:
    """A limit that was raised does; of one that was unknown before nobody can say that it was raised."""
    if one.kind in ("bandwidth", "downtime limit"):
        return one.before is not None and (one.after is None or one.after > one.before)
    return one.kind != "abort"


def _downtime_limit_ms(trace: Trace, before_s: float) -> float:
    limits = stats.downtime_limits(trace)
    held = limits[limits["t_s"] < before_s]
    return float(held["limit_ms"].iloc[-1]) if len(held) else _DEFAULT_DOWNTIME_MS


def _first_pass_s(trace: Trace, until_s: float) -> tuple[float, float] | None:
    iteration, t = trace.column("memory_iteration"), trace.t_s
    seen = trace.active & np.isfinite(iteration) & (t <= until_s)
    first, later = np.flatnonzero(seen & (iteration == 1)), np.flatnonzero(seen & (iteration > 1))
    if not len(later):
        return None
    return (float(t[first[-1]]) if len(first) else 0.0, float(t[later[0]]))


def _helped_s(helps: tuple[Help, ...]) -> float:
    """From when on the passes show the help and not the guest. A downtime limit changes nothing until it ends the
    pre-copy: of several only the last one counts."""
    other = [one.t_s for one in helps if one.kind != "downtime limit"]
    return min([*other, *(one.t_s for one in helps[-1:])], default=np.inf)


def _judged(table: pd.DataFrame, windows: tuple[Window, ...], helped_s: float) -> pd.DataFrame:
    """The closed passes that show the guest. A pass sends what remained at its start plus what was dirtied in it,
    less what remains at the next one's start."""
    closing = table["start_s"] + table["duration_s"]
    following = table["remaining_start_bytes"].shift(-1)
    sent = table["newly_dirty_bytes"] + table["remaining_start_bytes"] - following
    clean = [
        not any(w.start_s < end and start < w.end_s for w in windows)
        for start, end in zip(table["start_s"], closing, strict=True)
    ]
    marked = table.assign(sent_pages_bytes=sent, clean=np.array(clean, dtype=bool))
    return marked[table["newly_dirty_bytes"].notna() & sent.notna() & (closing <= helped_s)].reset_index(drop=True)
