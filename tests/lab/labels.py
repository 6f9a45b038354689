"""What a trace of the lab shows of its cause, told from its counters and its end alone, and whether several recordings
of the same scenarios show the same:

    python -m tests.lab.labels ONCE TWICE ...      # folders of traces; 1 when a label differs between them
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import migkit as mk
from migkit import stats
from migkit.cli.table import render
from migkit.lab import scenario
from migkit.units import MIB
from tests.lab.shows import assert_it_shows_its_name

HELP = {"start_post_copy", "suspend", "set_max_downtime", "set_bandwidth"}
STALL_S, NOTICED_S = 4.0, 40.0  # a dead link is cut by libvirt's keepalive after half a minute
WAY = "network or destination"  # the counters of the source stand still for either


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is known of a trace's cause before looking at it, and what looking at it tells."""

    truth: str
    outcome: str
    by_itself: bool
    held_up_by: str
    fault_shows: bool | None
    shows_its_name: bool

    @property
    def agrees(self) -> bool:
        """Whether the trace shows what its truth says, as far as it can."""
        limit = self.truth.partition(",")[0]
        return limit in self.held_up_by and self.fault_shows is not False and self.shows_its_name


def label(trace: mk.Trace, asked: scenario.Scenario) -> Label:
    """The label of one trace of a scenario."""
    assert trace.meta.lab is not None
    truth = trace.meta.lab.truth
    converges = "converges" if truth["converges"] else "does not converge"
    return Label(
        truth=", ".join([truth["limited_by"], converges, *_times(truth)]),
        outcome=trace.meta.end.outcome, by_itself=_by_itself(trace),
        held_up_by=held_up_by(trace), fault_shows=fault_shows(trace, truth), shows_its_name=_shows(trace, asked),
    )  # fmt: skip


def _times(truth: Mapping[str, Any]) -> list[str]:
    if "fault_from_s" not in truth:
        return []
    return [f"fault {truth['fault_from_s']:g} s to {truth['fault_until_s']:g} s" if "fault_until_s" in truth
            else f"fault from {truth['fault_from_s']:g} s on"]  # fmt: skip


def _by_itself(trace: mk.Trace) -> bool:
    return trace.meta.end.outcome == "completed" and not HELP & set(trace.samples["action"].dropna())


def _shows(trace: mk.Trace, asked: scenario.Scenario) -> bool:
    try:
        assert_it_shows_its_name(trace, asked)
    except AssertionError:
        return False
    return True


def held_up_by(trace: mk.Trace) -> str:
    """What held the migration up until somebody helped it, in the words of a truth; two that look alike as one."""
    if trace.meta.end.outcome in ("failed", "postcopy-failed"):
        return _failed_by(trace)
    if _stall_s(trace) >= STALL_S:
        return WAY
    passes, until_s = stats.iterations(trace), _help_s(trace)
    later = passes[(passes["iteration"] > 1) & (passes["duration_s"] > 0.3)]
    closed = later[later["start_s"] + later["duration_s"] <= until_s + 0.5]
    if closed.empty and until_s < np.inf:
        return "too early to tell"
    if closed.empty or (closed["newly_dirty_bytes"] / closed["sent_bytes"]).median() < 0.65:
        return WAY if _slower(trace, until_s) else "bandwidth"
    # Passes that begin with little more than the limit allows, and never end, lack only a higher limit.
    half, limit_ms = closed.tail(-(len(closed) // 2)), stats.downtime_limits(trace)["limit_ms"].iloc[0]
    level = (half["remaining_start_bytes"] / half["bandwidth_bps"]).median() * 1000 / limit_ms
    return "downtime limit" if level < 8 and not _by_itself(trace) else "dirty rate"


def _failed_by(trace: mk.Trace) -> str:
    end = trace.meta.end
    if "different sizes" in end.error_text or "Storage pool" in end.error_text:
        return "destination"
    return "source" if end.error_code == 38 else WAY


def _help_s(trace: mk.Trace) -> float:
    helped = np.flatnonzero(trace.samples["action"].isin(HELP).to_numpy())
    return float(trace.t_s[helped[0]]) if len(helped) else np.inf


def _stall_s(trace: mk.Trace) -> float:
    """The longest time in which nothing was sent."""
    sent, t = np.nan_to_num(trace.column("data_processed_bytes")[trace.active]), trace.t_s[trace.active]
    moved = np.flatnonzero(np.diff(sent, prepend=-1) > 0)
    return float(np.diff(np.append(t[moved], t[-1])).max())


def _slower(trace: mk.Trace, until_s: float) -> bool:
    """Whether less than libvirt allows was sent for most of the time."""
    allowed, flow = trace.meta.migration.parameters.get("bandwidth"), stats.rates(trace).dropna()
    speed = flow["flow_bandwidth_bps"][flow["t_s"] < until_s]
    return bool(allowed and len(speed) and (speed < 0.8 * allowed * MIB).mean() > 0.5)


def fault_shows(trace: mk.Trace, truth: Mapping[str, Any]) -> bool | None:
    """Whether less was sent while the fault lasted than before, or the migration failed of it; None without a fault."""
    begins, ends = truth.get("fault_from_s"), truth.get("fault_until_s")
    if begins is None:
        return None
    t, sent = trace.t_s[trace.active], np.nan_to_num(trace.column("data_processed_bytes")[trace.active])
    if ends is None:
        return "failed" in trace.meta.end.outcome and begins - 1 <= t[-1] <= begins + NOTICED_S
    at = np.interp([1, begins, begins + 1, ends], t, sent)
    return bool((at[3] - at[2]) / (ends - begins - 1) < 0.7 * (at[1] - at[0]) / (begins - 1))


def labels(folder: Path) -> dict[str, Label]:
    """The labels of the lab's traces in a folder, by name; those of a corrupted guest left out."""
    known, found = scenario.load(), {}
    for trace in mk.open_dataset(folder):
        lab = trace.meta.lab
        if lab is not None and lab.truth and not lab.guest_corrupted:
            found[trace.name] = label(trace, known[lab.scenario])
    return found


def table(runs: Sequence[Mapping[str, Label]]) -> pd.DataFrame:
    """One row a trace: its label in the first run, and in how many runs it is the same."""
    names = sorted({name for run in runs for name in run})
    return pd.DataFrame([_row(name, [run.get(name) for run in runs]) for name in names])


def _row(name: str, found: Sequence[Label | None]) -> dict[str, object]:
    first = next(one for one in found if one is not None)
    ended = first.outcome + (" by itself" if first.by_itself else "")
    fault = {None: "-", True: "yes", False: "no"}[first.fault_shows]
    alike = sum(one == first for one in found)
    return {"trace": name, "truth": first.truth, "ended": ended, "shows": first.held_up_by, "fault": fault,
            "agrees": "yes" if first.agrees else "no", "alike": f"{alike} of {len(found)}"}  # fmt: skip


def main(folders: Sequence[str]) -> int:
    """Prints the table; 1 when a label differs between the folders, or a trace is missing in one."""
    runs = [labels(Path(folder)) for folder in folders]
    found = table(runs)
    heads = ("trace", "truth", "ended", "shows", "fault", "agrees", "alike")
    print(render(found, dict(zip(heads, (*heads[:3], "its counters show", "fault seen", *heads[5:]), strict=True))))
    print(f"{len(found)} traces, {(found['agrees'] == 'yes').sum()} show what their truth says")
    return 0 if all(run == runs[0] for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if sys.argv[1:] else __doc__)
