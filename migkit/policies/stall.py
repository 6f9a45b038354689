"""KubeVirt's stall detector: has the least that remained at an iteration's end stopped falling?

Rules: kubevirt/kubevirt pkg/virt-launcher/virtwrap/stall-detector.go and live-migration-source.go at v1.9.0 and main
at d923fdb815 (VEP 248). Byte counts and times of its window are unsigned 64-bit numbers, as everywhere in
`migkit.policies` kept by their bits.
"""

from __future__ import annotations

from migkit.policies.base import (
    CANCEL,
    NO_BANDWIDTH,
    NONE,
    NOT_COMPLETABLE,
    NOTHING,
    PAUSED,
    POST_COPY,
    QEMU_LARGEST_DOWNTIME_MS,
    SET_MAX_DOWNTIME,
    STALL_ABORT,
    STALL_HARD,
    STALL_POST_COPY,
    STALL_SOFT,
    START_POST_COPY,
    TIMEOUT,
    Options,
    PlainState,
    Slot,
)
from migkit.policies.integers import below, float_to_signed, float_to_unsigned, unsigned_to_float, wrap

_LARGEST_ESTIMATE_MS = 4294967295


def smoothed(ewma_bps: float, latest_bps: float, alpha: float) -> float:
    """The next exponentially weighted bandwidth; the first value is taken as it is."""
    return latest_bps if ewma_bps == 0 else alpha * latest_bps + (1 - alpha) * ewma_bps


def estimate_ms(remaining: int, ewma_bps: float) -> int:
    """How long sending what remains would take, in ms of an unsigned 32-bit number; 0 while no bandwidth is known."""
    if ewma_bps == 0:
        return 0
    value = unsigned_to_float(remaining) / (ewma_bps / 1000)
    return _LARGEST_ESTIMATE_MS if value > _LARGEST_ESTIMATE_MS else float_to_signed(value) & _LARGEST_ESTIMATE_MS


def process(s: PlainState, slots: list[Slot], options: Options) -> bool:
    """Takes in the boundary in the state's record; whether the migration is stalled."""
    if s.ewma_bps == 0 or s.switched:
        return False
    age_out(s, slots, options.window_ms)
    insert(s, slots)
    if s.stalled:
        relax(s, slots, options.decay)
        return True
    if not outside_set(s) or fell(s.outside_remaining, s.record_remaining, options.margin):
        return False
    detected(s, least(s, slots), options.window_ms)
    return True


def fell(outside_remaining: int, remaining: int, margin: float) -> bool:
    """Whether remaining is below the least that has left the window by more than the margin."""
    return below(remaining, float_to_unsigned(unsigned_to_float(outside_remaining) * (1 - margin)))


def least(s: PlainState, slots: list[Slot]) -> int:
    """The least that remained at a boundary, within the window or before it."""
    if s.candidates > 0 and below(slots[s.candidates - 1].remaining, s.outside_remaining):
        return slots[s.candidates - 1].remaining
    return s.outside_remaining


def detected(s: PlainState, best: int, window_ms: int) -> None:
    """A stall is found at the boundary in the state's record: from now on the best is waited for."""
    s.stalled, s.best, s.history = True, best, 0
    s.patience_ms = window_ms
    s.relax_deadline_ms = wrap(s.record_elapsed_ms + s.patience_ms)


def outside_set(s: PlainState) -> bool:
    """A record of three zeros counts as none."""
    return s.outside_remaining != 0 or s.outside_elapsed_ms != 0 or s.outside_iteration != 0


def age_out(s: PlainState, slots: list[Slot], window_ms: int) -> None:
    """Moves what has left the window into the minimum outside of it. An elapsed time that went back wraps to huge."""
    gone = 0
    while gone < s.candidates and not below(wrap(s.record_elapsed_ms - slots[gone].elapsed_ms), window_ms):
        if not outside_set(s) or below(slots[gone].remaining, s.outside_remaining):
            s.outside_remaining, s.outside_elapsed_ms = slots[gone].remaining, slots[gone].elapsed_ms
            s.outside_iteration = slots[gone].iteration
        gone += 1
    if gone > 0:
        s.candidates -= gone
        for i in range(s.candidates):
            slots[i].remaining, slots[i].elapsed_ms = slots[i + gone].remaining, slots[i + gone].elapsed_ms
            slots[i].iteration = slots[i + gone].iteration


def insert(s: PlainState, slots: list[Slot]) -> None:
    """Keeps the boundary if it may become the minimum: the candidates fall strictly."""
    if outside_set(s) and below(s.outside_remaining, s.record_remaining):
        return
    last = s.candidates
    if last > 0 and not below(s.record_remaining, slots[last - 1].remaining):
        return
    slots[last].remaining, slots[last].elapsed_ms = s.record_remaining, s.record_elapsed_ms
    slots[last].iteration = s.record_iteration
    s.candidates += 1


def relax(s: PlainState, slots: list[Slot], decay: float) -> None:
    """After a patience window the best that was waited for becomes the smallest remaining seen since, and that is used
    up; patience shrinks."""
    slots[s.history].history = s.record_remaining
    s.history += 1
    if below(s.record_elapsed_ms, s.relax_deadline_ms):
        return
    smallest = 0
    for i in range(1, s.history):
        if below(slots[i].history, slots[smallest].history):
            smallest = i
    s.best = slots[smallest].history
    s.history -= 1
    slots[smallest].history = slots[s.history].history
    s.patience_ms = float_to_unsigned(unsigned_to_float(s.patience_ms) * decay)
    s.relax_deadline_ms = wrap(s.record_elapsed_ms + s.patience_ms)


def decide(s: PlainState, options: Options, elapsed_s: int, estimate: int) -> tuple[int, int, int]:
    """What to do about a stall: (action, argument, reason). Without a completion deadline: nothing, ever."""
    target = float_to_unsigned(unsigned_to_float(s.best) * (1 + options.margin))
    if options.search_minima and below(target, s.record_remaining):
        return NOTHING
    if s.ewma_bps == 0 or not completable(s.acceptable_s, options.completion_factor, elapsed_s, estimate):
        return NOTHING
    if options.allow_workload_disruption and options.allow_post_copy and not options.has_vfio:
        return START_POST_COPY, NONE, STALL_POST_COPY
    if options.allow_workload_disruption:
        return SET_MAX_DOWNTIME, QEMU_LARGEST_DOWNTIME_MS, STALL_HARD
    limit_ms = unsigned_to_float(options.max_downtime_ms)
    if estimate <= limit_ms or estimate <= limit_ms * options.precopy_factor:
        return SET_MAX_DOWNTIME, options.max_downtime_ms, STALL_SOFT
    return CANCEL, NONE, STALL_ABORT


def completable(acceptable_s: int, factor: float, elapsed_s: int, estimate: int) -> bool:
    """Whether what remains can be sent before the (extended) completion deadline."""
    deadline_s = float_to_signed(float(acceptable_s) * factor)
    return estimate <= wrap(wrap(deadline_s - elapsed_s) * 1000)


def overdue(s: PlainState, options: Options, elapsed_s: int) -> tuple[int, int]:
    """What to do about the completion deadline: (action, reason)."""
    deadline_s = s.acceptable_s if s.mode == PAUSED else s.switch_deadline_s
    if s.acceptable_s == 0 or elapsed_s <= deadline_s or s.mode == POST_COPY:
        return NONE, NONE
    if s.ewma_bps == 0:
        return CANCEL, NO_BANDWIDTH
    if s.switched:
        return CANCEL, TIMEOUT
    estimate = estimate_ms(s.record_remaining, s.ewma_bps)
    in_time = completable(s.acceptable_s, options.completion_factor, elapsed_s, estimate)
    if options.allow_post_copy and not options.has_vfio and in_time:
        return START_POST_COPY, TIMEOUT
    if options.allow_workload_disruption and in_time:
        return SET_MAX_DOWNTIME, TIMEOUT
    return CANCEL, (TIMEOUT if in_time else NOT_COMPLETABLE)
