"""What a setting did to a recorded migration, in numbers that mean something: each defined here and nowhere else.

A replay is open-loop. What the record itself shows is *observed*; what it only limits is *bounded*; what would have
followed an action that was not taken is *unknowable*, and no number is given for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from migkit.drivers.sweep.recorded import Recorded
from migkit.policies import base
from migkit.units import NS_PER_S

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Basis = Literal["observed", "bounded", "modelled", "unknowable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One column of a sweep's table: its unit, on which basis it stands, and what it means."""

    name: str
    unit: str
    basis: Basis
    doc: str


def _outcome(name: str, unit: str, basis: Basis, doc: str) -> Outcome:
    return Outcome(name=name, unit=unit, basis=basis, doc=doc)


OUTCOMES: Final = (
    _outcome("what", "", "observed", "What happens first under this setting (WHAT)."),
    _outcome("reason", "", "observed", "The rule that fired, empty where none did."),
    _outcome("basis", "", "observed", "Of what and when: observed; bounded where the samples are too old or too few "
             "to tell the wake-up; unknowable once the rule has changed the downtime limit."),
    _outcome("time_to_action_s", "s", "observed", "From the job's start to the first action that changes its course."),
    _outcome("argument_ms", "ms", "observed", "The downtime limit that the action sets."),
    _outcome("false_abort", "", "bounded", "It aborts a migration that went on to complete by itself; null where the "
             "record was cut short before one could tell."),
    _outcome("false_switchover", "", "bounded", "It pauses, switches to post-copy or raises the limit of a migration "
             "that went on to complete by itself; null as for false_abort."),
    _outcome("completed_after_s", "s", "observed", "How soon after the action the record completed by itself."),
    _outcome("missed", "", "bounded", "It does not act on a migration that never converged, as long as the "
             "record lasts: with a longer deadline it may act later."),
    _outcome("remaining_at_action_bytes", "bytes", "observed", "Remaining data in the sample that the action read."),
    _outcome("regret_ratio", "", "bounded", "What a switchover then has to send at the most, less the least that any "
             "pass of the record began with, as a share of all data: 0 is the best moment of the record."),
    _outcome("implied_downtime_ms", "ms", "bounded", "At the most: what remains and all that the guest dirtied in "
             "this pass (in an unfinished one as in the worst before), at the bandwidth of the last second; the real "
             "downtime where nothing is done and it completes."),
    _outcome("implied_downtime_low_ms", "ms", "bounded", "At the least: what remains, at the highest bandwidth of the "
             "record; 0 where a bandwidth limit holds, which stop-and-copy does not obey."),
    _outcome("sent_before_action_bytes", "bytes", "observed", "Bytes sent until the action, or until the record ends."),
    _outcome("wasted_bytes", "bytes", "bounded", "At the least: of those, what was sent after it stopped improving; "
             "only where it never converged."),
)  # fmt: skip
BY_NAME: Final = {outcome.name: outcome for outcome in OUTCOMES}

WHAT: Final = (
    "completes by itself", "aborted as stuck", "aborted as stalled", "aborted at the deadline", "post-copy", "paused",
    "raised downtime", "missed", "failed by itself", "cut short",
)  # fmt: skip
_ABORTS = (1, 2, 3)
_SWITCHOVERS = (4, 5, 6)
_LEFT_ALONE = {"completed": 0, "never converged": 7, "failed": 8, "cut short": 9}
_WHAT_OF_ACTION = {base.START_POST_COPY: 4, base.SUSPEND: 5, base.SET_MAX_DOWNTIME: 6}
BASES: Final = ("observed", "bounded", "modelled", "unknowable")
_OBSERVED, _BOUNDED, _, _UNKNOWABLE = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted:
    """The first decisive action of each setting, shape (settings,): nanoseconds since the job began (-1 where there
    is none), codes of `policies.base`, the sample's age in ns, whether an iteration event woke the monitor, and when
    the rule first changed the downtime limit (-1: never)."""

    t_ns: Ints
    action: Ints
    argument: Ints
    reason: Ints
    age_ns: Ints
    event: npt.NDArray[np.bool_]
    changed_ns: Ints


def outcomes(
    recorded: Recorded, acted: Acted, *, approximate: bool | npt.NDArray[np.bool_] = False
) -> dict[str, npt.NDArray[Any]]:
    """The columns of OUTCOMES for one record, each of shape (settings,). `approximate`: which settings the record
    answers approximately only.

    `what`, `reason` and `basis` are codes into WHAT, base.REASON_NAMES and BASES; flags are 1, 0 or -1 for null;
    numbers are float32, NaN for null. What a rule would do after the operator changed the migration is not looked at.
    """
    t_s = acted.t_ns / NS_PER_S
    acts = (acted.t_ns >= 0) & (t_s <= recorded.changed_s)
    what = np.where(acts, _what(acted), _LEFT_ALONE[recorded.end]).astype(np.int8)
    aborts, switches = np.isin(what, _ABORTS), np.isin(what, _SWITCHOVERS)
    cut_s = np.where(acts, t_s, recorded.end_s)
    place = recorded.sample_at(cut_s)
    sent = recorded.sent_bytes[place]
    completed = recorded.end == "completed"
    most = _most_bytes(recorded, acted, place)
    low_ms, high_ms = _downtime_ms(recorded, acted, place, what, most)
    regret = (most - recorded.best_remaining_bytes) / max(recorded.total_bytes, 1.0)
    wasted = np.maximum(sent - recorded.sent_when_it_stopped_improving(), 0)
    return {
        "what": what,
        "reason": np.where(acts, acted.reason, 0).astype(np.int8),
        "basis": _basis(recorded, acted, acts, approximate=approximate),
        "time_to_action_s": _where(acts, t_s),
        "argument_ms": _where(what == _WHAT_OF_ACTION[base.SET_MAX_DOWNTIME], acted.argument),
        "false_abort": _flag(aborts, recorded),
        "false_switchover": _flag(switches, recorded),
        "completed_after_s": _where(acts & completed, recorded.end_s - t_s),
        "missed": np.full(len(what), recorded.end == "never converged") & ~acts,
        "remaining_at_action_bytes": _where(acts, recorded.remaining_bytes[place]),
        "regret_ratio": _where(switches, np.maximum(regret, 0)),
        "implied_downtime_ms": high_ms.astype(np.float32),
        "implied_downtime_low_ms": low_ms.astype(np.float32),
        "sent_before_action_bytes": sent.astype(np.float32),
        "wasted_bytes": _where(np.full(len(what), recorded.end == "never converged"), wasted),
    }


def _what(acted: Acted) -> Ints:
    found = np.full(len(acted.action), 3, dtype=np.int64)
    found[acted.reason == base.STUCK] = 1
    found[acted.reason == base.STALL_ABORT] = 2
    for action, code in _WHAT_OF_ACTION.items():
        found[acted.action == action] = code
    return found


def _where(chosen: npt.NDArray[np.bool_], values: Any) -> npt.NDArray[np.float32]:
    return np.where(chosen, values, np.nan).astype(np.float32)


def _flag(does: npt.NDArray[np.bool_], recorded: Recorded) -> npt.NDArray[np.int8]:
    """1 where it is done to a record that completed by itself, 0 where not, null where nobody can tell."""
    wrong = {"completed": 1, "never converged": 0, "failed": 0, "cut short": -1}[recorded.end]
    return np.where(does, wrong, 0).astype(np.int8)


def _basis(
    recorded: Recorded, acted: Acted, acts: npt.NDArray[np.bool_], *, approximate: bool | npt.NDArray[np.bool_]
) -> npt.NDArray[np.int8]:
    stale = acts & (acted.age_ns > recorded.freshness_ns)
    found = np.where(stale | approximate, _BOUNDED, _OBSERVED)
    last_ns = np.where(acts, acted.t_ns, int(min(recorded.changed_s, recorded.end_s) * NS_PER_S))
    changed = (acted.changed_ns >= 0) & (acted.changed_ns < last_ns)
    return np.where(changed, _UNKNOWABLE, found).astype(np.int8)


def _most_bytes(recorded: Recorded, acted: Acted, place: Ints) -> Floats:
    """What a switchover has to send at the most: at a pass's start what that began with, else also what the guest
    dirties in the whole pass."""
    remaining, level = recorded.remaining_bytes[place], recorded.pass_level_bytes[place]
    inside = np.where(np.isnan(recorded.dirtied_in_pass_bytes[place]), level, recorded.dirtied_in_pass_bytes[place])
    return np.where(acted.event, np.maximum(remaining, level), remaining + inside)


def _downtime_ms(
    recorded: Recorded, acted: Acted, place: Ints, what: npt.NDArray[np.int8], most: Floats
) -> tuple[Floats, Floats]:
    """The least and the most that the guest stands still at the action; NaN where it does not, or nobody can tell."""
    remaining = recorded.remaining_bytes[place]
    with np.errstate(divide="ignore", invalid="ignore"):
        high = most / recorded.bandwidth_bps[place] * 1000
        low = np.zeros(len(place)) if recorded.limited else remaining / recorded.largest_bandwidth_bps * 1000
    paused = np.isin(what, (_WHAT_OF_ACTION[base.SET_MAX_DOWNTIME], _WHAT_OF_ACTION[base.SUSPEND]))
    alone = what == _LEFT_ALONE["completed"]
    real = np.nan if recorded.downtime_ms is None else recorded.downtime_ms
    return (np.where(paused, np.fmin(low, high), np.where(alone, real, np.nan)),
            np.where(paused, high, np.where(alone, real, np.nan)))  # fmt: skip


def glossary() -> str:
    """The outcome columns as a Markdown table."""
    lines = ["| outcome | unit | basis | meaning |", "|---|---|---|---|"]
    lines += [f"| {o.name} | {o.unit} | {o.basis} | {o.doc} |" for o in OUTCOMES]
    return "\n".join(lines) + "\n"
