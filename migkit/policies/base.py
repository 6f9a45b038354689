"""What a decision rule reads, keeps and returns. Pure: nothing here knows of traces, libvirt or clocks.

A rule is a function `advance(state, slots, options, wakes, i0, i1) -> (row, action, argument, reason)`. It walks the
wake-ups i0..i1. At an action it stops and returns; the driver performs the call, writes its outcome to
`state.succeeded` and calls again with the same row: the rule goes on behind the call, by the resume point in its
state. It returns (i1, NONE, 0, 0) when every wake-up is dealt with.

The same source runs in two forms: plainly, over `PlainState` and lists; or compiled by numba, over NumPy records and
arrays (`migkit.policies.compiled`). Unsigned 64-bit numbers are kept as the signed numbers of the same bits.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

# Actions. The first five are calls whose outcome the rule waits for; CANCEL asks for KubeVirt's asynchronous abort.
NONE: Final = 0
START_POST_COPY: Final = 1
SUSPEND: Final = 2
SET_MAX_DOWNTIME: Final = 3
ABORT: Final = 4
CANCEL: Final = 5
FINISH: Final = 6
# What a rule returns when nothing is to be done: action, argument, reason.
NOTHING: Final = (NONE, 0, 0)
ACTION_NAMES: Final = ("", "start_post_copy", "suspend", "set_max_downtime", "abort", "abort", "finish")

# Why: the rule that fired.
STUCK: Final = 1
TIMEOUT: Final = 2
MIGRATE_ERROR: Final = 3
JOB_COMPLETED: Final = 4
JOB_FAILED: Final = 5
JOB_CANCELLED: Final = 6
TUNING: Final = 7
STALL_INITIAL: Final = 8
STALL_POST_COPY: Final = 9
STALL_HARD: Final = 10
STALL_SOFT: Final = 11
STALL_ABORT: Final = 12
NO_BANDWIDTH: Final = 13
NOT_COMPLETABLE: Final = 14
REASON_NAMES: Final = (
    "", "stuck", "timeout", "migrate-error", "job-completed", "job-failed", "job-cancelled", "downtime-tuning",
    "initial-downtime", "stall-post-copy", "stall-hard-stop", "stall-soft-stop", "stall-abort", "no-bandwidth-known",
    "not-completable",
)  # fmt: skip

# Modes of the migration as the monitor sees it, and its abort status.
PRE_COPY: Final = 0
POST_COPY: Final = 1
PAUSED: Final = 2
MODE_NAMES: Final = ("PreCopy", "PostCopy", "Paused")
NOT_ABORTED: Final = 0
ABORTING: Final = 1
ABORTED: Final = 2
ABORT_FAILED: Final = 3
ABORT_NAMES: Final = ("", "Aborting", "Succeeded", "Failed")

# virDomainJobType, and what a wake-up saw of the domain's state.
JOB_TYPE_NONE: Final = 0
JOB_TYPE_ACTIVE: Final = 2
JOB_TYPE_COMPLETED: Final = 3
JOB_TYPE_FAILED: Final = 4
JOB_TYPE_CANCELLED: Final = 5
DOMAIN_UNKNOWN: Final = 0
DOMAIN_RUNNING: Final = 1
DOMAIN_PAUSED_FOR_MIGRATION: Final = 2
DOMAIN_OTHER: Final = 3

NEVER: Final = -(2**63)
NS_PER_S: Final = 1_000_000_000
QEMU_DEFAULT_DOWNTIME_MS: Final = 300
QEMU_LARGEST_DOWNTIME_MS: Final = 2_000_000


class Wakes(NamedTuple):
    """The wake-ups of a monitor as columns of equal length; a `*_set` column says whether the value was there.

    t_ns: since the monitor's start. event: woken by an iteration event. stats: whether job stats could be read.
    domain: one of the DOMAIN_ codes. migrate_error: whether the migrate call has returned with an error by then.
    Bytes, ms and bytes/s as in a trace.
    """

    t_ns: Any
    event: Any
    stats: Any
    job_type: Any
    remaining: Any
    remaining_set: Any
    elapsed_ms: Any
    elapsed_set: Any
    iteration: Any
    iteration_set: Any
    bps: Any
    bps_set: Any
    domain: Any
    migrate_error: Any


class Options(NamedTuple):
    """A rule's options in the form it computes with. The first two are the version's, not the user's."""

    ends_with_job: bool
    disruption_gate: bool
    progress_timeout_s: int
    acceptable_s: int
    allow_post_copy: bool
    allow_workload_disruption: bool
    has_vfio: bool
    max_downtime_ms: int
    tuning: bool
    tuning_initial_ms: int
    tuning_steps: int
    tuning_start_after: int
    tuning_cooldown_ns: int
    stall: bool
    margin: float
    window_ms: int
    switchover_s: int
    alpha: float
    precopy_factor: float
    decay: float
    completion_factor: float
    search_minima: bool


@dataclass(slots=True)
class Slot:
    """Room for what grows; a rule gets a list of them, at least as long as there are iteration events. The first three
    fields hold the window's minima, `history` what remained at the boundaries after a stall was found. How many slots
    are in use for either stands in the state (`candidates`, `history`)."""

    remaining: int = 0
    elapsed_ms: int = 0
    iteration: int = 0
    history: int = 0


@dataclass(slots=True)
class PlainState:
    """What a rule remembers, in the plain form. Every field is a 64-bit integer but the smoothed bandwidth.

    `resume` and `succeeded` carry a call; `pending` is its argument or kind, `pending_reason` why it was made.
    Bytes, ms, s and ns as the names say; `outside_*` is the least record that has left the stall window, `record_*`
    the record of the last iteration boundary; `candidates` and `history` tell how many slots are in use.
    """

    resume: int = 0
    succeeded: int = 0
    finished: bool | int = False
    pending: int = 0
    pending_reason: int = 0
    mode: int = PRE_COPY
    abort_status: int = NOT_ABORTED
    remaining: int = 0
    watermark: int = 0
    last_progress_ns: int = 0
    acceptable_s: int = 0
    sticky_type: int = 0
    error_stored: bool | int = False
    downtime_ms: int = 0
    last_tuned_ns: int = 0
    initial_set: bool | int = False
    record_remaining: int = 0
    record_elapsed_ms: int = 0
    record_iteration: int = 0
    switch_deadline_s: int = 0
    candidates: int = 0
    outside_remaining: int = 0
    outside_elapsed_ms: int = 0
    outside_iteration: int = 0
    stalled: bool | int = False
    best: int = 0
    history: int = 0
    relax_deadline_ms: int = 0
    patience_ms: int = 0
    switched: bool | int = False
    ewma_bps: float = 0.0


STATE_FIELDS: Final = tuple(field.name for field in dataclasses.fields(PlainState))
SLOT_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Slot))


def reset(state: Any, options: Options) -> None:
    """The state of a monitor that has just started."""
    for name in STATE_FIELDS:
        setattr(state, name, 0)
    state.ewma_bps = 0.0
    begin(state, options)


def begin(state: Any, options: Options) -> None:
    """What a state of zeros lacks for that."""
    state.acceptable_s = options.acceptable_s
    state.switch_deadline_s = options.acceptable_s
    state.last_tuned_ns = NEVER
