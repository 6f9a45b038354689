"""What `migkit explain` says of the traces whose cause is known, against that cause; whole, cut short and thinned out.

    python -m benchmarks.verdicts [--each] [--cut 0.6] [--every 4]

The cause is the label that the lab gave its own scenario; `explain` never sees it. A verdict is right when it names
the cause, open when the cause is among more candidates, silent when it says that it cannot tell, and wrong otherwise.
A destination that stands still and a dead link stop the source's counters alike, so that "network or destination" is
the name of either (`tests/lab/labels.py`, written apart, reads them no finer); `alone` is the share named by one word.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import migkit as mk
from migkit.explanation import explain
from migkit.explanation.flow import STALL_S
from migkit.meta import End
from migkit.units import NS_PER_S

TRACES = Path(__file__).parents[1] / "data" / "traces"
KINDS = ("right", "open", "silent", "wrong")
ALIKE = frozenset({"network", "destination"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", action="store_true", help="a line a trace")
    parser.add_argument("--cut", type=float, metavar="SHARE", help="only the first share of each trace")
    parser.add_argument("--every", type=float, metavar="S", help="only one sample in so many seconds, and no events")
    chosen = parser.parse_args()
    traces = labelled(mk.open_dataset(TRACES))
    if chosen.every:
        traces = [thinned(trace, chosen.every) for trace in traces]
    if chosen.cut:
        traces = [cut(trace, chosen.cut) for trace in traces if cause_within(trace, chosen.cut)]
    table = judged(traces)
    if chosen.each:
        print(table.to_string(index=False), end="\n\n")
    print(confusion(table).to_string(), end="\n\n")
    print(counts(table).to_string())


def labelled(traces: Iterable[mk.Trace]) -> list[mk.Trace]:
    """Those whose cause is known."""
    return [trace for trace in traces if trace.meta.lab and "limited_by" in trace.meta.lab.truth]


def judged(traces: Sequence[mk.Trace]) -> pd.DataFrame:
    """One row a trace: its cause, the verdict, and how they compare; the same for whether it converges."""
    rows = []
    for trace in traces:
        assert trace.meta.lab is not None
        truth = trace.meta.lab.truth
        found = explain(trace.replace_meta(lab=None), thresholds=False).verdict
        converges = "yes" if truth["converges"] else "no"
        rows.append((trace.name, truth["limited_by"], ", ".join(found.limited_by) or "cannot tell",
                     kind(truth["limited_by"], found.limited_by), converges, found.converges,
                     kind(converges, () if found.converges == "cannot tell" else (found.converges,))))  # fmt: skip
    columns = ["trace", "cause", "verdict", "limited by", "converges", "said", "convergence"]
    return pd.DataFrame(rows, columns=columns)


def kind(cause: str, candidates: tuple[str, ...]) -> str:
    """Right, open, silent or wrong."""
    if not candidates:
        return "silent"
    if candidates == (cause,) or (cause in ALIKE and set(candidates) == ALIKE):
        return "right"
    return "open" if cause in candidates else "wrong"


def confusion(table: pd.DataFrame) -> pd.DataFrame:
    """Causes down, verdicts across."""
    return pd.crosstab(table["cause"], table["verdict"])


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """How many verdicts are of which kind; the shares that are right, that one word names, that hold the cause."""
    columns = ["limited by", "convergence"]
    found = pd.DataFrame({name: table[name].value_counts().reindex(KINDS, fill_value=0) for name in columns}).T
    alone = [(table[cause] == table[said]).mean() for cause, said in (("cause", "verdict"), ("converges", "said"))]
    return found.assign(
        of=len(table),
        right_share=(found["right"] / len(table)).round(3),
        alone=np.round(alone, 3),
        holds_the_cause=((found["right"] + found["open"]) / len(table)).round(3),
    )


def cut(trace: mk.Trace, share: float) -> mk.Trace:
    """The trace as it would be had the recorder stopped after this share of its running time."""
    seen_s = trace.t_s[trace.active]
    last_ns = trace.t0_ns + int(max(share * seen_s[-1], seen_s[0]) * NS_PER_S) + 1
    rows = trace.samples[trace.samples["mono_ns"] <= last_ns].reset_index(drop=True)
    limits = trace.meta.notes.get("downtime_limits_ms") or []
    notes = {**trace.meta.notes, "downtime_limits_ms": [known for known in limits if int(known[0]) <= last_ns]}
    shorter = dataclasses.replace(trace, samples=rows)
    return shorter.replace_meta(end=End(outcome="interrupted"), heartbeat=None, notes=notes)


def cause_within(trace: mk.Trace, share: float) -> bool:
    """Whether what the label speaks of could be seen by then: a fault, or the change that made it converge."""
    assert trace.meta.lab is not None
    until_s = share * trace.t_s[trace.active][-1]
    fault_s = trace.meta.lab.truth.get("fault_from_s")
    begins_s = 0.0 if fault_s is None else fault_s + STALL_S
    raised = np.flatnonzero((trace.samples["action"] == "set_bandwidth").fillna(False).to_numpy(dtype=bool))
    return bool(begins_s < until_s and all(trace.t_s[i] < until_s for i in raised))


def thinned(trace: mk.Trace, every_s: float) -> mk.Trace:
    """The trace as a recorder without events would have made it that looks once in `every_s` seconds."""
    rows = trace.samples
    polls = np.flatnonzero((rows["source"] == "poll").to_numpy(dtype=bool))
    slots = np.floor(trace.t_s[polls] / every_s)
    kept = polls[np.concatenate([[True], np.diff(slots) > 0])]
    others = np.flatnonzero(~rows["source"].isin(["poll", "iteration"]).to_numpy(dtype=bool))
    chosen = rows.iloc[np.sort(np.concatenate([kept, others]))].reset_index(drop=True)
    cadence = dataclasses.replace(trace.meta.cadence, interval_ms=every_s * 1000, iteration_events=False)
    return dataclasses.replace(trace, samples=chosen).replace_meta(cadence=cadence)


if __name__ == "__main__":
    main()
