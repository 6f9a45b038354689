"""The closed form of the rules of the deadlines, with downtime tuning: NumPy, no walk.

What these rules look at depends on the trace alone as long as nothing was done: the watermark is overwritten at every
wake, so the time without progress is the same for every setting, and the first wake beyond a timeout is a search in a
running maximum. Where a trace or a setting breaks that, the answer is left open (`sure`), and the rules are walked.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from migkit.drivers.columns import Bools, Ints
from migkit.drivers.first.found import Firsts, nothing_found
from migkit.drivers.first.prepare import Prepared
from migkit.drivers.first.settings import ManyOptions
from migkit.drivers.first.tuning import tune
from migkit.policies import base
from migkit.policies.base import NS_PER_S, Wakes

NEVER: Final = np.iinfo(np.int64).max
# A table of so many seconds is quicker than a search.
_LONGEST_TABLE = 100_000
_UNSIGNED = np.uint64


class Course(NamedTuple):
    """What a trace shows every setting: `rows`, the wakes at which an abort can be decided and succeed, ascending;
    `elapsed_s` and `stuck_s` there, the latter the longest time without progress so far; `limit_rows`, the wakes at
    which the deadline is looked at for a disruption, with `limit_elapsed_s`."""

    rows: Ints
    elapsed_s: Ints
    stuck_s: Ints
    limit_rows: Ints
    limit_elapsed_s: Ints


def plain_course(prepared: Prepared) -> bool:
    """Whether the shortcuts' first condition holds: calls succeed, time does not go back, no error of the migrate
    call."""
    t_ns = prepared.wakes.t_ns
    calm = not prepared.fails.any() and not prepared.wakes.migrate_error.any()
    return bool(calm and (t_ns[1:] >= t_ns[:-1]).all())


def polling_firsts(prepared: Prepared, settings: ManyOptions) -> tuple[Firsts, Bools]:
    """The first actions of polling monitors and where that is sure. The trace must be a
    plain course, here and below."""
    found = nothing_found(len(settings.stall))
    gate = settings.disruption_gate
    allowed = np.where(gate, settings.allow_workload_disruption, settings.allow_post_copy)
    kind = np.where(~gate | settings.allow_post_copy, base.START_POST_COPY, base.SUSPEND)
    for ends_with_job in (False, True):
        mine = settings.ends_with_job == ends_with_job
        if mine.any():
            course = _polling_course(prepared.wakes, ends_with_job)
            _decide(course, settings, mine, allowed, kind, base.ABORT, found)
    return found, np.ones(len(settings.stall), dtype=bool)


def events_firsts(prepared: Prepared, settings: ManyOptions) -> tuple[Firsts, Bools]:
    """The first actions of the monitors from v1.9 without stall detection, and where that is sure."""
    found = nothing_found(len(settings.stall))
    everyone = np.ones(len(settings.stall), dtype=bool)
    post_copy = np.where(settings.allow_post_copy, base.START_POST_COPY, base.SUSPEND)
    kind = np.where(settings.has_vfio, base.SET_MAX_DOWNTIME, post_copy)
    _decide(_events_course(prepared.wakes), settings, everyone, settings.allow_workload_disruption, kind, base.CANCEL,
            found)  # fmt: skip
    sure = _raised(prepared, settings, found)
    if settings.tuning.any():
        sure &= tune(prepared, settings, found)
    return found, sure


def _decide(
    course: Course, settings: ManyOptions, mine: Bools, allowed: Bools, kind: Ints, abort: int, found: Firsts
) -> None:  # fmt: skip
    """The first of: the deadline's disruption, stuck, the deadline's abort; in this order on one wake."""
    deadline, patience = settings.acceptable_s, settings.progress_timeout_s
    stuck = np.where(patience == 0, NEVER, _after(course.rows, course.stuck_s, patience))
    late = np.where(deadline == 0, NEVER, _after(course.rows, course.elapsed_s, deadline))
    disrupted = np.where(allowed & (deadline != 0), _after(course.limit_rows, course.limit_elapsed_s, deadline), NEVER)
    wake = np.minimum(np.minimum(stuck, late), disrupted)
    by_limit, by_stuck = disrupted == wake, stuck == wake
    some = mine & (wake < NEVER)
    np.copyto(found.wake, wake, where=some)
    np.copyto(found.action, np.where(by_limit, kind, abort), where=some)
    np.copyto(found.reason, np.where(by_stuck & ~by_limit, base.STUCK, base.TIMEOUT), where=some)


def _after(rows: Ints, values: Ints, bounds: Ints) -> Ints:
    """The first of the rows whose value (they rise, in seconds) is above each bound, the largest number for none."""
    ended = np.append(rows, NEVER)
    if not len(values) or values[-1] - values[0] > _LONGEST_TABLE:
        return ended[np.searchsorted(values, bounds, side="right")]
    seconds = np.arange(values[0] - 1, values[-1] + 1)
    table = ended[np.searchsorted(values, seconds, side="right")]
    found: Ints = table[np.clip(bounds, seconds[0], seconds[-1]) - seconds[0]]
    return found


# --- what a trace shows ---------------------------------------------------------------------------------------------


def _polling_course(wakes: Wakes, ends_with_job: bool) -> Course:
    """Only the wakes of a running job count; the job's end, or its disappearance, makes the monitor end or go deaf."""
    running = wakes.stats & (wakes.job_type == base.JOB_TYPE_ACTIVE)
    remaining = _held(wakes.remaining, wakes.stats & wakes.remaining_set)
    progress_ns = _progress_ns(wakes.t_ns, remaining, running)
    vanished = (wakes.job_type == base.JOB_TYPE_NONE) & (wakes.domain == base.DOMAIN_RUNNING) & (progress_ns > 0)
    over = vanished | (wakes.job_type == base.JOB_TYPE_CANCELLED)
    if ends_with_job:
        over |= (wakes.job_type == base.JOB_TYPE_COMPLETED) | (wakes.job_type == base.JOB_TYPE_FAILED)
    rows = np.flatnonzero(running[: _first(wakes.stats & over)])
    elapsed_s = wakes.t_ns[rows] // NS_PER_S
    return Course(rows, elapsed_s, _longest_s(wakes.t_ns[rows] - progress_ns[rows]), rows, elapsed_s)


def _events_course(wakes: Wakes) -> Course:
    """Every wake counts, with statistics or not; but an abort fails where the job is known not to run."""
    running = wakes.stats & (wakes.job_type == base.JOB_TYPE_ACTIVE)
    remaining = _held(wakes.remaining, running & wakes.remaining_set)
    progress_ns = _progress_ns(wakes.t_ns, remaining, running)
    rows = np.flatnonzero(running | ~wakes.stats)
    elapsed_s = wakes.t_ns // NS_PER_S
    stuck_s = _longest_s(wakes.t_ns[rows] - progress_ns[rows])
    return Course(rows, elapsed_s[rows], stuck_s, np.arange(len(elapsed_s)), elapsed_s)


def _held(values: Ints, known: Bools) -> Ints:
    """The newest known value at each wake, 0 before the first."""
    newest = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    return np.where(newest >= 0, values[newest], 0)


def _progress_ns(t_ns: Ints, remaining: Ints, running: Bools) -> Ints:
    """When a running job's remaining data last was below that of the wake before, as it stands at each wake."""
    rows = np.flatnonzero(running)
    here = remaining[rows].view(_UNSIGNED)
    before = np.concatenate([np.zeros(1, dtype=_UNSIGNED), here[:-1]])
    progressed = np.zeros(len(t_ns), dtype=bool)
    progressed[rows] = (before[: len(here)] == 0) | (here < before[: len(here)])
    return _held(t_ns, progressed)


def _longest_s(idle_ns: Ints) -> Ints:
    return np.maximum.accumulate(idle_ns // NS_PER_S)


def _first(where: Bools) -> int:
    """The first place that is true, the length where none is."""
    return int(np.argmax(where)) if where.any() else len(where)


# --- downtime limits ------------------------------------------------------------------------------------------------


def _raised(prepared: Prepared, settings: ManyOptions, found: Firsts) -> Bools:
    """Gives the deadline's downtime limit its argument; not sure where it raises nothing and life goes on."""
    rows = np.flatnonzero(found.action == base.SET_MAX_DOWNTIME)
    with np.errstate(over="ignore"):
        wanted = (settings.acceptable_s[rows] * 2 * 1000).view(_UNSIGNED)
    limit_ms = np.minimum(wanted, _UNSIGNED(base.QEMU_LARGEST_DOWNTIME_MS)).astype(np.int64)
    found.argument[rows] = limit_ms
    found.changed_wake[rows] = found.wake[rows]
    sure = np.ones(len(settings.stall), dtype=bool)
    sure[rows] = limit_ms > prepared.limit_ms[found.wake[rows]]
    return sure
