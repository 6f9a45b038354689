"""KubeVirt's monitor from v1.9: woken by a timer and, with stall detection, by iteration events.

Rules: kubevirt/kubevirt pkg/virt-launcher/virtwrap/live-migration-source.go at v1.9.0 and main at d923fdb815, which
adds downtime tuning. A wake-up goes through stages; a call ends a stage, and its outcome is the next stage's business.
"""

from __future__ import annotations

from migkit.policies import stall
from migkit.policies.base import (
    ABORT_FAILED,
    CANCEL,
    DOMAIN_PAUSED_FOR_MIGRATION,
    FINISH,
    JOB_TYPE_ACTIVE,
    MIGRATE_ERROR,
    NEVER,
    NONE,
    NOT_ABORTED,
    NOTHING,
    NS_PER_S,
    PAUSED,
    POST_COPY,
    PRE_COPY,
    QEMU_DEFAULT_DOWNTIME_MS,
    QEMU_LARGEST_DOWNTIME_MS,
    SET_MAX_DOWNTIME,
    STALL_INITIAL,
    START_POST_COPY,
    STUCK,
    SUSPEND,
    TIMEOUT,
    TUNING,
    Lists,
    Options,
    PlainState,
    Wakes,
)
from migkit.policies.integers import below, float_to_signed, wrap

# Stages: where a wake-up begins, or goes on once a call has come back.
(
    _START, _TUNE, _TUNED, _RULES, _RULE_CALLED, _INITIAL, _INITIAL_CALLED, _SAMPLE, _TRIGGERED, _DEADLINE,
    _DEADLINE_CALLED, _END,
) = range(12)  # fmt: skip


def advance(s: PlainState, lists: Lists, options: Options, wakes: Wakes, i0: int, i1: int) -> tuple[int, int, int, int]:
    """Walks the wake-ups i0..i1; see `migkit.policies.base`."""
    row = i0
    action, argument, reason = NOTHING
    while row < i1:
        stage, s.resume = s.resume, _START
        if stage == _START:
            if wakes.migrate_error[row]:
                action, reason, s.finished = FINISH, MIGRATE_ERROR, True
                break
            if wakes.stats[row] and wakes.job_type[row] == JOB_TYPE_ACTIVE:
                note_progress(s, wakes, row)
            stage = _INITIAL if options.stall else _TUNE
        if stage < _INITIAL:
            action, argument, reason = without_stall_detection(s, options, wakes, row, stage)
        else:
            action, argument, reason = with_stall_detection(s, lists, options, wakes, row, stage)
        if action != NONE:
            break
        row += 1
    return row, action, argument, reason


def note_progress(s: PlainState, wakes: Wakes, row: int) -> None:
    """The watermark is the last value, not the lowest: any decrease between two wakes is progress."""
    if wakes.remaining_set[row]:
        s.remaining = wakes.remaining[row]
    if s.watermark == 0 or below(s.remaining, s.watermark):
        s.last_progress_ns = wakes.t_ns[row]
    s.watermark = s.remaining


def abort_in_progress(abort_status: int) -> bool:
    """Whether the migration is being aborted, or has been."""
    return abort_status != NOT_ABORTED and abort_status != ABORT_FAILED


def without_stall_detection(
    s: PlainState, options: Options, wakes: Wakes, row: int, stage: int
) -> tuple[int, int, int]:
    """Downtime tuning, then the rules of the deadlines: (action, argument, reason)."""
    now_ns = wakes.t_ns[row]
    if stage == _TUNED and s.succeeded:
        s.downtime_ms, s.last_tuned_ns = s.pending, now_ns
    if stage == _RULE_CALLED:
        if s.succeeded and s.pending == START_POST_COPY:
            s.mode = POST_COPY
        elif s.succeeded:
            s.acceptable_s, s.mode = wrap(s.acceptable_s * 2), PAUSED
    if stage == _TUNE and options.tuning:
        tunes, target_ms = tuned_downtime(s, options, wakes, row)
        if tunes:
            s.resume, s.pending = _TUNED, target_ms
            return SET_MAX_DOWNTIME, target_ms, TUNING
    if stage > _RULES:
        return NOTHING
    action, argument, reason = deadline_rule(s, options, now_ns)
    if action != NONE:
        s.resume, s.pending = (_END if action == CANCEL else _RULE_CALLED), action
    return action, argument, reason


def tuned_downtime(s: PlainState, options: Options, wakes: Wakes, row: int) -> tuple[bool, int]:
    """Whether the downtime limit is to be set now, and to what (ms).

    The first call comes on the first wake. Its failure leaves the monitor believing in QEMU's default."""
    if s.downtime_ms == 0:
        s.downtime_ms = QEMU_DEFAULT_DOWNTIME_MS
        return True, options.tuning_initial_ms
    if not wakes.stats[row] or not wakes.iteration_set[row] or wakes.iteration[row] < options.tuning_start_after:
        return False, NONE
    if s.last_tuned_ns != NEVER and wakes.t_ns[row] - s.last_tuned_ns < options.tuning_cooldown_ns:
        return False, NONE
    step_ms = max((options.max_downtime_ms - options.tuning_initial_ms) // options.tuning_steps, 1)
    target_ms = min(s.downtime_ms + step_ms, options.max_downtime_ms)
    return target_ms > s.downtime_ms, target_ms


def deadline_rule(s: PlainState, options: Options, now_ns: int) -> tuple[int, int, int]:
    """The first rule that holds: (action, argument, reason). Deadlines are strict, in whole seconds."""
    timeout = s.acceptable_s != 0 and now_ns // NS_PER_S > s.acceptable_s
    if s.mode == POST_COPY:
        return NOTHING
    if timeout and options.allow_workload_disruption and s.mode != PAUSED:
        if options.has_vfio:
            return SET_MAX_DOWNTIME, vfio_downtime_ms(s.acceptable_s), TIMEOUT
        return (START_POST_COPY if options.allow_post_copy else SUSPEND), NONE, TIMEOUT
    if abort_in_progress(s.abort_status):
        return NOTHING
    stalled_s = (now_ns - s.last_progress_ns) // NS_PER_S
    if options.progress_timeout_s != 0 and stalled_s > options.progress_timeout_s:
        return CANCEL, NONE, STUCK
    return (CANCEL if timeout else NONE), NONE, TIMEOUT


def vfio_downtime_ms(acceptable_s: int) -> int:
    """Twice the deadline as a downtime, at most QEMU's largest."""
    wanted = wrap(wrap(acceptable_s * 2) * 1000)
    return wanted if below(wanted, QEMU_LARGEST_DOWNTIME_MS) else QEMU_LARGEST_DOWNTIME_MS


def with_stall_detection(
    s: PlainState, lists: Lists, options: Options, wakes: Wakes, row: int, stage: int
) -> tuple[int, int, int]:
    """The stages of a wake-up while stall detection is on: (action, argument, reason)."""
    if stage == _INITIAL and not s.initial_set:
        s.resume = _INITIAL_CALLED
        return SET_MAX_DOWNTIME, min(options.max_downtime_ms, QEMU_DEFAULT_DOWNTIME_MS), STALL_INITIAL
    if stage == _INITIAL_CALLED and s.succeeded:
        s.initial_set = True
    elapsed_s = wakes.t_ns[row] // NS_PER_S
    if stage < _SAMPLE:
        if s.mode == PRE_COPY and wakes.domain[row] == DOMAIN_PAUSED_FOR_MIGRATION:
            s.mode = PAUSED
        if abort_in_progress(s.abort_status):
            return NOTHING
        action, argument, reason = read_sample(s, lists, options, wakes, row)
        if action != NONE:
            s.switched, s.pending = True, action
            s.resume = _DEADLINE if action == CANCEL else _TRIGGERED
            return action, argument, reason
    if stage == _TRIGGERED:
        triggered(s, options, elapsed_s)
    if stage == _DEADLINE_CALLED:
        overdue_called(s, options, elapsed_s)
        return NOTHING
    if stage == _END:
        return NOTHING
    estimate_ms = stall.estimate_ms(s.record_remaining, s.ewma_bps)
    action, reason = stall.overdue(s, options, elapsed_s, estimate_ms)
    if action != NONE:
        s.resume, s.pending = (_END if action == CANCEL else _DEADLINE_CALLED), action
    return action, (QEMU_LARGEST_DOWNTIME_MS if action == SET_MAX_DOWNTIME else NONE), reason


def read_sample(s: PlainState, lists: Lists, options: Options, wakes: Wakes, row: int) -> tuple[int, int, int]:
    """An iteration boundary feeds the stall detector, a poll the bandwidth: (action, argument, reason)."""
    complete = wakes.remaining_set[row] and wakes.elapsed_set[row] and wakes.iteration_set[row]
    if not wakes.stats[row] or wakes.job_type[row] != JOB_TYPE_ACTIVE or not complete:
        return NOTHING
    if wakes.event[row] or s.mode != PRE_COPY:
        s.record_remaining, s.record_elapsed_ms = wakes.remaining[row], wakes.elapsed_ms[row]
        s.record_iteration = wakes.iteration[row]
        if not wakes.event[row] or not stall.process(s, lists, options):
            return NOTHING
        estimate_ms = stall.estimate_ms(s.record_remaining, s.ewma_bps)
        return stall.decide(s, options, wakes.t_ns[row] // NS_PER_S, estimate_ms)
    if wakes.bps_set[row]:
        s.ewma_bps = stall.smoothed(s.ewma_bps, wakes.bps[row], options.alpha)
    return NOTHING


def triggered(s: PlainState, options: Options, elapsed_s: int) -> None:
    """A stall's action has come back: a failed one may be tried again at the next boundary."""
    if not s.succeeded:
        s.switched = False
    elif s.pending == START_POST_COPY:
        s.mode = POST_COPY
    else:
        s.switch_deadline_s = wrap(elapsed_s + options.switchover_s)


def overdue_called(s: PlainState, options: Options, elapsed_s: int) -> None:
    """The completion deadline's action has come back; a failed one is tried again at the next wake."""
    if not s.succeeded:
        return
    s.switched = True
    if s.pending == START_POST_COPY:
        s.mode = POST_COPY
        return
    s.acceptable_s = float_to_signed(float(s.acceptable_s) * options.completion_factor)
    s.switch_deadline_s = wrap(elapsed_s + options.switchover_s)
