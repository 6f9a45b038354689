"""KubeVirt's polling monitor, v0.59 to v1.8.

Rules: kubevirt/kubevirt pkg/virt-launcher/virtwrap/live-migration-source.go at v0.59.0, v1.4.0 (only post-copy after
the deadline), v1.5.0 (workload disruption), v1.6.0 to v1.8.0 (the job's end is not looked at). What differs between
them are two options: `disruption_gate` (v1.5 and later) and `ends_with_job` (up to v1.5).
"""

from __future__ import annotations

from migkit.policies.base import (
    ABORT,
    ABORTING,
    DOMAIN_RUNNING,
    FINISH,
    JOB_CANCELLED,
    JOB_COMPLETED,
    JOB_FAILED,
    JOB_TYPE_ACTIVE,
    JOB_TYPE_CANCELLED,
    JOB_TYPE_COMPLETED,
    JOB_TYPE_FAILED,
    JOB_TYPE_NONE,
    MIGRATE_ERROR,
    NONE,
    NOTHING,
    NS_PER_S,
    PAUSED,
    POST_COPY,
    START_POST_COPY,
    STUCK,
    SUSPEND,
    TIMEOUT,
    Options,
    PlainState,
    Slot,
    Wakes,
)
from migkit.policies.integers import below, wrap


def advance(
    s: PlainState, slots: list[Slot], options: Options, wakes: Wakes, i0: int, i1: int
) -> tuple[int, int, int, int]:
    """Walks the wake-ups i0..i1; see `migkit.policies.base`."""
    mode, remaining, watermark = s.mode, s.remaining, s.watermark
    last_progress_ns, acceptable_s = s.last_progress_ns, s.acceptable_s
    row = i0
    action, argument, reason = NOTHING
    while row < i1:
        if s.resume != NONE:
            called, s.resume = s.resume, NONE
            if s.succeeded and called == ABORT:
                action, argument, reason, s.finished = FINISH, s.pending, s.pending_reason, True
                break
            if s.succeeded and called == START_POST_COPY:
                mode = POST_COPY
            elif s.succeeded and called == SUSPEND:
                acceptable_s, mode = wrap(acceptable_s * 2), PAUSED
            row += 1
            continue
        if s.error_stored:
            action, reason, s.finished = FINISH, MIGRATE_ERROR, True
            break
        if wakes.migrate_error[row]:
            s.error_stored = True
        if s.sticky_type == 0 and not wakes.stats[row]:
            row += 1
            continue
        job_type = s.sticky_type if s.sticky_type != 0 else wakes.job_type[row]
        if s.sticky_type == 0 and wakes.remaining_set[row]:
            remaining = wakes.remaining[row]
        now_ns = wakes.t_ns[row]
        if job_type == JOB_TYPE_ACTIVE:
            if watermark == 0 or below(remaining, watermark):
                last_progress_ns = now_ns
            watermark = remaining
            stalled_s = (now_ns - last_progress_ns) // NS_PER_S
            action, reason = in_flight(options, mode, acceptable_s, now_ns // NS_PER_S, stalled_s)
            if action != NONE:
                # What is said when the abort has worked: how long it was stuck, or the deadline that was missed.
                s.pending = stalled_s if reason == STUCK else acceptable_s
                s.resume, s.pending_reason = action, reason
                break
        elif job_type == JOB_TYPE_NONE:
            if last_progress_ns > 0:
                s.sticky_type = vanished_job(s.abort_status, wakes.domain[row])
        else:
            reason = ended_job(options.ends_with_job, job_type)
            if reason != NONE:
                action, s.finished = FINISH, True
                break
        row += 1
    s.mode, s.remaining, s.watermark = mode, remaining, watermark
    s.last_progress_ns, s.acceptable_s = last_progress_ns, acceptable_s
    return row, action, argument, reason


def in_flight(options: Options, mode: int, acceptable_s: int, elapsed_s: int, stalled_s: int) -> tuple[int, int]:
    """The first rule that holds while the job runs: (action, reason). Deadlines are strict, in whole seconds."""
    timeout = acceptable_s != 0 and elapsed_s > acceptable_s
    if mode == POST_COPY:
        return NONE, NONE
    if timeout and not options.disruption_gate and options.allow_post_copy:
        return START_POST_COPY, TIMEOUT
    if timeout and options.disruption_gate and options.allow_workload_disruption and mode != PAUSED:
        return (START_POST_COPY if options.allow_post_copy else SUSPEND), TIMEOUT
    if options.progress_timeout_s != 0 and stalled_s > options.progress_timeout_s:
        return ABORT, STUCK
    if timeout:
        return ABORT, TIMEOUT
    return NONE, NONE


def vanished_job(abort_status: int, domain: int) -> int:
    """The job type that the monitor believes from now on when libvirt knows of no job any more, 0 for none."""
    if abort_status == ABORTING:
        return JOB_TYPE_CANCELLED
    return JOB_TYPE_FAILED if domain == DOMAIN_RUNNING else 0


def ended_job(ends_with_job: bool, job_type: int) -> int:
    """The reason to finish for a job type that is neither none nor active; NONE to go on."""
    if job_type == JOB_TYPE_CANCELLED:
        return JOB_CANCELLED
    if ends_with_job and job_type == JOB_TYPE_COMPLETED:
        return JOB_COMPLETED
    if ends_with_job and job_type == JOB_TYPE_FAILED:
        return JOB_FAILED
    return NONE
