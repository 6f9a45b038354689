"""What a trace can say of a policy: exactly, approximately, or not at all.

A monitor looks every 400 ms, and with stall detection at every iteration. A trace that was taken more seldom, or whose
numbers were rounded, may still answer exactly: a deadline needs nothing but the clock, and who never went long without
progress on the seconds did not do so on the tenths either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from migkit.errors import MigkitError
from migkit.meta import TraceMeta
from migkit.policies.size import data_size_gb as size_of
from migkit.policies.versions import Policy
from migkit.trace import Readable, Trace
from migkit.units import MIB, format_bytes, format_ms, format_s

Level = Literal["exact", "approximate", "no"]
# KubeVirt's monitor sleeps this long between two looks.
MONITOR_MS = 400
# Video memory and firmware of a guest hardly come to more.
_DEVICES_BYTES = 256 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether a trace can answer what a policy would have done. `why` is empty where it is exact."""

    level: Level
    why: str = ""


def answers(trace: Trace, policy: Policy, *, data_size_gb: int | None = None, has_vfio: bool | None = None) -> Answer:
    """What replaying `policy` over `trace` is worth; `data_size_gb` and `has_vfio`, where the caller tells the data
    size, or whether the guest has host devices, himself.

    Returns level "exact" (as good as a recording at the monitor's own pace), "approximate" (decisions may come at
    other times, or differ, because the trace is coarser than the rule) or "no" (the rule works by something that the
    trace does not hold), with the reason in words.

    >>> import migkit as mk
    >>> answers(mk.load("data/traces/stall_link.parquet"), mk.policy("kubevirt-1.9-stall")).level
    'exact'
    """
    if _own_wakes(trace, policy):
        return Answer(level="exact")
    found = _samples(trace, policy, size_known=data_size_gb is not None, vfio_known=has_vfio is not None)
    if not any(answer.level == "no" for answer in found):
        found += _deadline(trace, policy, trace_data_size(trace, policy) if data_size_gb is None else data_size_gb)
    return _worst(found)


def samples_answer(trace: Trace, policy: Policy, *, size_known: bool = False, vfio_known: bool = False) -> Answer:
    """As `answers`, by what stands in the samples alone: whether a deadline falls where nobody looked any more depends
    on each deadline (`unseen_deadlines`)."""
    if _own_wakes(trace, policy):
        return Answer(level="exact")
    return _worst(_samples(trace, policy, size_known=size_known, vfio_known=vfio_known))


def _own_wakes(trace: Trace, policy: Policy) -> bool:
    beside = trace.meta.rule is not None and ran_beside(trace.meta, policy)
    return beside and bool((trace.samples["source"] == "wake").any())


def _samples(trace: Trace, policy: Policy, *, size_known: bool, vfio_known: bool) -> list[Answer]:
    return [
        *(_begin(trace) if policy.options["completion_timeout_per_gib"] else []),
        *(_size(trace, policy) if not size_known else []),
        *(_devices(trace, policy) if not vfio_known else []),
        *(_stall(trace) if policy.hears_iterations else _polling(trace, policy)),
    ]


def _worst(found: list[Answer]) -> Answer:
    for level in ("no", "approximate"):
        reasons = [answer.why for answer in found if answer.level == level]
        if reasons:
            return Answer(level=level, why="; ".join(dict.fromkeys(reasons)))
    return Answer(level="exact")


def ran_beside(meta: TraceMeta, policy: Policy | None) -> bool:
    """Whether wakes that stand in the trace may be this policy's: they are where it ran beside the migration with the
    same options, and where nobody tells which rule did."""
    rule = meta.rule
    if rule is None:
        return True
    return policy is not None and rule.policy == policy.name and rule.options == dict(policy.options)


def interval_ms(trace: Readable) -> float:
    """How far apart the samples are: as the recorder said, else as they mostly lie."""
    if trace.meta.cadence.interval_ms is not None:
        return trace.meta.cadence.interval_ms
    times_s = trace.t_s[trace.active]
    return float(np.median(np.diff(times_s))) * 1000 if len(times_s) > 1 else 0.0


def rule_size_gb(meta: TraceMeta, policy: Policy) -> int | None:
    """The data size that this policy had when it ran beside the migration, in GB."""
    rule = meta.rule
    return rule.data_size_gb if rule is not None and rule.policy == policy.name else None


def _no(why: str) -> Answer:
    return Answer(level="no", why=why)


def _begin(trace: Trace) -> list[Answer]:
    """A deadline counts from the job's start; libvirt's clock tells when that was."""
    uncertain_ms = trace.meta.cadence.start_uncertain_ms
    if not uncertain_ms:
        return []
    return [Answer(level="approximate", why=f"when the migration began is known to {format_ms(uncertain_ms)} only")]


def _deadline(trace: Trace, policy: Policy, data_size_gb: int) -> list[Answer]:
    """A deadline that passed before the first sample, or between the last one and the end."""
    deadline_s = int(policy.options["completion_timeout_per_gib"]) * data_size_gb
    deadlines_s = [deadline_s, 2 * deadline_s] if policy.options.get("allow_workload_disruption") else [deadline_s]
    for place in np.flatnonzero(unseen_deadlines(trace, np.array(deadlines_s))):
        seen = _Seen(trace)
        what = f"the deadline of {format_s(deadlines_s[place])} passes"
        if deadlines_s[place] < seen.first_s:
            return [Answer(level="approximate", why=f"{what} before the first sample, at {format_s(seen.first_s)}")]
        end = (
            f"the end, at {format_s(seen.ended_by_s)} at the latest"
            if np.isfinite(seen.ended_by_s)
            else "an end of which no time is known"
        )
        return [
            Answer(level="approximate", why=f"{what} between the last sample, at {format_s(seen.last_s)}, and {end}")
        ]
    return []


def unseen_deadlines(trace: Readable, deadlines_s: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether deadlines (seconds since the job began, 0 for none) fall where a trace cannot tell if the job still ran:
    before its first sample, or after the last one and not surely after the end.

    Returns shape (deadlines,). A monitor that polls finds a deadline passed in whole seconds, 400 ms later at most.
    """
    seen = _Seen(trace)
    due_s = deadlines_s + 1.0
    ran = due_s + MONITOR_MS / 1000 <= seen.last_s
    unseen = (due_s < seen.first_s) | ~(ran | (due_s > seen.ended_by_s) | seen.end_exact)
    return (deadlines_s > 0) & unseen


class _Seen:
    """When a job was seen to run first and last, and by when it had ended (infinite where nobody told), in seconds
    since it began. `end_exact`: libvirt's final statistics tell the end, or samples are so close that none is needed.
    """

    def __init__(self, trace: Readable) -> None:
        times_s, end = trace.t_s[trace.active], trace.meta.end
        self.first_s, self.last_s = float(times_s[0]), float(times_s[-1])
        self.end_exact = end.elapsed_ms is not None
        if end.elapsed_ms is not None:
            self.ended_by_s = end.elapsed_ms / 1000
        elif end.ended_by_ms is not None:
            self.ended_by_s = end.ended_by_ms / 1000
        elif interval_ms(trace) <= MONITOR_MS:
            self.end_exact, self.ended_by_s = True, self.last_s
        elif end.outcome == "lost":
            # A record at the monitor's own pace, cut at the same moment, would end so much later at most.
            self.ended_by_s = self.last_s + 2 * interval_ms(trace) / 1000
        else:
            self.ended_by_s = float("inf")


def counted_memory_bytes(trace: Readable) -> int | None:
    """The memory that libvirt counts in the migration: the guest's and that of its devices; None where untold."""
    counted = trace.column("memory_total_bytes")[trace.active]
    most = float(np.nanmax(counted, initial=0))
    return int(most) if most > 0 else None


def trace_data_size(trace: Readable, policy: Policy) -> int:
    """The data size behind the deadline, in GB: the guest's memory, else what libvirt counts of it (which is a little
    more); and, where the version counts them and the migration copied disks, what libvirt said of them when it first
    did. A rule that ran beside the migration had its own. 0 where it is unknown and nothing rests on it."""
    ruled_gb = rule_size_gb(trace.meta, policy)
    if ruled_gb is not None:
        return ruled_gb
    memory = trace.meta.domain.memory_bytes
    if memory is None:
        memory = counted_memory_bytes(trace)
    if memory is None and not policy.options["completion_timeout_per_gib"]:
        return 0
    if memory is None:
        raise MigkitError(f"{trace.name or 'trace'}: the guest's memory is unknown; pass data_size_gb (--data-size-gb)")
    disks = trace.column("disk_total_bytes")
    known = disks[np.isfinite(disks) & (disks > 0)]
    copied = int(known[0]) if policy.counts_migrated_volumes and len(known) else 0
    return size_of(memory=memory, migrated_bytes=[copied])


def _size(trace: Trace, policy: Policy) -> list[Answer]:
    """The deadline grows with the guest's memory. Where only libvirt's count is known the devices' share of it may
    make one more GB, or not."""
    if not policy.options["completion_timeout_per_gib"] or trace.meta.domain.memory_bytes is not None:
        return []
    if rule_size_gb(trace.meta, policy) is not None:
        return []
    counted = counted_memory_bytes(trace)
    if counted is None:
        return [_no("the guest's memory is unknown, and the deadline grows with it; pass data_size_gb "
                    "(--data-size-gb)")]  # fmt: skip
    if size_of(memory=counted) == size_of(memory=max(counted - _DEVICES_BYTES, 0)):
        return []
    return [Answer(level="approximate", why="the guest's memory is unknown, and what libvirt counts may make the "
                                            "deadline a GB's worth too long")]  # fmt: skip


def _devices(trace: Trace, policy: Policy) -> list[Answer]:
    """Since v1.9 a guest with host devices is neither switched to post-copy nor paused at its deadline: its downtime
    limit is raised. A recorder reads of them in the guest's definition; a monitor's log does not tell."""
    if trace.meta.domain.has_vfio is not None or not _is_coarse(trace):
        return []
    options = policy.options
    disrupts = options["allow_post_copy"] or options.get("allow_workload_disruption")
    if policy.family.rules != "events" or not disrupts or not options["completion_timeout_per_gib"]:
        return []
    why = "whether the guest has host devices (VFIO) is unknown, and what is done at the deadline rests on it"
    return [Answer(level="approximate", why=f"{why}; pass has_vfio (--set has_vfio=true or false)")]


def _stall(trace: Trace) -> list[Answer]:
    """Stall detection: iterations' ends from events, bandwidth from polls."""
    for column, words in (("data_remaining_bytes", "remaining data"), ("memory_bps", "bandwidth"),
                          ("memory_iteration", "iterations")):  # fmt: skip
        if column in trace.meta.cadence.lacks:
            return [_no(f"stall detection needs {words}, which the trace does not have")]
    if not hears_iterations(trace):
        return [_no("stall detection works by iteration events, which the trace does not have")]
    return _coarse(trace, "bandwidth is smoothed over")


def hears_iterations(trace: Trace) -> bool:
    """Whether iteration events stand in the trace, or would: its recorder listened for them; or, where nobody tells
    that, it shows no second iteration."""
    rows, listened = trace.samples, trace.meta.cadence.iteration_events
    if rows["event_iteration"].notna().any() or (rows["source"] == "iteration").any():
        return True
    if listened is None or (rows["source"] == "wake").any():
        return bool(rows["memory_iteration"].dropna().max() <= 1) if rows["memory_iteration"].notna().any() else True
    return listened


def _polling(trace: Trace, policy: Policy) -> list[Answer]:
    """The rules of every version: stuck for too long, and the steps of downtime tuning."""
    found = []
    timeout_s = int(policy.options["progress_timeout"])
    if timeout_s:
        found += _stuck(trace, timeout_s)
    if policy.options.get("downtime_tuning"):
        if "memory_iteration" in trace.meta.cadence.lacks:
            return [_no("downtime tuning needs iterations, which the trace does not have")]
        if interval_ms(trace) > MONITOR_MS:
            found.append(Answer(level="approximate", why=f"the limit is raised at {_apart(trace)}"))
    return found


def _stuck(trace: Trace, timeout_s: int) -> list[Answer]:
    """Progress is one lower value of remaining data. A coarse trace misses some of it, but makes none up."""
    if "data_remaining_bytes" in trace.meta.cadence.lacks:
        return [_no("the progress timeout needs remaining data, which the trace does not have")]
    if not _is_coarse(trace):
        return []
    slack_s = interval_ms(trace) / 1000
    if _longest_without_progress_s(trace) + 2 * slack_s <= timeout_s:
        return []
    if timeout_s <= 2 * slack_s:
        return [_no(f"a progress timeout of {timeout_s} s cannot be seen in {_grain(trace)}")]
    return _coarse(trace, "progress is looked for in")


def _longest_without_progress_s(trace: Trace) -> float:
    """The longest stretch between two samples of which the later one is lower than the one before it, or to the end."""
    remaining, t = trace.column("data_remaining_bytes")[trace.active], trace.t_s[trace.active]
    known = np.isfinite(remaining)
    remaining, t = remaining[known], t[known]
    lower = np.flatnonzero(np.diff(remaining) < 0) + 1
    ended_by_s = _Seen(trace).ended_by_s
    last = [max(t[-1], ended_by_s)] if np.isfinite(ended_by_s) else t[-1:]
    moments = np.concatenate([[0.0], t[:1], t[lower], last])
    return float(np.max(np.diff(moments), initial=0.0))


def _is_coarse(trace: Trace) -> bool:
    return interval_ms(trace) > MONITOR_MS or bool(trace.meta.cadence.resolution_bytes)


def _coarse(trace: Trace, what: str) -> list[Answer]:
    return [Answer(level="approximate", why=f"{what} {_grain(trace)}")] if _is_coarse(trace) else []


def _grain(trace: Trace) -> str:
    step = trace.meta.cadence.resolution_bytes
    rounded = f", in whole {format_bytes(step).removeprefix('1 ')}" if step else ""
    return f"{_apart(trace)}{rounded}"


def _apart(trace: Trace) -> str:
    return f"samples {format_ms(interval_ms(trace))} apart instead of {MONITOR_MS} ms"
