"""Whether traces suffice to choose a setting, and how far the figures can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from migkit.stats.settings import figures
from migkit.tuning.objective import Objective

# What a ratio is a ratio of.
AMONG: Final = {
    "false_abort_ratio": "completed", "false_switchover_ratio": "completed", "missed_ratio": "never_converged",
}  # fmt: skip
# Fewer distinct records than this, or from fewer scenarios or guests, decide nothing.
LEAST_TRACES: Final = 8
LEAST_GROUPS: Final = 4
# Of each kind, so that false aborts and misses can be counted at all.
LEAST_OF_A_KIND: Final = 3


def doubts(traces: pd.DataFrame, used: Sequence[str] | None = None) -> list[str]:
    """Why these traces (rows of `Sweep.traces`) do not suffice to choose a setting, a line each; empty if they do."""
    distinct = distinct_traces(traces)
    groups = distinct["group"].nunique()
    ends = distinct["end"].value_counts()
    found = []
    copies = len(traces) - len(distinct)
    said = f"{len(traces)} traces" + (f", {len(distinct)} of them distinct" if copies else "")
    if len(distinct) < LEAST_TRACES:
        found.append(f"too few: {said}; at least {LEAST_TRACES} are needed")
    if groups < LEAST_GROUPS:
        found.append(f"too alike: {groups} scenario(s) or guest(s); at least {LEAST_GROUPS} are needed")
    for end, consequence in (("completed", "false aborts and false switchovers"), ("never converged", "misses")):
        count = int(ends.get(end, 0))
        if count < LEAST_OF_A_KIND:
            found.append(f"one-sided: {count} that {_words(end)}; without {LEAST_OF_A_KIND} {consequence} cannot be "
                         "counted")  # fmt: skip
    return found


def _words(end: str) -> str:
    return "completed by themselves" if end == "completed" else "never converged"


def unknown_of(row: pd.Series[Any]) -> list[str]:
    """Why too little is known of one setting (a row of `stats.by_setting`)."""
    lacking = [f"{row[name]} {words}" for name, words in (("completed", "completed by themselves"),
               ("never_converged", "never converged")) if row[name] < LEAST_OF_A_KIND]  # fmt: skip
    if not row["unknowable"] or not lacking:
        return []
    return [f"of {row['traces']} traces a replay cannot answer {row['unknowable']} under this setting; of the others "
            f"only {' and '.join(lacking)}"]  # fmt: skip


def cautions(row: pd.Series[Any], baselines: pd.DataFrame, neighbours: pd.DataFrame, judged: pd.DataFrame) -> list[str]:
    """What speaks against a recommended setting though the traces suffice, a line each."""
    found = []
    if not row["acted"]:
        found.append("the recommended setting acts on none of these migrations: it is as good as doing nothing")
    for ratio, words in (("false_switchover_ratio", "switches over"), ("false_abort_ratio", "aborts")):
        if row[ratio] >= 0.25:
            found.append(f"it {words} {row[ratio] * 100:.0f} % of the migrations that complete by themselves")
    broken = 0 if judged.empty else int((~judged["admitted"]).sum())
    if broken:
        found.append(f"chosen without them, the setting breaks the conditions in {broken} of {len(judged)} folds")
    edges = [] if neighbours.empty else [str(name) for name, own in neighbours.groupby("option", sort=False)
             if len(own) > 2 and (own["chosen"].iloc[0] or own["chosen"].iloc[-1])]  # fmt: skip
    if edges:
        found.append(f"at the edge of the values tried: {', '.join(edges)}")
    return found


def distinct_traces(traces: pd.DataFrame) -> pd.DataFrame:
    """Without records that are the same migration under another name."""
    return traces.drop_duplicates("fingerprint")


def folds(traces: pd.DataFrame, count: int, seed: int) -> list[list[str]]:
    """The traces in `count` parts of about one size, those of one group (scenario or guest) always together."""
    groups = list(dict.fromkeys(traces["group"]))
    np.random.default_rng(seed).shuffle(groups)
    sizes = traces["group"].value_counts()
    parts: list[list[str]] = [[] for _ in range(min(count, len(groups)))]
    loads = [0] * len(parts)
    for group in sorted(groups, key=lambda name: -int(sizes[name])):
        least = loads.index(min(loads))
        parts[least] += traces["trace"][traces["group"] == group].tolist()
        loads[least] += int(sizes[group])
    return parts


def held_out(table: pd.DataFrame, traces: pd.DataFrame, objective: Objective, ties: Sequence[int], *, count: int,
             seed: int) -> pd.DataFrame:  # fmt: skip
    """Chosen on the other folds, judged on this one: one row a fold with `fold`, `traces`, `setting` (chosen without
    it), `admitted` (whether the conditions hold on the fold) and the objective's figures on the fold."""
    rows = []
    for number, own in enumerate(folds(traces, count, seed), 1):
        inside = table["trace"].isin(own).to_numpy()
        if not inside.any() or inside.all():
            continue
        chosen = int(objective.order(figures(table[~inside], len(ties)), ties)[0])
        judged = figures(table[inside], len(ties))
        row = {"fold": number, "traces": len(own), "setting": chosen,
               "admitted": bool(objective.admitted(judged)[chosen])}  # fmt: skip
        rows.append(row | {name: judged[name].iloc[chosen] for name in objective.columns})
    return pd.DataFrame(rows)


def intervals(table: pd.DataFrame, traces: pd.DataFrame, labels: Sequence[str], columns: Sequence[str], *,
              resamples: int, seed: int) -> pd.DataFrame:  # fmt: skip
    """95 % bootstrap intervals of figures, groups drawn with replacement: one row a label and figure with `low`,
    `high`. `table` holds the rows of the labels' settings, numbered as they stand."""
    rng = np.random.default_rng(seed)
    by_group = [group.index.to_numpy() for _, group in traces.groupby("group", sort=True)]
    code = pd.Series(range(len(traces)), index=traces["trace"].to_numpy())
    place = code.reindex(table["trace"].astype(str)).to_numpy()
    position = {index: number for number, index in enumerate(traces.index)}
    rows_of = [np.flatnonzero(place == number) for number in range(len(traces))]
    drawn: dict[str, list[Any]] = {name: [] for name in columns}
    for _ in range(resamples):
        picked = [by_group[i] for i in rng.integers(0, len(by_group), len(by_group))]
        rows = np.concatenate([rows_of[position[index]] for group in picked for index in group])
        found = figures(table.iloc[rows], len(labels))
        for name in columns:
            drawn[name].append(found[name].to_numpy(dtype=float))
    made, whole = [], figures(table, len(labels))
    for name, values in drawn.items():
        for number, label in enumerate(labels):
            known = np.array([one[number] for one in values])
            known = known[~np.isnan(known)]
            low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
            if name in AMONG and len(known) and low == high and low in (0, 1):
                low, high = _at_the_edge(low, int(whole[AMONG[name]].iloc[number]))
            made.append({"label": label, "figure": name, "low": low, "high": high})
    return pd.DataFrame(made)


def _at_the_edge(ratio: float, count: int) -> tuple[float, float]:
    """Nothing (or everything) of `count`: resampling cannot leave that; the exact binomial bound can (Clopper and
    Pearson 1934)."""
    bound = 0.025 ** (1 / max(count, 1))
    return (0.0, 1 - bound) if ratio == 0 else (bound, 1.0)
