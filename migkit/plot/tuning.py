"""Pictures of sweeps and of what was chosen from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from migkit.plot.migration import BLUE, GREEN, GREY, ORANGE, RED, SKY
from migkit.stats.settings import figure_text
from migkit.tuning import Tuned
from migkit.units import MIB

# What happens -> marker and colour; told apart without colour too.
MARKS: Final = {
    "aborted as stuck": ("X", RED), "aborted as stalled": ("X", RED), "aborted at the deadline": ("X", RED),
    "post-copy": ("v", GREEN), "paused": ("s", ORANGE), "raised downtime": ("^", BLUE),
}  # fmt: skip
_BASELINE_MARKS: Final = {
    "recommended": "*",
    "defaults": "o",
    "HyperConverged": "s",
    "VEP 248 text": "D",
    "do nothing": "P",
}


def heatmap(
    table: pd.DataFrame, *, x: str, y: str, value: str, chosen: dict[str, Any] | None = None, ax: Axes | None = None
) -> Axes:
    """One figure over two options.

    Parameters: `table` of `stats.by_setting`; `x` and `y`, two varied options; `value`, a figure; where other options
    were varied too, a cell is their mean, or those of `chosen` (option -> value) alone; `ax` to draw on.
    Returns the Axes.
    """
    held = {name: v for name, v in (chosen or {}).items() if name not in (x, y) and name in table.columns}
    shown = (
        table[np.logical_and.reduce([table[name] == _as(table[name], v) for name, v in held.items()])]
        if held
        else table
    )
    grid = shown.pivot_table(index=y, columns=x, values=value, aggfunc="mean", dropna=False, observed=True).sort_index()
    ax = ax or plt.subplots(figsize=(1.6 + 1.05 * grid.shape[1], 1.6 + 0.55 * grid.shape[0]), layout="constrained")[1]
    cells = grid.to_numpy(dtype=float)
    known = cells[np.isfinite(cells)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    picture = ax.imshow(cells, aspect="auto", origin="lower", cmap="cividis", vmin=low, vmax=max(high, low + 1e-12))
    for (row, column), number in np.ndenumerate(cells):
        dark = np.isfinite(number) and number < (low + high) / 2
        ax.text(column, row, figure_text(value, number), ha="center", va="center", fontsize=9,
                color="white" if dark else "black")  # fmt: skip
    ax.set_xticks(range(grid.shape[1]), [f"{v:g}" for v in grid.columns])
    ax.set_yticks(range(grid.shape[0]), [f"{v:g}" for v in grid.index])
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(value + (f"\nat {', '.join(f'{n}={v}' for n, v in held.items())}" if held else ""), fontsize=10)
    _frame(ax, grid, x, y, chosen or {})
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.colorbar(picture, ax=ax, format=lambda v, _: figure_text(value, v), shrink=0.85)
    return ax


def _as(column: pd.Series[Any], value: Any) -> Any:
    """A policy keeps factors as text, a table as numbers."""
    return float(value) if isinstance(value, str) and column.dtype.kind == "f" else value


def _frame(ax: Axes, grid: pd.DataFrame, x: str, y: str, chosen: dict[str, Any]) -> None:
    """A frame around the chosen cell."""
    if x not in chosen or y not in chosen:
        return
    column, row = (
        list(map(float, axis)).index(float(chosen[name])) for axis, name in ((grid.columns, x), (grid.index, y))
    )
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec=ORANGE, lw=3))


def pareto(
    best: Tuned, *, x: str = "time_to_action_p50_s", y: str = "false_abort_ratio", ax: Axes | None = None
) -> Axes:
    """Every setting by two figures; those that keep the conditions filled, the front ringed, the recommended one and
    the baselines marked by name.

    Parameters: `x` and `y`, figures of `stats.by_setting`; `ax` to draw on. Returns the Axes.
    """
    ax = ax or plt.subplots(figsize=(8, 5), layout="constrained")[1]
    table = best.table
    for kept, label, face in ((True, "keeps the conditions", SKY), (False, "does not", "none")):
        own = table[table["admitted"] == kept]
        ax.plot(_shown(x, own[x]), _shown(y, own[y]), "o", mfc=face, mec=GREY, ms=6, alpha=0.7, ls="none", label=label)
    front = table[table["pareto"]]
    ax.plot(
        _shown(x, front[x]), _shown(y, front[y]), "o", mfc="none", mec="black", ms=10, ls="none", label="Pareto front"
    )
    for name, row in best.baselines.iterrows():
        label = str(name)
        absent, best_one = bool(np.isnan(row[x])), label == "recommended"
        ax.plot([_shown(x, row[x])], [_shown(y, row[y])], _BASELINE_MARKS[label], ms=13 if best_one else 9,
                color=ORANGE if best_one else RED, mec="black", ls="none", zorder=4,
                label=label + (" (never acts)" if absent else ""))  # fmt: skip
    ax.set_xlabel(_axis(x))
    ax.set_ylabel(_axis(y))
    ax.margins(0.08)
    ax.grid(visible=True, alpha=0.3)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    ax.set_title(
        f"{len(table)} settings of {best.sweep.policy.name} on {len(best.sweep.traces)} migrations", fontsize=10
    )
    return ax


def _shown(name: str, values: Any) -> Any:
    return values * 100 if name.endswith("_ratio") else values / MIB if name.endswith("_bytes") else values


def _axis(name: str) -> str:
    for ending, unit in (("_ratio", "%"), ("_bytes", "MiB"), ("_ms", "ms"), ("_s", "s")):
        if name.endswith(ending):
            return f"{name.removesuffix(ending).replace('_', ' ')} ({unit})"
    return name.replace("_", " ")


def sensitivity(best: Tuned, *, ax: Axes | None = None) -> Axes:
    """How many of the traces meet another fate somewhere over an option's values, the others as recommended; a bar an
    option, the values beside it. Returns the Axes."""
    table = best.sensitivity.sort_values("changed_ratio")
    ax = ax or plt.subplots(figsize=(8, 1.2 + 0.6 * len(table)), layout="constrained")[1]
    ax.barh(range(len(table)), table["changed_ratio"] * 100, color=BLUE, height=0.6)
    for place, ratio in enumerate(table["changed_ratio"]):
        ax.text(ratio * 100, place, f" {ratio * 100:.3g} %", va="center", fontsize=9)
    ax.set_yticks(range(len(table)), [f"{option}\n{_values(best, option)}" for option in table["option"]], fontsize=9)
    ax.set_xlim(0, max(table["changed_ratio"].max() * 115, 10))
    ax.set_xlabel("migrations to which something else happens (%)")
    ax.set_title("which option matters, the others as recommended", fontsize=10)
    return ax


def _values(best: Tuned, option: str) -> str:
    """An option's values, the recommended one in brackets."""
    own = best.neighbours[best.neighbours["option"] == option]
    return " ".join(f"[{v}]" if c else str(v) for v, c in zip(own["value"], own["chosen"], strict=True))


def fates(best: Tuned, *, columns: int = 6, names: Sequence[str] | None = None) -> list[Axes]:
    """What the recommended setting does to each migration: a small picture each, remaining data over time, where it
    acts and how; what went wrong by it is told in red.

    Parameters: `columns` of the grid; `names` of the traces, by default those on which it acts or that never
    converged, as many as 36. Returns the Axes, one a trace.
    """
    table = best.sweep.table
    own = table[table["setting"] == best.setting].set_index("trace")
    chosen = list(names) if names is not None else _eventful(own)
    figure, grid = plt.subplots(-(-len(chosen) // columns), columns, squeeze=False, layout="constrained",
                                figsize=(2.3 * columns, 1.5 * -(-len(chosen) // columns) + 0.9))  # fmt: skip
    axes = list(grid.flat)
    for ax, name in zip(axes, chosen, strict=False):
        _fate(ax, best, name, next(own[own.index == name].itertuples()))
    for ax in axes[len(chosen) :]:
        ax.set_axis_off()
    seen = {str(what) for what in own.loc[chosen, "what"]}
    handles = [
        Line2D([], [], marker=MARKS[what][0], color=MARKS[what][1], ls="none", label=what)
        for what in MARKS
        if what in seen
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    values = ", ".join(f"{name}={value}" for name, value in best.changed.items())
    axes_told = "remaining data (MiB) over the time since the job began (s)"
    figure.suptitle(f"{best.sweep.policy.name}: {values}\n{axes_told}", fontsize=10)
    return axes[: len(chosen)]


def _eventful(own: pd.DataFrame) -> list[str]:
    some = own[own["time_to_action_s"].notna() | own["missed"] | (own["end"] == "never converged")]
    return [str(name) for name in (some if len(some) else own).index[:36]]


def _fate(ax: Axes, best: Tuned, name: str, row: Any) -> None:
    trace = best.sweep.source[name]
    t, left = trace.t_s[trace.active], trace.column("data_remaining_bytes")[trace.active] / MIB
    ax.fill_between(t, left, color=SKY, alpha=0.5, lw=0)
    ax.plot(t, left, color=BLUE, lw=0.7)
    if not np.isnan(row.time_to_action_s):
        marker, colour = MARKS[str(row.what)]
        ax.axvline(row.time_to_action_s, color=colour, lw=1)
        ax.plot([row.time_to_action_s], [np.nanmax(left) * 0.9], marker, color=colour, ms=7)
    wrong = [bool(flag) for flag in (row.false_abort, row.false_switchover) if flag is not pd.NA]
    said = f"{row.what}" + (", but it completes by itself" if any(wrong) else "")
    ax.set_title(f"{name}\n{said}", fontsize=6.5, color=RED if any(wrong) or row.missed else "black", pad=2)
    ax.tick_params(labelsize=6, length=2)
    ax.set_ylim(0, None)
    ax.set_xlim(0, None)


def tuned(best: Tuned) -> dict[str, Axes]:
    """The pictures of a recommendation by name: pareto, sensitivity, fates, and a heat map of the two options that
    matter most where two were varied."""
    found = {"pareto": pareto(best), "fates": fates(best)[0]}
    if best.sensitivity.empty:
        return found
    found["sensitivity"] = sensitivity(best)
    two = best.sensitivity.sort_values("changed_ratio", ascending=False)["option"].tolist()[:2]
    if len(two) == 2:
        value = best.objective.columns[-1]
        found["heatmap"] = heatmap(best.table, x=two[0], y=two[1], value=value, chosen=best.changed)
    return found
