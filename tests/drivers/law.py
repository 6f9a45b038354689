"""What a live monitor, a replay of its trace and a sweep owe each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

import migkit as mk
from migkit.drivers.monitor import CALLS, Call
from migkit.policies import base
from migkit.policies.versions import Family

# A wake and a poll: what a rebuilt wake reads may be that much older than what the real one read.
SLACK_S = 0.5
CODE_OF_CALL = {name: code for code, name in CALLS.items()}


def without_wakes(trace: mk.Trace) -> mk.Trace:
    """What a recorder alone would have left."""
    rows = trace.samples[trace.samples["source"] != "wake"].reset_index(drop=True)
    return dataclasses.replace(trace, samples=rows)


_NOT_READ = ["mono_ns", "wall_ns", "source", "latency_us", "event_lag_us", "event_iteration"]


def as_the_monitor_read(trace: mk.Trace) -> mk.Trace:
    """The trace with what the monitor read at each iteration event in the place of what the recorder read there.

    They ask a few ms apart, in which up to a MiB is sent, and stall detection compares to a few percent: whether it
    decides at this event or at the next rests on who asked first, not on when it is woken.
    """
    rows = trace.samples.copy()
    events, read = rows[rows["source"] == "iteration"], rows[(rows["source"] == "wake") & rows["job_type"].notna()]
    by_event = read.dropna(subset=["event_iteration"]).set_index("event_iteration")
    columns = [name for name in rows.columns if name not in _NOT_READ]
    for index, number in events["event_iteration"].items():
        if number in by_event.index:
            rows.loc[[index], columns] = by_event.loc[[number], columns].to_numpy()
    return dataclasses.replace(trace, samples=rows)


def assert_within_the_spread(live: pd.DataFrame, rebuilt: mk.Replay, until_s: float = float("inf")) -> None:
    """Each live decision is one that the rebuilt wakes come to, within their spread; they come to no other surely,
    as long as the live monitor was woken."""
    there = numbered(rebuilt.decisions)
    for kind, decided in numbered(live).items():
        assert kind in there, f"{kind} at {decided.t_s:.1f} s is not rebuilt"
        found = there[kind]
        assert found.earliest_s - SLACK_S <= decided.t_s <= found.latest_s + SLACK_S, kind
    missed = there.keys() - numbered(live).keys()
    assert not [kind for kind in missed if there[kind].basis == "observed" and there[kind].earliest_s <= until_s]


def numbered(table: pd.DataFrame) -> dict[tuple[str, str, int], object]:
    """Decisions by action, reason, and which of its kind it is."""
    found: dict[tuple[str, str, int], object] = {}
    for row in table.itertuples():
        number = sum(kind[:2] == (row.action, row.reason) for kind in found)
        found[row.action, row.reason, number] = row
    return found


def first_decisive(calls: list[Call], limit_ms: np.ndarray, family: Family) -> tuple[int, ...]:
    """(wake, action, argument, reason, changed wake) out of a monitor's calls."""
    changed = -1
    for call in calls:
        code, limit = CODE_OF_CALL[call.name], limit_ms[call.row]
        if not call.succeeded:
            continue
        if code == base.SET_MAX_DOWNTIME and call.argument != limit and changed < 0:
            changed = call.row
        if code == base.SET_MAX_DOWNTIME and call.argument <= limit:
            continue
        action = base.CANCEL if code == base.ABORT and family.rules == "events" else code
        return call.row, action, call.argument or 0, base.REASON_NAMES.index(call.reason), changed
    return -1, base.NONE, 0, 0, changed
