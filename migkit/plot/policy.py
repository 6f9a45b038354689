"""Pictures of what policies would have done, and of what made them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from migkit import stats
from migkit.drivers.replay import Replay
from migkit.plot.migration import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SKY,
    headroom,
    legend,
    mark,
    remaining,
    rows,
    shade_phases,
    title,
)
from migkit.units import MIB

_ACTION_MARKS = {
    "start_post_copy": ("v", GREEN),
    "suspend": ("s", ORANGE),
    "set_max_downtime": ("^", BLUE),
    "abort": ("X", RED),
}


def decisions(
    runs: Replay | Sequence[Replay],
    *,
    labels: Sequence[str] = (),
    internals: bool = False,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """What policies would have done to one trace: remaining data above, a lane a policy below.

    A lane is drawn in full up to where the replay leaves what was really done, and dotted from there on; hollow marks
    are unknowable. A bar through a mark is the spread over the phases of the monitor's timer; a small tick in the lane
    is its completion deadline.

    Parameters: `runs`, a replay or several of the same trace; `labels`, a name each (default: the policies');
    `internals` draws the first run's inner life too: on the remaining data what a stall is judged by (least before
    the window, threshold, best, target), and between them the smoothed bandwidth against the reported one;
    `axes`, two of them, three with `internals`. Returns the Axes, top to bottom.
    """
    listed = [runs] if isinstance(runs, Replay) else list(runs)
    trace = listed[0].trace
    names = list(labels) or [run.policy.name for run in listed]
    if axes is None:
        low = 0.6 + 0.42 * len(listed)
        heights = [2.4, 1.4, low] if internals else [2.4, low]
        figure, made = plt.subplots(
            len(heights), 1, sharex=True, figsize=(9, 1.2 + sum(heights) * 1.15), layout="constrained",
            height_ratios=heights,
        )  # fmt: skip
        figure.suptitle(f"{title(trace)}; what policies would have done", fontsize=11)
        axes = list(made)
    top, lanes = axes[0], axes[-1]
    remaining(top, trace)
    for ax in axes[:-1]:
        shade_phases(ax, trace)
        mark(ax, trace, named=ax is top)
    if internals:
        _judged(top, listed[0])
        _bandwidth(axes[1], listed[0])
    end_s = float(trace.t_s[trace.active].max())
    for place, run in enumerate(listed):
        _lane(lanes, run, -place, end_s)
    lanes.set_yticks([-place for place in range(len(listed))], names, fontsize=9)
    lanes.set_ylim(-len(listed) + 0.4, 0.6)
    lanes.set_xlabel("time since the job began (s)")
    lanes.set_xlim(0, max(end_s * 1.02, 0.1))
    _lane_legend(lanes, listed)
    return list(axes)


def _judged(ax: Axes, run: Replay) -> None:
    """What a stall is judged by, over the remaining data; the steps of `best` are relaxations."""
    inner = run.internals
    for column, label, colour, style in (
        ("window_minimum_bytes", "least before the window", GREY, "-"),
        ("threshold_bytes", "stall threshold", RED, ":"),
        ("best_bytes", "best remaining", GREEN, "-"),
        ("target_bytes", "switchover target", GREEN, "--"),
    ):
        values = inner[column].astype("float64") / MIB
        if values.notna().any():
            ax.step(inner["t_s"], values, style, where="post", color=colour, lw=1.3, label=label)
    legend(ax)


def _bandwidth(ax: Axes, run: Replay) -> None:
    """The smoothed bandwidth against the reported one, and the deadlines as the monitor holds them."""
    inner, flow = run.internals, stats.rates(run.trace)
    ax.plot(flow["t_s"], flow["reported_bandwidth_bps"] / MIB, ":", color=SKY, lw=1.2, label="bandwidth (memory_bps)")
    ax.step(
        inner["t_s"], inner["ewma_bps"].astype("float64") / MIB, where="post", color=BLUE, lw=1.4,
        label="smoothed by the monitor",
    )  # fmt: skip
    end_s = float(run.trace.t_s[run.trace.active].max())
    for column, label, colour in (
        ("deadline_s", "completion deadline", "black"), ("switch_deadline_s", "switchover deadline", ORANGE),
    ):  # fmt: skip
        for place, moment in enumerate(sorted(set(inner[column].dropna()))):
            if moment <= end_s:
                ax.axvline(moment, color=colour, ls=(0, (1, 1)), lw=1.2, label=label if place == 0 else None)
    ax.set_ylabel("rate (MiB/s)")
    ax.set_ylim(0, headroom(flow["reported_bandwidth_bps"].to_numpy() / MIB))
    legend(ax)


def _lane(ax: Axes, run: Replay, y: int, end_s: float) -> None:
    leaves_s = end_s if run.divergence_s is None else min(run.divergence_s, end_s)
    ax.plot([0, leaves_s], [y, y], color=GREY, lw=1.5, zorder=1)
    ax.plot([leaves_s, end_s], [y, y], color=GREY, lw=1, ls=":", zorder=1)
    if 0 < run.deadline_s <= end_s:
        ax.plot([run.deadline_s], [y], "|", color="black", ms=14, mew=1, zorder=2)
    for decision in rows(run.decisions):
        marker, colour = _ACTION_MARKS[str(decision.action)]
        sure = decision.basis in ("observed", "bounded")
        ax.plot([decision.earliest_s, decision.latest_s], [y, y], color=colour, lw=4, alpha=0.35, zorder=2)
        ax.plot(
            decision.t_s, y, marker, color=colour, ms=8, mew=1.3, zorder=3, ls="none",
            mfc=colour if sure else "white", clip_on=False,
        )  # fmt: skip


def _lane_legend(ax: Axes, runs: Sequence[Replay]) -> None:
    seen = {str(action) for run in runs for action in run.decisions["action"]}
    handles = [
        Line2D([], [], marker=marker, color=colour, ls="none", ms=7, label=action.replace("_", " "))
        for action, (marker, colour) in _ACTION_MARKS.items()
        if action in seen
    ]
    handles.append(Line2D([], [], marker="|", color="black", ls="none", ms=10, label="completion deadline"))
    if any(run.divergence_s is not None for run in runs):
        handles.append(Line2D([], [], color=GREY, ls=":", label="not what really happened any more"))
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.legend(handles=handles, loc="outside lower center", fontsize=8, ncols=4, frameon=False)
