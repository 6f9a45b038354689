"""A monitor's life up to its first decisive action: what `Monitor` does, in a form that numba compiles too.

Decisive are an abort, post-copy, a pause, and a downtime limit above the one in force on the record, each when the
call succeeds. The source is one for both forms, as the rules' is (`migkit.policies.base`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from migkit.policies import stall
from migkit.policies.base import (
    ABORT,
    ABORT_FAILED,
    ABORTED,
    ABORTING,
    CANCEL,
    FINISH,
    JOB_TYPE_ACTIVE,
    NONE,
    SET_MAX_DOWNTIME,
    Options,
    PlainState,
    Slot,
    Wakes,
)
from migkit.policies.events import abort_in_progress

Advance = Callable[..., tuple[int, int, int, int]]
# wake, action, argument, reason, changed wake: -1 for a wake that there is not.
Found = tuple[int, int, int, int, int]
NOWHERE: Final = -1


def walk(
    advance: Advance, s: PlainState, slots: list[Slot], options: Options, wakes: Wakes, limit_ms: Any, fails: Any,
) -> Found:  # fmt: skip
    """The first decisive action of a monitor that begins in this state."""
    row, changed, count, asked, why = 0, NOWHERE, len(limit_ms), False, NONE
    while row < count:
        row, action, argument, reason = advance(s, slots, options, wakes, row, row + 1 if asked else count)
        if action == FINISH:
            break
        if action == NONE:
            # The wake that asked for an abort is dealt with: now the abort's own task runs.
            if asked and abort_works(wakes.stats[row - 1], wakes.job_type[row - 1], fails[row - 1]):
                s.abort_status = ABORTED
                return row - 1, CANCEL, 0, why, changed
            s.abort_status, asked = (ABORT_FAILED if asked else s.abort_status), False
        elif action == CANCEL:
            why = reason
            if not abort_in_progress(s.abort_status):
                s.abort_status, asked = ABORTING, True
        else:
            s.succeeded = not fails[row] >> action & 1
            if s.succeeded and action != SET_MAX_DOWNTIME:
                return row, action, argument, reason, changed
            if s.succeeded and argument != limit_ms[row]:
                changed = row if changed == NOWHERE else changed
                if argument > limit_ms[row]:
                    return row, action, argument, reason, changed
    return NOWHERE, NONE, 0, NONE, changed


def abort_works(stats: bool, job_type: int, fails: int) -> bool:
    """Whether KubeVirt's asynchronous abort goes through: it asks for the job's type first."""
    return (not stats or job_type == JOB_TYPE_ACTIVE) and not fails >> ABORT & 1


def believed(s: PlainState, options: Options, wake: int) -> tuple[int, float]:
    """What the stall rule believed when it decided: how long sending the rest takes (ms), and the bandwidth."""
    if wake == NOWHERE or not options.stall:
        return 0, 0.0
    return stall.estimate_ms(s.record_remaining, s.ewma_bps), s.ewma_bps


def options_at(record: Any) -> Options:
    """One setting's options out of its record, as local values."""
    return Options(
        record.ends_with_job, record.disruption_gate, record.progress_timeout_s, record.acceptable_s,
        record.allow_post_copy, record.allow_workload_disruption, record.has_vfio, record.max_downtime_ms,
        record.tuning, record.tuning_initial_ms, record.tuning_steps, record.tuning_start_after,
        record.tuning_cooldown_ns, record.stall, record.margin, record.window_ms, record.switchover_s, record.alpha,
        record.precopy_factor, record.decay, record.completion_factor, record.search_minima,
    )  # fmt: skip
