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
    Options,
    PlainState,
    Slot,
    Wakes,
)
from migkit.policies.integers import below, float_to_signed, unsigned_to_float, wrap

# Stages: where a wake-up begins, or goes on once a call has come back.
(
    _START, _TUNE, _TUNED, _RULES, _RULE_CALLED, _INITIAL, _INITIAL_CALLED, _SAMPLE, _TRIGGERED, _DEADLINE,
    _DEADLINE_CALLED, _END,
) = range(12)  # fmt: skip


def advance(
    s: PlainState, slots: list[Slot], options: Options, wakes: Wakes, i0: int, i1: int
) -> tuple[int, int, int, int]:
    """Walks the wake-ups i0..i1; see `migkit.policies.base`. Columns are read here and nowhere else: compiled code
    counts the references of every array that it hands to a function."""
    row = i0
    action, argument, reason = NOTHING
    while row < i1:
        stage, s.resume = s.resume, _START
        now_ns, active = wakes.t_ns[row], wakes.stats[row] and wakes.job_type[row] == JOB_TYPE_ACTIVE
        if stage == _START:
            if wakes.migrate_error[row]:
                action, reason, s.finished = FINISH, MIGRATE_ERROR, True
                break
            if active:
                note_progress(s, wakes.remaining_set[row], wakes.remaining[row], now_ns)
            stage = _INITIAL if options.stall else _TUNE
        if stage < _INITIAL:
            if stage == _TUNE and options.tuning:
                known = wakes.stats[row] and wakes.iteration_set[row]
                action, argument, reason = tuned(s, options, now_ns, known, wakes.iteration[row])
            if action == NONE:
                action, argument, reason = without_stall_detection(s, options, now_ns, stage)
        else:
            stage = until_sample(s, wakes.domain[row], stage)
            complete = active and wakes.remaining_set[row] and wakes.elapsed_set[row] and wakes.iteration_set[row]
            if stage == _INITIAL:
                action, argument, reason = first_limit(s, options)
            elif stage == _SAMPLE and complete and (wakes.event[row] or s.mode != PRE_COPY):
                s.record_remaining, s.record_elapsed_ms = wakes.remaining[row], wakes.elapsed_ms[row]
                s.record_iteration = wakes.iteration[row]
                if wakes.event[row]:
                    action, argument, reason = boundary(s, slots, options, now_ns // NS_PER_S)
            elif stage == _SAMPLE and complete and wakes.bps_set[row]:
                s.ewma_bps = stall.smoothed(s.ewma_bps, unsigned_to_float(wakes.bps[row]), options.alpha)
            if action == NONE and _SAMPLE <= stage < _END:
                action, argument, reason = with_stall_detection(s, options, now_ns // NS_PER_S, stage)
        if action != NONE:
            break
        row += 1
    return row, action, argument, reason


def note_progress(s: PlainState, known: bool, remaining: int, now_ns: int) -> None:
    """The watermark is the last value, not the lowest: any decrease between two wakes is progress."""
    if known:
        s.remaining = remaining
    if s.watermark == 0 or below(s.remaining, s.watermark):
        s.last_progress_ns = now_ns
    s.watermark = s.remaining


def abort_in_progress(abort_status: int) -> bool:
    """Whether the migration is being aborted, or has been."""
    return abort_status != NOT_ABORTED and abort_status != ABORT_FAILED


def tuned(s: PlainState, options: Options, now_ns: int, known: bool, iteration: int) -> tuple[int, int, int]:
    """Downtime tuning: (action, argument, reason)."""
    tunes, target_ms = tuned_downtime(s, options, now_ns, known, iteration)
    if not tunes:
        return NOTHING
    s.resume, s.pending = _TUNED, target_ms
    return SET_MAX_DOWNTIME, target_ms, TUNING


def tuned_downtime(s: PlainState, options: Options, now_ns: int, known: bool, iteration: int) -> tuple[bool, int]:
    """Whether the downtime limit is to be set now, and to what (ms).

    The first call comes on the first wake. Its failure leaves the monitor believing in QEMU's default."""
    if s.downtime_ms == 0:
        s.downtime_ms = QEMU_DEFAULT_DOWNTIME_MS
        return True, options.tuning_initial_ms
    if not known or iteration < options.tuning_start_after:
        return False, NONE
    if s.last_tuned_ns != NEVER and now_ns - s.last_tuned_ns < options.tuning_cooldown_ns:
        return False, NONE
    step_ms = max((options.max_downtime_ms - options.tuning_initial_ms) // options.tuning_steps, 1)
    target_ms = min(s.downtime_ms + step_ms, options.max_downtime_ms)
    return target_ms > s.downtime_ms, target_ms


def without_stall_detection(s: PlainState, options: Options, now_ns: int, stage: int) -> tuple[int, int, int]:
    """The rules of the deadlines, or what follows from a call's outcome: (action, argument, reason)."""
    if stage == _TUNED and s.succeeded:
        s.downtime_ms, s.last_tuned_ns = s.pending, now_ns
    if stage == _RULE_CALLED:
        if s.succeeded and s.pending == START_POST_COPY:
            s.mode = POST_COPY
        elif s.succeeded:
            s.acceptable_s, s.mode = wrap(s.acceptable_s * 2), PAUSED
    if stage > _RULES:
        return NOTHING
    action, argument, reason = deadline_rule(s, options, now_ns)
    if action != NONE:
        s.resume, s.pending = (_END if action == CANCEL else _RULE_CALLED), action
    return action, argument, reason


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


def first_limit(s: PlainState, options: Options) -> tuple[int, int, int]:
    """Stall detection begins with a downtime limit: (action, argument, reason)."""
    s.resume = _INITIAL_CALLED
    return SET_MAX_DOWNTIME, min(options.max_downtime_ms, QEMU_DEFAULT_DOWNTIME_MS), STALL_INITIAL


def until_sample(s: PlainState, domain: int, stage: int) -> int:
    """The stage that is next while stall detection is on, up to the reading of the sample."""
    if stage >= _SAMPLE or (stage == _INITIAL and not s.initial_set):
        return stage
    if stage == _INITIAL_CALLED and s.succeeded:
        s.initial_set = True
    if s.mode == PRE_COPY and domain == DOMAIN_PAUSED_FOR_MIGRATION:
        s.mode = PAUSED
    return _END if abort_in_progress(s.abort_status) else _SAMPLE


def boundary(s: PlainState, slots: list[Slot], options: Options, elapsed_s: int) -> tuple[int, int, int]:
    """An iteration's end, in the state's record, feeds the stall detector: (action, argument, reason)."""
    if not stall.process(s, slots, options):
        return NOTHING
    estimate_ms = stall.estimate_ms(s.record_remaining, s.ewma_bps)
    action, argument, reason = stall.decide(s, options, elapsed_s, estimate_ms)
    if action != NONE:
        s.switched, s.pending = True, action
        s.resume = _DEADLINE if action == CANCEL else _TRIGGERED
    return action, argument, reason


def with_stall_detection(s: PlainState, options: Options, elapsed_s: int, stage: int) -> tuple[int, int, int]:
    """The completion deadline, or what follows from a call's outcome: (action, argument, reason)."""
    if stage == _TRIGGERED:
        triggered(s, options, elapsed_s)
    if stage == _DEADLINE_CALLED:
        overdue_called(s, options, elapsed_s)
        return NOTHING
    action, reason = stall.overdue(s, options, elapsed_s)
    if action != NONE:
        s.resume, s.pending = (_END if action == CANCEL else _DEADLINE_CALLED), action
    return action, (QEMU_LARGEST_DOWNTIME_MS if action == SET_MAX_DOWNTIME else NONE), reason


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
