"""Picks the setting to run from a sweep, and says what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from migkit import __version__
from migkit.drivers.sweep import Executor, Sweep, sweep
from migkit.errors import MigkitError, UsageError
from migkit.manifest import manifest
from migkit.manifest.write import evidence_lines
from migkit.policies.versions import Policy, kubevirt
from migkit.stats.settings import FIGURES, by_setting, figure_text
from migkit.tuning.baselines import baselines
from migkit.tuning.evidence import cautions, doubts, held_out, intervals, unknown_of
from migkit.tuning.objective import Objective, parse

RECOMMENDED: Final = "recommended"
_ENDS: Final = {"completed": "completed by themselves", "never converged": "never converged", "failed": "failed",
                "cut short": "cut short"}  # fmt: skip
COUNTED: Final = {"false_abort": "completed", "false_switchover": "completed", "missed": "never_converged"}


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A recommended setting with its evidence and its price.

    Attributes:
        policy: the recommended policy; `setting`, its number in the sweep; `objective`, what it was chosen by.
        table: one row a setting of the sweep: `stats.by_setting`, whether the conditions hold (`admitted`), its `rank`
            (1 is best) and whether it lies on the `pareto` front of the objective's figures.
        baselines: the recommended setting and what it is held against, by label: the figures of `stats.by_setting`.
        intervals: 95 % bootstrap intervals of the objective's figures for those (label, figure, low, high).
        neighbours: one row a setting that differs in one option: `option`, `value`, whether it is the recommended
            one (`chosen`), and the figures: how flat the optimum is.
        sensitivity: one row an option, over its whole list with the others as recommended: the share of traces to which
            something else happens (`changed_ratio`), and from what to what each figure of the objective moves.
        held_out: one row a fold: what was chosen without it, and its figures on it.
        doubts: why the choice is not to be trusted, a line each: traces that do not suffice, a held-out check that
            failed, a setting at the edge of what was tried; empty when nothing speaks against it.
    """

    policy: Policy
    setting: int
    objective: Objective
    table: pd.DataFrame
    baselines: pd.DataFrame
    intervals: pd.DataFrame
    neighbours: pd.DataFrame
    sensitivity: pd.DataFrame
    held_out: pd.DataFrame
    doubts: tuple[str, ...]
    sweep: Sweep = field(repr=False)

    @property
    def changed(self) -> dict[str, Any]:
        """The options that were varied, at their recommended values."""
        return {str(name): self.policy.options[str(name)] for name in self.sweep.settings.columns}

    def manifest(self, *, kind: str | None = None, version: str | None = None, name: str = "migkit-tuned") -> str:
        """The recommended setting as YAML (`migkit.manifest.manifest`), with its evidence as a comment above."""
        return manifest(self.policy, kind=kind, version=version, name=name, evidence=_evidence(self))


def tune(
    found: Sweep,
    *,
    minimise: str | Sequence[str] | None = None,
    maximise: str | Sequence[str] | None = None,
    where: str | None = None,
    objective: str | None = None,
    anyway: bool = False,
    folds: int = 5,
    resamples: int = 500,
    seed: int = 0,
    executor: Executor | None = None,
) -> Tuned:
    """The best setting of a sweep by an objective.

    Parameters: `objective`, in words ("minimise time_to_action where implied_downtime_p95_ms <= 900"), or its parts
    `minimise` (or `maximise`) and `where`; the default is fewest missed, then lowest regret, then soonest, with no
    false abort; `anyway`, although the traces do not suffice; `folds` of the held-out check, grouped by scenario or
    guest; `resamples` of the bootstrap; `seed` of both; `executor` for the sweeps around the optimum.

    Raises MigkitError when the traces are too few or one-sided to choose (unless `anyway`), when nothing that an
    open-loop replay can know is left, or when no setting keeps the conditions; UsageError for an objective that cannot
    be read.

    >>> import migkit as mk
    >>> best = mk.tune(mk.sweep("data/traces", mk.kubevirt("1.8"), progress_timeout=[5, 60, 150]))
    >>> best.policy.options["progress_timeout"]
    150
    """
    goal = _objective(objective, minimise, maximise, where)
    traces = found.traces
    why = doubts(traces)
    if why and not anyway:
        raise MigkitError(_not_enough(why))
    changes = _changes(found)
    table = ranked(by_setting(found), goal, changes)
    best = int(np.argmin(table["rank"].to_numpy()))
    _check_usable(table, best, goal)
    row: Any = table.loc[best]
    why += unknown_of(row)
    if why and not anyway:
        raise MigkitError(_not_enough(why))
    chosen = found.policies[best]
    compared = _compared(found, chosen, goal, resamples=resamples, seed=seed, executor=executor)
    neighbours, sensitivity = _around(found, chosen, goal, executor)
    judged = held_out(found.table, traces, goal, changes, count=folds, seed=seed)
    return Tuned(
        policy=chosen, setting=best, objective=goal, table=table, baselines=compared[0], intervals=compared[1],
        neighbours=neighbours, sensitivity=sensitivity, sweep=found, held_out=judged,
        doubts=(*why, *cautions(row, compared[0], neighbours, judged)),
    )  # fmt: skip


def _not_enough(why: Sequence[str]) -> str:
    return (f"the traces do not suffice to choose a setting: {'; '.join(why)}. Record more, or say anyway=True "
            "(--anyway)")  # fmt: skip


def _evidence(best: Tuned) -> list[str]:
    """Traces, objective, expected effect and version, for the head of a manifest."""
    traces, ends = best.sweep.traces, best.sweep.traces["end"].value_counts()
    kinds = ", ".join(f"{ends[end]} {word}" for end, word in _ENDS.items() if end in ends)
    facts = [
        ("traces", f"{len(traces)}, of {traces['group'].nunique()} scenarios or guests: {kinds}"),
        ("objective", str(best.objective)),
        *((column, _effect(best, column)) for column in best.objective.columns),
        *((name.replace("_", " "), _counted(best, name, among)) for name, among in COUNTED.items()),
        *(("beware", why) for why in best.doubts),
        ("made by", f"migkit {__version__}, {best.policy.name}"),
    ]
    return ["Recommended by a replay of recorded migrations; a replay is open-loop.", *evidence_lines(facts)]


def _effect(best: Tuned, column: str) -> str:
    """A figure with its interval, beside the defaults'."""
    own = best.baselines[column]
    row = best.intervals[(best.intervals["label"] == RECOMMENDED) & (best.intervals["figure"] == column)].iloc[0]
    low, high = (figure_text(column, row[end]) for end in ("low", "high"))
    spread = "" if row["low"] != row["low"] else f" (95 %: {low} to {high})"
    texts = [figure_text(column, own[label]) for label in (RECOMMENDED, "defaults")]
    return f"{texts[0]}{spread}; with the defaults {texts[1]}"


def _counted(best: Tuned, name: str, among: str) -> str:
    """How many of how many, recommended and by default."""
    own = best.baselines[best.baselines.index.isin([RECOMMENDED, "defaults"])]
    texts = []
    for count, ratio in zip(own[among].tolist(), own[f"{name}_ratio"].tolist(), strict=True):
        texts.append(f"{round(ratio * count) if count else 0} of {count}")
    return f"{texts[0]}; with the defaults {texts[1]}"


def _objective(
    text: str | None, minimise: str | Sequence[str] | None, maximise: str | Sequence[str] | None, where: str | None
) -> Objective:
    if text is not None and (minimise or maximise or where):
        raise UsageError("give the objective in one text, or its parts, not both")
    parts = []
    for word, names in (("minimise", minimise), ("maximise", maximise)):
        if names:
            parts.append(f"{word} " + ", ".join([names] if isinstance(names, str) else names))
    if text is None and (parts or where):
        text = (", ".join(parts) or str(parse()).partition(" where ")[0]) + (f" where {where}" if where else "")
    return parse(text, known=FIGURES)


def _changes(found: Sweep) -> Sequence[int]:
    """How many of a setting's options differ from the version's defaults: of equally good settings the one with the
    fewest is recommended."""
    default = {name: option.default for name, option in found.policy.family.options.items()}
    names = [str(name) for name in found.settings.columns]
    return [sum(policy.options[name] != default[name] for name in names) for policy in found.policies]


def ranked(figures: pd.DataFrame, goal: Objective, changes: Sequence[int]) -> pd.DataFrame:
    """The table of `stats.by_setting` with `admitted`, `rank` (1 is best) and `pareto`."""
    order = goal.order(figures, changes)
    rank = np.empty(len(figures), dtype=np.int64)
    rank[order] = np.arange(1, len(figures) + 1)
    return figures.assign(admitted=goal.admitted(figures), rank=rank, pareto=pareto(figures, goal))


def pareto(figures: pd.DataFrame, goal: Objective) -> Any:
    """Whether no other setting is better in one figure of the objective (goals and conditions, small is good unless
    it is to be maximised or kept above) and no worse in all others, shape (settings,)."""
    up = {g.column for g in goal.goals if g.sign < 0} | {c.column for c in goal.conditions if ">" in c.compare}
    columns = [figures[name].to_numpy(dtype=float) * (-1 if name in up else 1) for name in goal.columns]
    points = np.column_stack([np.where(np.isnan(column), np.inf, np.round(column, 9)) for column in columns])
    distinct, back = np.unique(points, axis=0, return_inverse=True)
    front = np.array([not ((distinct <= p).all(axis=1) & (distinct < p).any(axis=1)).any() for p in distinct])
    return front[back.ravel()]


def _check_usable(table: pd.DataFrame, best: int, goal: Objective) -> None:
    row = table.loc[best]
    if row["unknowable"] == row["traces"]:
        raise MigkitError(
            "every setting changes the downtime limit at once (downtime tuning, or a first limit below QEMU's 300 ms): "
            "a recorded migration cannot answer to that, so nothing can be ranked"
        )
    if not row["admitted"]:
        nearest = "; ".join(f"the best has {c.column} {row[c.column]:.3g}" for c in goal.conditions)
        limits = " and ".join(map(str, goal.conditions))
        raise MigkitError(f"no setting keeps {limits} ({nearest}): loosen it, or sweep other values")


def _compared(
    found: Sweep, chosen: Policy, goal: Objective, *, resamples: int, seed: int, executor: Executor | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The figures of the recommended setting and the baselines, and their intervals."""
    others = baselines(found.policy)
    labels = [RECOMMENDED, *others]
    beside = _again(found, [chosen, *others.values()], executor)
    table = by_setting(beside).drop(columns=list(beside.settings.columns))
    spread = intervals(beside.table, beside.traces, labels, goal.columns, resamples=resamples, seed=seed)
    return table.set_axis(pd.Index(labels, name="label")), spread


def _again(found: Sweep, policies: Sequence[Policy], executor: Executor | None) -> Sweep:
    """The same traces under other policies of the same version."""
    rows = [dict(policy.options) for policy in policies]
    plain = kubevirt(found.policy.version)
    again = sweep(found.source, plain, settings=[_given(row, policies[i]) for i, row in enumerate(rows)],
                  executor=executor, **found.how)  # fmt: skip
    if not again.complete:
        raise KeyboardInterrupt
    return again


def _given(values: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """Options that can be given: those of a feature that is off cannot."""
    known = policy.family.options
    return {name: value for name, value in values.items() if not known[name].group or policy.options[known[name].group]}


def _around(
    found: Sweep, chosen: Policy, goal: Objective, executor: Executor | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each varied option over all its values while the others stay as recommended."""
    names = [str(name) for name in found.settings.columns]
    values = {name: _values(found, name) for name in names}
    settings, places = [], []
    for name in names:
        for value in values[name]:
            settings.append(kubevirt(found.policy.version, **_given({**chosen.options, name: value}, chosen)))
            places.append((name, value, value == chosen.options[name]))
    if not settings:
        return pd.DataFrame(), pd.DataFrame()
    beside = _again(found, settings, executor)
    figures = by_setting(beside).drop(columns=list(beside.settings.columns))
    rows = pd.DataFrame(places, columns=["option", "value", "chosen"]).astype({"value": object})
    neighbours = rows.join(figures.reset_index(drop=True))
    known = beside.table[beside.table["basis"] != "unknowable"]
    what = known.pivot(index="trace", columns="setting", values="what").reindex(columns=range(len(settings)))
    return neighbours, _sensitivity(neighbours, what, goal)


def _values(found: Sweep, name: str) -> list[Any]:
    """An option's values in the sweep, as the policies have them."""
    own = {policy.options[name] for policy in found.policies}
    return sorted(own, key=lambda value: (isinstance(value, str), float(value)))


def _sensitivity(neighbours: pd.DataFrame, what: pd.DataFrame, goal: Objective) -> pd.DataFrame:
    rows = []
    for option, own in neighbours.groupby("option", sort=False):
        seen = what[own.index]
        share = float((seen.nunique(axis=1) > 1).mean()) if len(seen) else 0.0
        row: dict[str, Any] = {"option": option, "values": len(own), "changed_ratio": share}
        for name in goal.columns:
            row[f"least_{name}"], row[f"most_{name}"] = own[name].min(), own[name].max()
        rows.append(row)
    return pd.DataFrame(rows)
