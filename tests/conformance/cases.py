"""One case: wake-ups, options and what KubeVirt's own code did; and what ours does with them."""

from __future__ import annotations

import bisect
import gzip
import lzma
import os
import re
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np

from migkit.drivers.monitor import Monitor
from migkit.policies.base import (
    DOMAIN_PAUSED_FOR_MIGRATION,
    DOMAIN_RUNNING,
    DOMAIN_UNKNOWN,
    MODE_NAMES,
    NEVER,
    NS_PER_S,
    Wakes,
)
from migkit.policies.size import data_size_gb
from migkit.policies.versions import VERSIONS, computed_options

Case = dict[str, Any]
CALLS = ("MigrateStartPostCopy", "Suspend", "MigrateSetMaxDowntime", "AbortJob")
_VARIANT = re.compile(r"(?:v(\d+\.\d+)\.\d+|(head))(?:-(\w+))?")
_REASONS = (
    ("aborted", r"(?:Live migration aborted |Live migration has been aborted)()"),
    ("stuck", r".* stuck for (-?\d+) .*"),
    ("timeout", r".* not completed after (-?\d+) .*"),
    ("volume-too-small", r"Volume migration .* the source volume: (.*)"),
    ("migrate-failed", r"Live migration failed (.*)"),
    ("job-failed", r"<nil>()"),
    ("migrate-error", r"(.+)"),
)


def opened(path: str | os.PathLike[str]) -> IO[str]:
    """A file of cases, a JSON object a line, plain or packed."""
    packer: Any = {".gz": gzip, ".xz": lzma}.get(Path(path).suffix)
    return packer.open(path, "rt") if packer else open(path)


def mismatches(case: Case, *, compiled_form: bool = False) -> tuple[list[str], list[str]]:
    """What differs in the calls, and what differs in the state left behind."""
    world = World(case, compiled_form)
    exit_tick = world.run()
    expected, final = case["expected"], case["expected"]["final"]
    theirs = [(a["tick"], a["kind"], a.get("arg"), a["ok"]) for a in expected["actions"] if a["kind"] in CALLS]
    ours = [(world.ticks[c.row], c.name, c.argument, c.succeeded) for c in world.monitor.calls]
    first = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))  # noqa: B905
    calls = [] if ours == theirs else [f"call {first}: {ours[first : first + 2]}, KubeVirt {theirs[first : first + 2]}"]
    if (world.monitor.finished, exit_tick) != (expected["exit"] == "monitor_returned", expected["exit_tick"]):
        calls.append(f"exit at {exit_tick}, KubeVirt {expected['exit']} at {expected['exit_tick']}")
    found = world.final()
    state = [f"{k}: {found[k]!r}, KubeVirt {v!r}" for k, v in _flat(final).items() if k in found and found[k] != v]
    missing = [k for k in _flat(final) if k not in found]
    return calls, state + [f"{k}: not compared" for k in missing] + _knobs(case, world.options)


def size_differs(case: Case) -> bool:
    """Whether ours is another data size than KubeVirt's."""
    memory = case["mem_request"] if case["guest_memory"] is None else case["guest_memory"]
    ephemeral = case["ephemeral_disks_bytes"] if case["block_migration"] else 0
    found = data_size_gb(memory=memory, ephemeral_bytes=ephemeral, migrated_bytes=case["migrated_volume_bytes"])
    return found != case["expected_gb"]


def _knobs(case: Case, options: Any) -> list[str]:
    names = {"ewma_alpha": "alpha", "precopy_possible_factor": "precopy_factor",
             "patience_window_decay_factor": "decay", "completion_timeout_factor": "completion_factor"}  # fmt: skip
    theirs = case["expected"].get("knobs") or {}
    return [f"knob {k}" for k, bits in theirs.items() if _bits(getattr(options, names[k])) != bits]


def _bits(value: float) -> str:
    return struct.pack(">d", value).hex()


class World:
    """The case as a hypervisor: scripted failures, job types, the user's cancels."""

    def __init__(self, case: Case, compiled_form: bool = False) -> None:
        self.case = case
        match = _VARIANT.fullmatch(case["variant"])
        assert match is not None
        family = VERSIONS[match[1] or "main"]
        self.counts: dict[str, int] = {}
        self.options = _options(case, family)
        fallen_back = self.options.stall and self._fails("DomainEventMigrationIterationRegister", peek=True)
        hears = self.options.stall and not fallen_back
        self.ticks = [i for i, tick in enumerate(case["ticks"]) if tick["source"] == "poll" or hears]
        self.wakes, self.errors = _wakes(case, self.ticks, compiled_form)
        self.monitor = Monitor(
            family, self.options, self, errors=self._error, room=len(self.ticks), compiled_form=compiled_form,
            migrated_volumes=bool(case["vm"].get("migrated_volumes")),
        )  # fmt: skip

    def _error(self, row: int) -> str:
        return next((text for text in self.errors[: row + 1] if text), "")

    def _fails(self, name: str, *, peek: bool = False) -> bool:
        count = self.counts.get(name, 0) + 1
        if not peek:
            self.counts[name] = count
        numbers = self.case["scripted_call_failures"].get(name, ())
        return 0 in numbers or count in numbers

    def call(self, row: int, name: str, argument: int | None) -> bool:
        return not self._fails(name)

    def job_type(self, row: int) -> int | None:
        # A cancel may come on a tick that is skipped otherwise: it asks what that tick has to say.
        tick = self.case["ticks"][self.asking if self.asking is not None else self.ticks[row]]
        return None if self._fails("GetJobInfo") else (tick["stats"] or {"type": 2})["type"]

    asking: int | None = None

    def run(self) -> int:
        """Lives through the case; the tick at which the monitor ended, or the last one."""
        done = 0
        for tick, content in enumerate(self.case["ticks"]):
            if not content.get("external_cancel"):
                continue
            upto = bisect.bisect_left(self.ticks, tick, hi=len(self.wakes.t_ns))
            if self._live(done, upto):
                break
            done, self.asking = upto, tick
            # The call belongs to the tick of the cancel, which may have no wake-up of its own.
            self.ticks.append(tick)
            self.monitor.cancel_by_user(len(self.ticks) - 1)
            self.asking = None
        else:
            self._live(done, len(self.wakes.t_ns))
        return self.exit_tick

    exit_tick = -1

    def _live(self, start: int, stop: int) -> bool:
        row = self.monitor.run(self.wakes, start, stop)
        self.exit_tick = self.ticks[row] if self.monitor.finished else len(self.case["ticks"]) - 1
        return self.monitor.finished

    def final(self) -> dict[str, Any]:
        """The state in the words of the cases."""
        s, result, monitor = self.monitor.state, self.monitor.result, self.monitor
        slots = monitor.slots
        return {
            "mode": MODE_NAMES[s.mode],
            "abort_status": monitor.abort_status,
            "acceptable_completion_time": s.acceptable_s,
            "ended": result.ended,
            "failed": result.failed,
            "failure_reason": (result.reason, result.detail),
            "last_progress_update_ms": s.last_progress_ns // 1_000_000,
            "progress_watermark": s.watermark,
            "remaining_data": s.remaining,
            "iteration_record": (s.record_remaining, s.record_elapsed_ms, s.record_iteration),
            "stall_detection_enabled": bool(monitor.options.stall),
            "switch_over_deadline": s.switch_deadline_s if self.case["options"]["stall"] else 0,
            "current_downtime_ms": s.downtime_ms,
            "last_tuned_at_ms": None if s.last_tuned_ns == NEVER else s.last_tuned_ns // 1_000_000,
            "best_remaining_bytes": s.best,
            "ewma_bandwidth_bps_bits": _bits(s.ewma_bps),
            "initial_max_downtime_set": bool(s.initial_set),
            "min_candidates": [(slot.remaining, slot.elapsed_ms, slot.iteration) for slot in slots[: s.candidates]],
            "min_record_outside_window": (s.outside_remaining, s.outside_elapsed_ms, s.outside_iteration),
            "relaxation_deadline_ms": s.relax_deadline_ms,
            "relaxation_patience_ms": s.patience_ms,
            "remaining_bytes_history_sorted": sorted(slot.history for slot in slots[: s.history]),
            "stall_detected": bool(s.stalled),
            "switchover_initiated": bool(s.switched),
        }


def _flat(final: dict[str, Any]) -> dict[str, Any]:
    """The expected state in the same form: records as tuples, the reason as a code."""
    flat = {k: v for k, v in final.items() if k not in ("stall_detector", "failure_reason")}
    flat |= {k: v for k, v in (final.get("stall_detector") or {}).items() if k != "ewma_bandwidth_bps"}
    for name in ("iteration_record", "min_record_outside_window"):
        if name in flat:
            flat[name] = _record(flat[name])
    if "min_candidates" in flat:
        flat["min_candidates"] = [_record(r) for r in flat["min_candidates"] or ()]
        flat["remaining_bytes_history_sorted"] = flat["remaining_bytes_history_sorted"] or []
    return flat | {"failure_reason": _reason(final)}


def _record(record: dict[str, int]) -> tuple[int, int, int]:
    return record["remaining_bytes"], record["elapsed_ms"], record["iteration_number"]


def _reason(final: dict[str, Any]) -> tuple[str, str]:
    text = final["failure_reason"]
    if not isinstance(text, str):
        return text[0], text[1]
    if not text:
        return "", ""
    for code, pattern in _REASONS:
        match = re.fullmatch(pattern, text, re.DOTALL)
        if match is not None:
            return code, match[1]
    raise AssertionError(text)


def _options(case: Case, family: Any) -> Any:
    values = dict(case["options"])
    stall, tuning = values.pop("stall"), values.pop("downtime_tuning")
    values |= stall or {}
    values |= {k: v for k, v in (tuning or {}).items() if v is not None}
    values |= {"stall_detection": stall is not None, "downtime_tuning": tuning is not None}
    if not family.disruption_gate and family.rules == "polling":
        values["allow_workload_disruption"] = False
    return computed_options(family, values, data_size_gb=case["vm"]["data_size_gb"], has_vfio=case["vm"]["has_vfio"])


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _wakes(case: Case, ticks: list[int], compiled_form: bool) -> tuple[Wakes, list[str]]:
    rows = []
    errors = []
    for number in ticks:
        tick = case["ticks"][number]
        stats = tick["stats"]
        s = stats or {}
        errors.append(tick.get("migration_err") or "")
        domain = DOMAIN_PAUSED_FOR_MIGRATION if tick["dom_state_paused_migration"] else DOMAIN_RUNNING
        rows.append((
            tick["t_ms"] * (NS_PER_S // 1000), tick["source"] == "event", stats is not None, s.get("type", 0),
            _signed(s.get("data_remaining", 0)), s.get("data_remaining_set", False),
            _signed(s.get("time_elapsed", 0)), s.get("time_elapsed_set", False),
            _signed(s.get("mem_iteration", 0)), s.get("mem_iteration_set", False),
            _signed(s.get("mem_bps", 0)), s.get("mem_bps_set", False),
            DOMAIN_UNKNOWN if tick.get("dom_state_error") else domain, bool(errors[-1]),
        ))  # fmt: skip
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in Wakes._fields]
    if compiled_form:
        flags = {"event", "stats", "migrate_error"}
        kinds = [np.bool_ if n in flags or n.endswith("_set") else np.int64 for n in Wakes._fields]
        return Wakes(*(np.array(c, dtype=k) for c, k in zip(columns, kinds, strict=True))), errors
    return Wakes(*columns), errors


def compact(case: Case) -> Case:
    """The case without what nobody compares; the failure's text as a code, the columns of a tick without repeats."""
    small = {k: v for k, v in case.items() if k != "tags"}
    small["ticks"] = [{k: v for k, v in tick.items() if k != "iteration"} for tick in case["ticks"]]
    expected = dict(case["expected"])
    expected["actions"] = [
        {k: v for k, v in a.items() if k not in ("reason", "t_ms")} for a in expected["actions"] if a["kind"] in CALLS
    ]
    expected["final"] = dict(expected["final"]) | {"failure_reason": _reason(expected["final"])}
    return small | {"expected": expected}
