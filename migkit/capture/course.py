"""The course of a made-up migration: a pure function of its plan and of what was done to it.

Simple on purpose (it exercises a recorder or a monitor; `migkit.precopy` is the model that is fitted to real guests):
memory drains at the bandwidth, the guest dirties at a steady rate up to its working set, an iteration ends when what
is left fits into the downtime limit.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from migkit.schema import JOB_CANCELLED, JOB_FAILED, JOB_NONE, JOB_UNBOUNDED, OPERATION_MIGRATION_OUT
from migkit.units import MIB

PAGE_BYTES: Final = 4096
HORIZON_MS: Final = 900_000
# How long a failed or cancelled job is still reported, all zeros.
AFTERMATH_MS: Final = 1500

Phase = Literal["none", "prepare", "precopy", "stopped", "postcopy", "left", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is migrated, and what befalls it by itself (`mishap` at `mishap_ms`)."""

    start_ms: int = 0
    prepare_ms: int = 600
    memory_bytes: int = 256 * MIB
    bandwidth_bps: int = 64 * MIB
    dirty_bps: int = 24 * MIB
    working_set_bytes: int = 128 * MIB
    downtime_limit_ms: int = 300
    postcopy_ms: int | None = None
    mishap: Literal["", "abort", "fail", "vanish", "postcopy-fail", "restart"] = ""
    mishap_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something done to the migration at a moment of its course."""

    at_ms: int
    name: str
    argument: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A stretch of the course in which everything changes linearly."""

    start_ms: int
    phase: Phase
    iteration: int = 0
    remaining_bytes: int = 0
    sent_bytes: int = 0
    dirtied_bytes: int = 0
    dirty_bps: int = 0
    reported_dirty_bps: int = 0
    limit_ms: int = 300
    expected_downtime_ms: int = 300
    job_type: int = JOB_UNBOUNDED
    suspended: bool = False


class Course:
    """All legs of a migration under a plan and the actions taken. Times in ms since the source was opened."""

    def __init__(self, plan: Plan, actions: Sequence[Action] = ()) -> None:
        self.plan = plan
        natural = [Action(at_ms=plan.start_ms + plan.mishap_ms, name=plan.mishap)] if plan.mishap else []
        if plan.postcopy_ms is not None:
            natural.append(Action(at_ms=plan.start_ms + plan.postcopy_ms, name="start_post_copy"))
        self._actions = sorted([*actions, *natural], key=lambda action: action.at_ms)
        self.legs = list(self._legs())
        self._starts = [leg.start_ms for leg in self.legs]

    def leg(self, at_ms: int) -> Leg:
        """The leg that holds at a moment."""
        return self.legs[bisect.bisect_right(self._starts, at_ms) - 1]

    def stats(self, at_ms: int) -> dict[str, Any]:
        """libvirt's job stats at a moment, by its keys."""
        leg = self.leg(at_ms)
        if leg.job_type == JOB_NONE:
            return {"type": JOB_NONE}
        if leg.job_type in (JOB_FAILED, JOB_CANCELLED):
            return {"type": leg.job_type, **_numbers(self.plan, None, 0)}
        elapsed_ms = at_ms - self.plan.start_ms
        if leg.phase == "prepare":
            return {"type": JOB_UNBOUNDED, **_numbers(self.plan, None, elapsed_ms)}
        return {"type": JOB_UNBOUNDED, **_numbers(self.plan, _at(self.plan, leg, at_ms), elapsed_ms)}

    def final_stats(self) -> dict[str, Any]:
        """What the job-completed event carries."""
        stop = next(leg for leg in self.legs if leg.phase in ("stopped", "postcopy"))
        left = self.legs[-1]
        numbers = _numbers(self.plan, left, left.start_ms - self.plan.start_ms)
        after = self.legs[self.legs.index(stop) + 1]
        downtime_ms = after.start_ms - stop.start_ms if stop.phase == "stopped" else 28
        return numbers | {"time_elapsed_net": numbers["time_elapsed"] - 2, "downtime": downtime_ms}

    def _legs(self) -> Iterator[Leg]:
        plan = self.plan
        yield Leg(start_ms=0, phase="none", job_type=JOB_NONE)
        leg = Leg(start_ms=plan.start_ms, phase="prepare", limit_ms=plan.downtime_limit_ms, dirty_bps=plan.dirty_bps)
        while True:
            yield leg
            if leg.phase in ("left", "broken") or leg.job_type != JOB_UNBOUNDED or leg.start_ms > HORIZON_MS:
                break
            leg = self._next(leg)
        if leg.job_type in (JOB_FAILED, JOB_CANCELLED):
            yield Leg(start_ms=leg.start_ms + AFTERMATH_MS, phase="none", job_type=JOB_NONE, suspended=leg.suspended)

    def _next(self, leg: Leg) -> Leg:
        natural = _boundary(self.plan, leg)
        due = next((a for a in self._actions if leg.start_ms < a.at_ms and a.at_ms <= natural.start_ms), None)
        if due is None:
            return natural
        return _acted(replace(_at(self.plan, leg, due.at_ms), start_ms=due.at_ms), due)


def _per_ms(rate_bps: int, duration_ms: int) -> int:
    return rate_bps * duration_ms // 1000


def _at(plan: Plan, leg: Leg, at_ms: int) -> Leg:
    """The leg's quantities at a moment of it."""
    lasted_ms = at_ms - leg.start_ms
    if leg.phase not in ("precopy", "stopped", "postcopy"):
        return leg
    sent = min(leg.remaining_bytes, _per_ms(plan.bandwidth_bps, lasted_ms))
    dirtied = min(plan.working_set_bytes, leg.dirtied_bytes + _per_ms(leg.dirty_bps, lasted_ms))
    return replace(
        leg, remaining_bytes=leg.remaining_bytes - sent, sent_bytes=leg.sent_bytes + sent, dirtied_bytes=dirtied
    )


def _boundary(plan: Plan, leg: Leg) -> Leg:
    """The next leg if nobody interferes."""
    if leg.phase == "prepare":
        start_ms = leg.start_ms + plan.prepare_ms
        return replace(leg, start_ms=start_ms, phase="precopy", iteration=1, remaining_bytes=plan.memory_bytes)
    if leg.phase == "precopy":
        room = _per_ms(plan.bandwidth_bps, leg.limit_ms)
        lasted_ms = max(1, -(-max(0, leg.remaining_bytes - room) * 1000 // plan.bandwidth_bps))
        return _synced(plan, _at(plan, leg, leg.start_ms + lasted_ms), leg, leg.start_ms + lasted_ms)
    lasted_ms = max(1, -(-leg.remaining_bytes * 1000 // plan.bandwidth_bps))
    end = _at(plan, leg, leg.start_ms + lasted_ms)
    return replace(end, start_ms=leg.start_ms + lasted_ms, phase="left", remaining_bytes=0)


def _synced(plan: Plan, end: Leg, leg: Leg, at_ms: int) -> Leg:
    """A bitmap sync: what was dirtied meanwhile is to be sent again; if it fits the limit, the guest is stopped."""
    remaining = end.remaining_bytes + end.dirtied_bytes
    room = _per_ms(plan.bandwidth_bps, leg.limit_ms)
    lasted_ms = at_ms - leg.start_ms
    rate = end.dirtied_bytes * 1000 // lasted_ms if lasted_ms >= 1000 else leg.reported_dirty_bps
    return replace(
        end, start_ms=at_ms, phase="stopped" if remaining <= room else "precopy", iteration=leg.iteration + 1,
        remaining_bytes=remaining, dirtied_bytes=0, reported_dirty_bps=rate,
        expected_downtime_ms=remaining * 1000 // plan.bandwidth_bps,
        dirty_bps=0 if remaining <= room else leg.dirty_bps,
    )  # fmt: skip


def _acted(leg: Leg, action: Action) -> Leg:
    match action.name:
        case "abort":
            return replace(leg, phase="none", job_type=JOB_CANCELLED)
        case "fail":
            return replace(leg, phase="none", job_type=JOB_FAILED)
        case "restart":
            return replace(leg, phase="none", job_type=JOB_NONE)
        case "vanish":
            return replace(leg, phase="left")
        case "postcopy-fail":
            return replace(leg, phase="broken")
        case "start_post_copy":
            left = leg.remaining_bytes + leg.dirtied_bytes
            return replace(leg, phase="postcopy", dirty_bps=0, remaining_bytes=left, dirtied_bytes=0)
        case "suspend":
            return replace(leg, dirty_bps=0, suspended=True)
        case "set_max_downtime":
            return replace(leg, limit_ms=action.argument)
    raise ValueError(action.name)


def _numbers(plan: Plan, leg: Leg | None, elapsed_ms: int) -> dict[str, Any]:
    """The typed parameters; all zeros but for the clock where there is no leg yet or any more."""
    known = leg or Leg(start_ms=0, phase="none", expected_downtime_ms=0)
    total = plan.memory_bytes if leg else 0
    pages = known.sent_bytes // PAGE_BYTES
    numbers = {
        "operation": OPERATION_MIGRATION_OUT,
        "time_elapsed": elapsed_ms,
        "downtime": known.expected_downtime_ms,
        "setup_time": 2 if leg else 0,
        "data_total": total,
        "data_processed": known.sent_bytes,
        "data_remaining": known.remaining_bytes,
        "memory_total": total,
        "memory_processed": known.sent_bytes,
        "memory_remaining": known.remaining_bytes,
        "memory_constant": 0,
        "memory_normal": pages,
        "memory_normal_bytes": pages * PAGE_BYTES,
        "memory_dirty_rate": known.reported_dirty_bps // PAGE_BYTES,
        "memory_iteration": known.iteration,
        "memory_postcopy_requests": 0,
        "memory_page_size": PAGE_BYTES if leg else 0,
        "disk_total": 0,
        "disk_processed": 0,
        "disk_remaining": 0,
    }
    # Absent until QEMU has measured it over its first window.
    return numbers | ({"memory_bps": plan.bandwidth_bps} if known.sent_bytes else {})
