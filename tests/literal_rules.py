"""A literal reading of the migration monitor's decision rules, one wake-up at a time.

This module is deliberately kept apart from the package: it imports nothing from it and shares no code with it, so
that both can be held against each other. Speed does not matter here. Every method follows one numbered paragraph of
the rules, in the order in which the rules are written, and says which one.

The families of monitors told apart by the rules:

* P: v0.59 to v1.4, the post-copy era;
* Q5: v1.5, and Q6: v1.6 to v1.8, which can pause the guest ("workload disruption");
* L9 and LH: v1.9 and the main branch without stall detection (LH can also tune the downtime limit);
* S9 and SH: v1.9 and the main branch with stall detection.

``decide(case)`` replays the wake-ups of one case and returns the libvirt calls, how the replay ended, and the state at
the end. ``python -m tests.literal_rules FILE`` does so for a file of recorded cases and compares.
"""

from __future__ import annotations

import gzip
import heapq
import json
import lzma
import math
import sys
from decimal import Decimal
from pathlib import Path

NS_PER_SECOND = 10**9
NS_PER_MS = 10**6

# Job types. Only an unbounded job is a running one.
NONE, BOUNDED, UNBOUNDED, COMPLETED, FAILED, CANCELLED = range(6)

QEMU_MAX_DOWNTIME_MS = 2_000_000
QEMU_DEFAULT_DOWNTIME_MS = 300
MAX_ESTIMATE_MS = 4294967295

PRE_COPY, POST_COPY, PAUSED = "PreCopy", "PostCopy", "Paused"
NOT_ABORTED, ABORTING, ABORT_SUCCEEDED, ABORT_FAILED = "", "Aborting", "Succeeded", "Failed"

LISTED_CALLS = ("MigrateStartPostCopy", "MigrateSetMaxDowntime", "Suspend", "AbortJob")
FINAL_KEYS = (
    "mode",
    "abort_status",
    "ended",
    "failed",
    "acceptable_completion_time",
    "last_progress_update_ms",
    "progress_watermark",
    "remaining_data",
)


# --- Section 1: integers and floats ---------------------------------------------------------------------------------


def u64(value: int) -> int:
    """An unsigned 64-bit integer: wraps."""
    return value % 2**64


def i64(value: int) -> int:
    """A signed 64-bit integer: wraps."""
    value = value % 2**64
    return value - 2**64 if value >= 2**63 else value


def float_to_u64(value: float) -> int:
    """uint64(float) on amd64: exact below 2**64; 2**63 from there on and for NaN and Inf."""
    if math.isnan(value) or math.isinf(value) or value >= 2.0**64 or value < -(2.0**63):
        return 2**63
    return int(value) % 2**64


def float_to_i64(value: float) -> int:
    """int64(float) on amd64: truncated; -2**63 for everything out of range."""
    if math.isnan(value) or math.isinf(value) or value >= 2.0**63 or value < -(2.0**63):
        return -(2**63)
    return int(value)


def float_to_u32(value: float) -> int:
    """uint32(float) on amd64: the low half of the signed conversion."""
    return float_to_i64(value) % 2**32


def float_divide(a: float, b: float) -> float:
    """Division of floats that yields Inf or NaN where Python would raise."""
    if b != 0.0:
        return a / b
    if a == 0.0 or math.isnan(a):
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def whole_seconds(ns: int) -> int:
    """Nanoseconds to seconds, truncated toward zero."""
    return ns // NS_PER_SECOND if ns >= 0 else -(-ns // NS_PER_SECOND)


# --- The two sides the monitor talks to -----------------------------------------------------------------------------


class Libvirt:
    """Counts the calls per name and fails those the case wants to fail."""

    def __init__(self, failures: dict):
        self.failures = failures
        self.made = dict.fromkeys([*LISTED_CALLS, "GetJobInfo", "DomainEventMigrationIterationRegister"], 0)
        self.calls: list[list] = []
        self.tick = 0

    def call(self, name: str, argument: int | None = None) -> bool:
        self.made[name] += 1
        failing = self.failures.get(name) or []
        ok = not (0 in failing or self.made[name] in failing)
        if name in LISTED_CALLS:
            self.calls.append([self.tick, name, argument, ok])
        return ok


class Metadata:
    """What is stored about the migration: the abort status and the result (section 7)."""

    def __init__(self, family: str):
        self.family = family
        self.abort_status = NOT_ABORTED
        self.ended = False
        self.failed = False

    def result(self, failed: bool, abort_status: str) -> None:
        if self.family in ("P", "Q5"):
            # Written before the result if there is one; a pending "Aborting" never blocks.
            if abort_status != NOT_ABORTED:
                self.abort_status = abort_status
            self.ended = True
            self.failed = failed
            return
        if self.family == "Q6":
            if self.ended:
                return
            if self.abort_status == ABORTING and abort_status == NOT_ABORTED:
                return
            self.abort_status = abort_status
            if abort_status == ABORT_FAILED:
                return
            self.ended = True
            self.failed = failed
            return
        # v1.9 and later: the first result wins and the abort status stays as it is.
        if self.ended:
            return
        self.ended = True
        self.failed = failed


def job_type_for_job_info(tick: dict) -> int:
    return tick["stats"]["type"] if tick["stats"] is not None else UNBOUNDED


class Monitor:
    """What all families have in common: options, deadline and progress."""

    def __init__(self, family: str, case: dict, libvirt: Libvirt):
        options = case["options"]
        self.family = family
        self.libvirt = libvirt
        self.metadata = Metadata(family)
        self.progress_timeout = options["progress_timeout"]
        self.max_downtime_ms = u64(options["max_downtime_ms"])
        self.allow_post_copy = options["allow_post_copy"]
        self.allow_workload_disruption = options["allow_workload_disruption"]
        self.has_vfio = case["vm"]["has_vfio"]
        # Section 2; the size arrives already rounded up.
        self.acceptable = i64(options["completion_timeout_per_gib"] * case["vm"]["data_size_gb"])
        self.mode = PRE_COPY
        self.start = 0
        self.now = 0
        self.last_progress = self.start
        self.remaining = 0
        self.watermark = 0

    def elapsed_seconds(self) -> int:
        return whole_seconds(self.now - self.start)

    def update_progress(self) -> None:
        """The watermark rule of 3.1: it is the last value seen, not the smallest."""
        if self.watermark == 0 or self.remaining < self.watermark:
            self.last_progress = self.now
        self.watermark = self.remaining

    def is_stuck(self) -> bool:
        return self.progress_timeout != 0 and whole_seconds(self.now - self.last_progress) > self.progress_timeout

    def is_timed_out(self) -> bool:
        return self.acceptable != 0 and self.elapsed_seconds() > self.acceptable

    def start_post_copy(self) -> bool:
        ok = self.libvirt.call("MigrateStartPostCopy")
        if ok:
            self.mode = POST_COPY
        return ok

    def set_max_downtime(self, ms: int) -> bool:
        return self.libvirt.call("MigrateSetMaxDowntime", ms)

    def final(self) -> dict:
        return {
            "mode": self.mode,
            "abort_status": self.metadata.abort_status,
            "ended": self.metadata.ended,
            "failed": self.metadata.failed,
            "acceptable_completion_time": self.acceptable,
            "last_progress_update_ms": (self.last_progress - self.start) // NS_PER_MS,
            "progress_watermark": self.watermark,
            "remaining_data": self.remaining,
        }


# --- Section 3: v0.59 to v1.8 ---------------------------------------------------------------------------------------


class LoopUntil18(Monitor):
    """The loop of families P, Q5 and Q6."""

    def __init__(self, family: str, case: dict, libvirt: Libvirt):
        super().__init__(family, case, libvirt)
        self.stored_error: str | None = None
        self.sticky_type: int | None = None

    def handles_event_wakes(self) -> bool:
        return False

    def wake(self, tick: dict) -> bool:
        """One wake-up; true when the monitor returns."""
        # 1. The error is stored at one wake and reported at the next.
        if self.stored_error is not None:
            self.metadata.result(True, self.abort_status_for_error(self.stored_error))
            return True
        if tick.get("migration_err") is not None:
            self.stored_error = tick["migration_err"]
        # 2. Sticky information comes before statistics; an error skips the wake.
        stats = tick["stats"]
        if self.sticky_type is not None:
            stats = {"type": self.sticky_type, "data_remaining": 0, "data_remaining_set": False}
        if stats is None:
            return False
        # 3. For any type.
        if stats["data_remaining_set"]:
            self.remaining = u64(stats["data_remaining"])
        # 4. By type.
        if stats["type"] == UNBOUNDED:
            return self.in_flight()
        if stats["type"] == NONE:
            self.no_job(tick)
            return False
        if stats["type"] == CANCELLED:
            self.metadata.result(True, ABORT_SUCCEEDED)
            return True
        if self.family in ("P", "Q5") and stats["type"] == COMPLETED:
            self.metadata.result(False, NOT_ABORTED)
            return True
        if self.family in ("P", "Q5") and stats["type"] == FAILED:
            self.metadata.result(True, NOT_ABORTED)
            return True
        return False

    def abort_status_for_error(self, error: str) -> str:
        """Section 7."""
        return ABORT_SUCCEEDED if "canceled by client" in error else NOT_ABORTED

    def in_flight(self) -> bool:
        """Section 3.1."""
        self.update_progress()
        # Rule 1.
        if self.mode == POST_COPY:
            return False
        # Rule 2.
        if self.family == "P":
            if self.is_timed_out() and self.allow_post_copy:
                self.start_post_copy()
                return False
        elif self.allow_workload_disruption and self.is_timed_out() and self.mode != PAUSED:
            if self.allow_post_copy:
                self.start_post_copy()
            elif self.libvirt.call("Suspend"):
                self.acceptable = i64(self.acceptable * 2)
                self.mode = PAUSED
            return False
        # Rules 3 and 4: the same call and the same stored outcome; only the texts differ.
        if self.is_stuck():
            return self.abort_inline()
        if self.is_timed_out():
            return self.abort_inline()
        return False

    def abort_inline(self) -> bool:
        if not self.libvirt.call("AbortJob"):
            return False
        self.metadata.result(True, ABORT_SUCCEEDED)
        return True

    def no_job(self, tick: dict) -> None:
        """Section 3.2."""
        if not self.last_progress > self.start:
            return
        if self.metadata.abort_status == ABORTING:
            self.sticky_type = CANCELLED
            return
        if tick.get("dom_state_error"):
            return
        running = not tick["dom_state_paused_migration"]
        if running:
            self.sticky_type = FAILED

    def user_cancel(self, tick: dict) -> None:
        """Section 3.3."""
        if self.metadata.abort_status == ABORTING or self.metadata.ended:
            return
        self.metadata.abort_status = ABORTING
        if not self.libvirt.call("GetJobInfo"):
            return
        if job_type_for_job_info(tick) != UNBOUNDED:
            return
        ok = self.libvirt.call("AbortJob")
        if not ok and self.family in ("Q5", "Q6"):
            self.metadata.abort_status = ABORT_FAILED
        if ok and self.family == "Q6":
            self.metadata.result(True, ABORT_SUCCEEDED)

    def after_wake(self, tick: dict) -> None:
        """Nothing here is asynchronous."""


# --- Section 4: v1.9 and later --------------------------------------------------------------------------------------


class LoopSince19(Monitor):
    """The loop of families L9, LH, S9 and SH."""

    def __init__(self, family: str, case: dict, libvirt: Libvirt):
        super().__init__(family, case, libvirt)
        options = case["options"]
        self.cancel_pending = False
        self.tuning: DowntimeTuning | None = None
        self.stall: StallDetection | None = None
        stall_options = options.get("stall")
        # Without the iteration events the monitor goes back to the legacy rules.
        if stall_options is not None and libvirt.call("DomainEventMigrationIterationRegister"):
            self.stall = StallDetection(self, stall_options)
        if family == "LH" and options.get("downtime_tuning") is not None:
            self.tuning = DowntimeTuning(self, options["downtime_tuning"])

    def handles_event_wakes(self) -> bool:
        return self.stall is not None

    def wake(self, tick: dict) -> bool:
        # The wake on which the error arrives is not processed (section 7).
        if tick.get("migration_err") is not None:
            self.metadata.result(True, NOT_ABORTED)
            return True
        # No statistics: go on without.
        stats = tick["stats"]
        if stats is not None and stats["type"] == UNBOUNDED:
            if stats["data_remaining_set"]:
                self.remaining = u64(stats["data_remaining"])
            self.update_progress()
        if self.stall is not None:
            self.stall.wake(tick, stats)
            return False
        if self.tuning is not None:
            self.tuning.tune(stats)
        self.legacy_convergence()
        return False

    def legacy_convergence(self) -> None:
        """Section 4.1."""
        # Rule 1.
        if self.mode == POST_COPY:
            return
        # Rule 2: does not look at the abort status.
        if self.allow_workload_disruption and self.is_timed_out() and self.mode != PAUSED:
            if self.allow_post_copy and not self.has_vfio:
                self.start_post_copy()
                return
            doubled = i64(2 * self.acceptable)
            if self.has_vfio:
                ok = self.set_max_downtime(min(u64(u64(doubled) * 1000), QEMU_MAX_DOWNTIME_MS))
            else:
                ok = self.libvirt.call("Suspend")
            if ok:
                self.acceptable = doubled
                self.mode = PAUSED
            return
        # Rule 3.
        if self.is_stuck():
            if not self.abort_in_progress():
                self.cancel()
            return
        # Rule 4.
        if self.is_timed_out() and not self.abort_in_progress():
            self.cancel()

    # Section 4.3.

    def abort_in_progress(self) -> bool:
        return self.metadata.abort_status not in (NOT_ABORTED, ABORT_FAILED)

    def cancel(self) -> None:
        if self.metadata.ended or self.metadata.failed:
            return
        if self.metadata.abort_status in (ABORTING, ABORT_SUCCEEDED):
            return
        self.metadata.abort_status = ABORTING
        self.cancel_pending = True

    def run_cancel_task(self, tick: dict) -> None:
        if not self.cancel_pending:
            return
        self.cancel_pending = False
        if not self.libvirt.call("GetJobInfo"):
            self.metadata.abort_status = ABORT_FAILED
            return
        if job_type_for_job_info(tick) != UNBOUNDED:
            self.metadata.abort_status = ABORT_FAILED
            return
        ok = self.libvirt.call("AbortJob")
        self.metadata.abort_status = ABORT_SUCCEEDED if ok else ABORT_FAILED

    def user_cancel(self, tick: dict) -> None:
        self.cancel()
        self.run_cancel_task(tick)

    def after_wake(self, tick: dict) -> None:
        self.run_cancel_task(tick)


class DowntimeTuning:
    """Section 4.2."""

    def __init__(self, monitor: LoopSince19, options: dict):
        self.monitor = monitor
        self.max = monitor.max_downtime_ms
        self.initial = 150
        self.steps = 7
        self.start_after = 3
        self.cooldown_s = 10
        initial, start_after = options.get("initial_ms"), options.get("start_after_iteration")
        steps, cooldown_s = options.get("steps"), options.get("cooldown_seconds")
        if initial is not None and initial >= 0:
            self.initial = initial
        if start_after is not None and start_after >= 0:
            self.start_after = start_after
        if steps is not None:
            self.steps = max(steps, 1)
        if cooldown_s is not None:
            self.cooldown_s = max(cooldown_s, 1)
        self.initial = min(self.initial, self.max)
        self.current = 0
        self.last_tuned: int | None = None

    def tune(self, stats: dict | None) -> None:
        if self.current == 0:
            self.current = QEMU_DEFAULT_DOWNTIME_MS
            target = self.initial
        else:
            if stats is None or not stats["mem_iteration_set"]:
                return
            if stats["mem_iteration"] < self.start_after:
                return
            if self.last_tuned is not None and self.monitor.now - self.last_tuned < self.cooldown_s * NS_PER_SECOND:
                return
            step = max(u64(self.max - self.initial) // self.steps, 1)
            target = min(u64(self.current + step), self.max)
            if target <= self.current:
                return
        if not self.monitor.set_max_downtime(target):
            return
        self.current = target
        self.last_tuned = self.monitor.now


# --- Section 5: stall detection -------------------------------------------------------------------------------------


class Record:
    """An iteration record: unsigned 64-bit fields."""

    def __init__(self, remaining: int = 0, elapsed_ms: int = 0, iteration: int = 0):
        self.remaining = u64(remaining)
        self.elapsed_ms = u64(elapsed_ms)
        self.iteration = u64(iteration)

    def is_unset(self) -> bool:
        """A genuine record of three zeros cannot be told from none."""
        return self.remaining == 0 and self.elapsed_ms == 0 and self.iteration == 0


def quantity_as_float(text: str) -> float:
    """A factor of the main branch: made canonical (0.7 becomes 700 thousandths), then multiplied out in floats."""
    value = Decimal(text)
    if value == 0:
        return 0.0
    exponent = 18
    while value.scaleb(-exponent) != int(value.scaleb(-exponent)):
        exponent -= 3
    mantissa = float(int(value.scaleb(-exponent)))
    return mantissa if exponent == 0 else mantissa * float(f"1e{exponent}")


class StallDetection:
    """The stall rules of families S9 and SH, detector and monitor part together."""

    def __init__(self, monitor: LoopSince19, options: dict):
        knob = float if monitor.family == "L9" else quantity_as_float
        self.monitor = monitor
        self.margin = float(options["stall_margin"]) / 100
        self.window_s = options["stall_progress_timeout"]
        self.switchover_s = options["switchover_timeout"]
        self.alpha = knob(options["ewma_alpha"])
        self.precopy_factor = knob(options["precopy_possible_factor"])
        self.decay = knob(options["patience_window_decay_factor"])
        self.factor = knob(options["completion_timeout_factor"])
        self.minima = options["search_local_minima"]
        self.init_set = False
        self.candidates: list[Record] = []
        self.outside = Record()
        self.stalled = False
        self.best = 0
        self.history: list[int] = []
        self.relax_deadline_ms = 0
        self.relax_patience_ms = 0
        self.ewma = 0.0
        self.switched = False
        self.record = Record()
        self.switch_deadline = monitor.acceptable

    def wake(self, tick: dict, stats: dict | None) -> None:
        monitor = self.monitor
        # 1. The initial cap.
        if not self.init_set and monitor.set_max_downtime(min(monitor.max_downtime_ms, QEMU_DEFAULT_DOWNTIME_MS)):
            self.init_set = True
        # 2. Reconcile the mode with the domain.
        if not tick.get("dom_state_error") and tick["dom_state_paused_migration"] and monitor.mode == PRE_COPY:
            monitor.mode = PAUSED
        # 3.
        if monitor.abort_in_progress():
            return
        # 4.
        if self.is_usable(stats):
            assert stats is not None
            seen = Record(stats["data_remaining"], stats["time_elapsed"], stats["mem_iteration"])
            if tick["source"] == "event":
                self.record = seen
                if self.process(self.record):
                    action = self.decide(self.record, self.estimate(self.record))
                    self.trigger(action)
            elif monitor.mode in (PAUSED, POST_COPY):
                self.record = seen
            elif stats["mem_bps_set"]:
                self.update_ewma(float(u64(stats["mem_bps"])))
        # 5.
        self.completion_timeouts(self.estimate(self.record))

    def is_usable(self, stats: dict | None) -> bool:
        return (
            stats is not None
            and stats["type"] == UNBOUNDED
            and stats["data_remaining_set"]
            and stats["time_elapsed_set"]
            and stats["mem_iteration_set"]
        )

    def update_ewma(self, bps: float) -> None:
        if self.ewma == 0:
            self.ewma = bps
        else:
            self.ewma = self.alpha * bps + (1 - self.alpha) * self.ewma

    def estimate(self, record: Record) -> int:
        if self.ewma == 0:
            return 0
        ms = float_divide(float(record.remaining), self.ewma / 1000)
        if ms > float(MAX_ESTIMATE_MS):
            return MAX_ESTIMATE_MS
        return float_to_u32(ms)

    def process(self, r: Record) -> bool:
        if self.ewma == 0 or self.switched:
            return False
        self.age_out(r)
        self.insert(r)
        if self.stalled:
            self.relax(r)
            return True
        if self.outside.is_unset():
            return False
        threshold = float_to_u64(float(self.outside.remaining) * (1 - self.margin))
        if r.remaining >= threshold:
            self.best = min([self.outside.remaining] + [c.remaining for c in self.candidates])
            self.history = []
            self.relax_patience_ms = self.window_ms()
            self.relax_deadline_ms = u64(r.elapsed_ms + self.relax_patience_ms)
            self.stalled = True
            return True
        return False

    def window_ms(self) -> int:
        return u64(u64(self.window_s) * 1000)

    def age_out(self, r: Record) -> None:
        while self.candidates:
            first = self.candidates[0]
            age = u64(r.elapsed_ms - first.elapsed_ms)
            if age < self.window_ms():
                break
            self.candidates.pop(0)
            if self.outside.is_unset() or first.remaining < self.outside.remaining:
                self.outside = first

    def insert(self, r: Record) -> None:
        if not self.outside.is_unset() and r.remaining > self.outside.remaining:
            return
        if self.candidates and r.remaining >= self.candidates[-1].remaining:
            return
        self.candidates.append(r)

    def relax(self, r: Record) -> None:
        heapq.heappush(self.history, r.remaining)
        if r.elapsed_ms < self.relax_deadline_ms:
            return
        self.best = heapq.heappop(self.history)
        self.relax_patience_ms = float_to_u64(float(self.relax_patience_ms) * self.decay)
        self.relax_deadline_ms = u64(r.elapsed_ms + self.relax_patience_ms)

    def is_completable(self, estimate_ms: int) -> bool:
        """No exception for a switched-off completion timeout: its deadline is 0, which nothing meets after 1 s."""
        deadline = float_to_i64(float(self.monitor.acceptable) * self.factor)
        return estimate_ms <= i64(i64(deadline - self.monitor.elapsed_seconds()) * 1000)

    def decide(self, r: Record, estimate_ms: int) -> str:
        monitor = self.monitor
        if self.switched:
            return "nothing"
        target = float_to_u64(float(self.best) * (1 + self.margin))
        if self.minima and r.remaining > target:
            return "nothing"
        if self.ewma == 0 or not self.is_completable(estimate_ms):
            return "nothing"
        if monitor.allow_workload_disruption and monitor.allow_post_copy and not monitor.has_vfio:
            return "post-copy"
        if monitor.allow_workload_disruption:
            return "hard stop"
        if float(estimate_ms) <= float(monitor.max_downtime_ms):
            return "soft stop"
        if float(estimate_ms) <= float(monitor.max_downtime_ms) * self.precopy_factor:
            return "soft stop"
        return "abort"

    def trigger(self, action: str) -> None:
        self.switched = True
        if action == "nothing":
            self.switched = False
        elif action == "abort":
            self.monitor.cancel()
        elif action == "post-copy":
            if not self.monitor.start_post_copy():
                self.switched = False
        else:
            limit = QEMU_MAX_DOWNTIME_MS if action == "hard stop" else self.monitor.max_downtime_ms
            if self.monitor.set_max_downtime(limit):
                self.extend_switch_deadline()
            else:
                self.switched = False

    def extend_switch_deadline(self) -> None:
        self.switch_deadline = i64(self.monitor.elapsed_seconds() + self.switchover_s)

    def completion_timeouts(self, estimate_ms: int) -> None:
        monitor = self.monitor
        deadline = monitor.acceptable if monitor.mode == PAUSED else self.switch_deadline
        due = monitor.acceptable != 0 and monitor.elapsed_seconds() > deadline
        if not due or monitor.mode == POST_COPY:
            return
        if self.ewma == 0:
            monitor.cancel()
            return
        if not self.switched:
            completable = self.is_completable(estimate_ms)
            if monitor.allow_post_copy and not monitor.has_vfio and completable:
                if monitor.start_post_copy():
                    self.switched = True
                return
            if monitor.allow_workload_disruption and completable:
                if monitor.set_max_downtime(QEMU_MAX_DOWNTIME_MS):
                    monitor.acceptable = float_to_i64(float(monitor.acceptable) * self.factor)
                    self.extend_switch_deadline()
                    self.switched = True
                return
        monitor.cancel()


# --- Replaying cases ------------------------------------------------------------------------------------------------


def family_of(variant: str) -> str:
    version = variant.split("-")[0]
    if version in ("head", "main"):
        return "LH"
    major, minor = (int(part) for part in version.removeprefix("v").split(".")[:2])
    if (major, minor) <= (1, 4):
        return "P"
    if (major, minor) == (1, 5):
        return "Q5"
    if (major, minor) <= (1, 8):
        return "Q6"
    return "L9"


def decide(case: dict) -> dict:
    """The libvirt calls of one case, how it ended and the state at the end.

    With stall options L9 stands for S9 and LH for SH: those differ from them by the options alone.
    """
    family = family_of(case["variant"])
    libvirt = Libvirt(case["scripted_call_failures"])
    loop = LoopUntil18 if family in ("P", "Q5", "Q6") else LoopSince19
    monitor = loop(family, case, libvirt)
    exit_kind, exit_tick = "trace_end", len(case["ticks"]) - 1
    for number, tick in enumerate(case["ticks"]):
        libvirt.tick = number
        monitor.now = monitor.start + tick["t_ms"] * NS_PER_MS
        if tick.get("external_cancel"):
            monitor.user_cancel(tick)
        if tick["source"] == "event" and not monitor.handles_event_wakes():
            continue
        if monitor.wake(tick):
            exit_kind, exit_tick = "monitor_returned", number
            break
        monitor.after_wake(tick)
    return {"calls": libvirt.calls, "exit": exit_kind, "exit_tick": exit_tick, "final": monitor.final()}


def comparable(expected: dict) -> dict:
    """The part of a recorded case's expectations that ``decide`` answers."""
    actions = [action for action in expected["actions"] if action["kind"] in LISTED_CALLS]
    return {
        "calls": [[action["tick"], action["kind"], action.get("arg"), action["ok"]] for action in actions],
        "exit": expected["exit"],
        "exit_tick": expected["exit_tick"],
        "final": {key: expected["final"][key] for key in FINAL_KEYS},
    }


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m tests.literal_rules FILE.jsonl[.gz|.xz]", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    openers = {".gz": gzip.open, ".xz": lzma.open}
    cases = mismatches = 0
    with openers.get(path.suffix, open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                continue
            case = json.loads(line)
            cases += 1
            wanted, got = comparable(case["expected"]), decide(case)
            if wanted == got:
                continue
            mismatches += 1
            if mismatches <= 5:
                for key in wanted:
                    if wanted[key] != got[key]:
                        print(f"{case.get('id', cases)}: {key}: expected {wanted[key]}, got {got[key]}")
    print(f"cases={cases} mismatches={mismatches}")
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
