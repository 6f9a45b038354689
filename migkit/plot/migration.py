"""Pictures of migrations as they were recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from migkit import stats
from migkit.trace import Trace
from migkit.units import MIB, format_ms

BLUE, ORANGE, GREEN, RED, GREY, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666", "#56B4E9"
_PHASE_SHADES = {
    "prepare": "#eeeeee",
    "disk": "#fdf1d6",
    "ram": "white",
    "switchover": "#f6c6b3",
    "post-copy": "#e0d6f0",
}


def convergence(trace: Trace, *, axes: Sequence[Axes] | None = None) -> list[Axes]:
    """A migration on one time axis: remaining data (memory and disk stacked), bandwidth and dirty rate in the same
    unit, expected downtime with its limit; a fourth panel with the throttle where auto-converge acted.

    Phases are shaded, iteration boundaries ticked, actions and switchover marked by name.

    Parameters: `axes`, three or four Axes to draw on; else a new figure. Returns the Axes used, top to bottom.
    """
    throttled = bool(np.isfinite(trace.column("auto_converge_throttle_percent")).any())
    if axes is None:
        figure, made = plt.subplots(
            3 + throttled, 1, sharex=True, figsize=(9, 7 + 1.4 * throttled), layout="constrained",
            height_ratios=[3, 2, 1.6] + [1] * throttled,
        )  # fmt: skip
        figure.suptitle(title(trace), fontsize=11)
        axes = list(made)
    remaining(axes[0], trace)
    _rates(axes[1], trace)
    _expected_downtime(axes[2], trace)
    if throttled and len(axes) > 3:
        _throttle(axes[3], trace)
    for ax in axes:
        shade_phases(ax, trace)
        ax.grid(visible=True, axis="y", alpha=0.3)
    mark(axes[0], trace, named=True)
    for ax in axes[1:]:
        mark(ax, trace, named=False)
    axes[-1].set_xlabel("time since the job began (s)")
    axes[-1].set_xlim(0, max(trace.t_s[trace.active].max() * 1.02, 0.1))
    return list(axes)


def rows(table: pd.DataFrame) -> Iterator[Any]:
    """Its rows, by the names of the columns."""
    return table.itertuples()


def title(trace: Trace) -> str:
    """A picture's heading: the name, the provenance where it is not a recording, the outcome."""
    beside = {"imported": " (imported)", "simulated": " (SIMULATED)"}.get(trace.meta.provenance, "")
    return f"{trace.name}{beside}: {trace.meta.end.outcome}"


def remaining(ax: Axes, trace: Trace) -> None:
    """Data left to send, memory and disk stacked, iterations ticked below."""
    chosen = trace.active
    t = trace.t_s[chosen]
    memory = np.nan_to_num(trace.column("memory_remaining_bytes")[chosen]) / MIB
    disk = np.nan_to_num(trace.column("disk_remaining_bytes")[chosen]) / MIB
    ax.fill_between(t, memory, color=SKY, alpha=0.6, label="memory", lw=0)
    if disk.any():
        ax.fill_between(t, memory, memory + disk, color=ORANGE, alpha=0.6, label="disk", hatch="//", lw=0)
    ax.plot(t, memory + disk, color=BLUE, lw=1.2)
    ax.set_ylabel("remaining (MiB)")
    ax.set_ylim(0, max((memory + disk).max() * 1.12, 1))
    legend(ax)
    edges = stats.iterations(trace)["start_s"]
    if edges.empty:
        return
    ax.plot(
        edges, np.zeros(len(edges)), "|", color=GREY, ms=9, mew=1, transform=ax.get_xaxis_transform(), clip_on=False
    )


def _rates(ax: Axes, trace: Trace) -> None:
    flow = stats.rates(trace)
    for column, label, colour, style in (
        ("flow_bandwidth_bps", "bandwidth (data processed)", BLUE, "-"),
        ("reported_bandwidth_bps", "bandwidth (libvirt's memory_bps)", SKY, ":"),
        ("dirty_rate_bps", "dirty rate", RED, "--"),
    ):
        ax.plot(flow["t_s"], flow[column] / MIB, style, color=colour, lw=1.4, label=label)
    ax.set_ylim(0, headroom(flow.drop(columns="t_s").to_numpy() / MIB))
    ax.set_ylabel("rate (MiB/s)")
    legend(ax)


def legend(ax: Axes) -> None:
    """Above the panel, where it covers no curve and no name."""
    ax.legend(loc="lower right", bbox_to_anchor=(1.01, 0.96), fontsize=8, ncols=4, frameon=False)


def headroom(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """A top that a single burst cannot flatten everything below it, with room for the legend."""
    known = values[np.isfinite(values)]
    return 1.0 if not len(known) else max(float(np.quantile(known, 0.99)) * 1.2, 1.0)


def _expected_downtime(ax: Axes, trace: Trace) -> None:
    chosen = trace.active
    t, expected = trace.t_s[chosen], trace.column("downtime_ms")[chosen]
    ax.step(t, expected, where="post", color=GREEN, lw=1.4, label="expected downtime")
    limits = stats.downtime_limits(trace)
    if len(limits):
        ends = [*limits["t_s"], max(float(t[-1]), float(limits["t_s"].iloc[-1]))] if len(t) else limits["t_s"]
        held = [*limits["limit_ms"], limits["limit_ms"].iloc[-1]] if len(t) else limits["limit_ms"]
        said = " then ".join(format_ms(value) for value in limits["limit_ms"])
        ax.step(ends, held, where="post", color=RED, ls="--", lw=1, label=f"limit {said}")
    known = expected[expected > 0]
    if len(known) and known.max() / known.min() > 20:
        ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_ms(value)))
    ax.set_ylabel("expected downtime")
    if len(known):
        ax.margins(y=0.15)
    legend(ax)


def _throttle(ax: Axes, trace: Trace) -> None:
    chosen = trace.active
    ax.step(trace.t_s[chosen], trace.column("auto_converge_throttle_percent")[chosen], where="post", color=ORANGE)
    ax.set_ylim(0, 100)
    ax.set_ylabel("throttle (%)")


def shade_phases(ax: Axes, trace: Trace) -> None:
    """Phases as shades behind the curves."""
    for phase in rows(stats.phases(trace)):
        ax.axvspan(phase.start_s, phase.end_s, color=_PHASE_SHADES[phase.phase], zorder=-1, lw=0)


def mark(ax: Axes, trace: Trace, *, named: bool) -> None:
    """Vertical lines at actions and switchover; names stand at staggered heights so that they do not overlap."""
    found = stats.marks(trace)
    reach_s = float(trace.t_s[trace.active].max())
    level, last_s = 0, -np.inf
    for moment in rows(found[found["t_s"] <= reach_s * 1.02]):
        colour = RED if moment.kind == "action" else GREY
        ax.axvline(moment.t_s, color=colour, ls="-." if moment.kind == "action" else ":", lw=1)
        if not named:
            continue
        level = (level + 1) % 4 if moment.t_s - last_s < 0.22 * reach_s else 0
        last_s = moment.t_s
        side = "right" if moment.t_s > 0.6 * reach_s else "left"
        ax.annotate(
            moment.label, (moment.t_s, 0.97 - 0.085 * level), xycoords=("data", "axes fraction"), fontsize=8,
            color=colour, ha=side, va="top", xytext=(-4 if side == "right" else 4, 0), textcoords="offset points",
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75},
        )  # fmt: skip


def downtime(traces: Iterable[Trace], *, ax: Axes | None = None) -> Axes:
    """The guest's pause as QEMU expected it, as libvirt reported it and as the guest lived through it, a row a trace.

    Rows stand together by the kind of their pause, the longest of each on top. A line leads from what was reported to
    what the guest lived through. The grey band of a row is the gap that the heartbeat has anyway (its own 99th
    percentile): a heartbeat inside it tells nothing. Returns the Axes.
    """
    table = stats.downtimes(traces)
    table = table[table.drop(columns="kind").notna().any(axis=1)]
    table = table.sort_values(
        ["kind", "heartbeat_ms", "reported_ms"], ascending=[False, True, True], na_position="first"
    )
    places = _grouped(table["kind"])
    if ax is None:
        _, ax = plt.subplots(figsize=(8.5, 1.6 + 0.19 * (places[-1] + 1 if len(places) else 1)), layout="constrained")
    _pauses(ax, table, places)
    ax.set_yticks(places, list(table.index), fontsize=7)
    ax.set_ylim(-1, (places[-1] if len(places) else 0) + 1.6)
    told = table.drop(columns="kind").to_numpy(dtype=float, na_value=0)
    if (told > 0).any():
        ax.set_xscale("log")
        ax.set_xlim(left=min(4.0, 0.7 * told[told > 0].min()))
    else:
        ax.set_title("no completed migration tells a pause", fontsize=10)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_ms(value)))
    ax.set_xlabel("guest pause")
    ax.grid(visible=True, axis="x", which="both", alpha=0.2)
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), fontsize=8, ncols=2, frameon=False)
    return ax


def _grouped(kinds: pd.Series[Any]) -> list[float]:
    """A place a row, from below, with room for a heading above each kind."""
    codes = list(kinds)
    return [i + 1.4 * len(set(codes[:i]) - {codes[i]}) for i in range(len(codes))]


def _pauses(ax: Axes, table: pd.DataFrame, places: Sequence[float]) -> None:
    """The rows' points, and each kind's name above its rows."""
    own = table["heartbeat_p99_gap_ms"].fillna(0)
    table = table.assign(longer_ms=table["largest_gap_ms"].where(table["largest_gap_ms"] > table["heartbeat_ms"]))
    ax.barh(places, own, height=0.8, color="#e4e4e4", label="gap that the heartbeat has anyway (p99)")
    ax.hlines(places, table["reported_ms"], table["heartbeat_ms"], color=RED, lw=1, alpha=0.5)
    for column, label, marker, colour in (
        ("expected_ms", "expected before the switchover", "<", SKY),
        ("reported_ms", "reported by libvirt", "o", BLUE),
        ("longer_ms", "guest's heartbeat, a longer gap elsewhere", "x", ORANGE),
        ("heartbeat_ms", "guest's heartbeat, across the switchover", "D", RED),
    ):
        size = 4 if marker == "D" else 5
        ax.plot(table[column], places, marker, color=colour, ls="none", label=label, ms=size, mew=1.3)
    tops = {str(kind): place for kind, place in zip(table["kind"], places, strict=True)}
    for kind, place in tops.items():
        ax.annotate(kind, (0, place + 0.55), xycoords=("axes fraction", "data"), fontsize=8, weight="bold",
                    ha="left", va="bottom", xytext=(3, 0), textcoords="offset points")  # fmt: skip
        ax.axhline(place + 0.6, color=GREY, lw=0.5, alpha=0.5)


def overview(traces: Sequence[Trace], *, columns: int = 4) -> list[Axes]:
    """Many traces small: remaining data over time, each with its own scales. Returns one Axes a trace."""
    lines = max(1, -(-len(traces) // columns))
    figure, grid = plt.subplots(lines, columns, figsize=(3 * columns, 1.9 * lines), layout="constrained", squeeze=False)
    axes: list[Axes] = list(grid.flat)
    for ax, trace in zip(axes, traces, strict=False):
        chosen = trace.active
        ax.fill_between(
            trace.t_s[chosen], trace.column("data_remaining_bytes")[chosen] / MIB, color=SKY, alpha=0.7, lw=0
        )
        for moment in rows(stats.marks(trace)):
            if moment.t_s <= trace.t_s[chosen].max() * 1.02:
                ax.axvline(moment.t_s, color=RED if moment.kind == "action" else GREY, ls="-.", lw=0.8)
        ax.set_title(f"{trace.name}\n{trace.meta.end.outcome}", fontsize=8)
        ax.set_ylim(bottom=0)
        ax.tick_params(labelsize=7)
    for ax in axes[len(traces) :]:
        ax.set_axis_off()
    figure.supxlabel("time since the job began (s)", fontsize=9)
    figure.supylabel("remaining (MiB)", fontsize=9)
    return axes[: len(traces)]
