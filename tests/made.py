"""Migrations made by hand, where a test has to know what is in them; simulated, and they say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import migkit as mk
from migkit.meta import Cadence, Domain, End, Lab, Migration, TraceMeta
from migkit.units import MIB, NS_PER_MS

PAGE = 4096


def migration(
    levels_mib: Sequence[float], *, name: str = "made", outcome: str = "lost", pass_s: float = 5.0,
    bandwidth_mibps: float = 50.0, scenario: str = "", downtime_ms: int | None = None, interval_ms: int = 100,
    action: str = "", limit_ms: int = 300,
) -> mk.Trace:  # fmt: skip
    """A pre-copy whose passes begin with `levels_mib` and last `pass_s` each, falling to nearly nothing within.

    `outcome` and `action` say how it ended: an operator's action falls together with the last sample.
    """
    rows: list[dict[str, Any]] = []
    elapsed, sent = 0, 0.0
    for number, level in enumerate(levels_mib, 1):
        steps = int(pass_s * 1000 / interval_ms)
        rows.append(_row(elapsed, "iteration", level, sent, number, bandwidth_mibps, event_iteration=number))
        for step in range(steps):
            left = level * (1 - step / steps)
            rows.append(_row(elapsed + 1, "poll", left, sent + level - left, number, bandwidth_mibps))
            elapsed += interval_ms
        sent += level
    if action:
        rows.append({"mono_ns": elapsed * NS_PER_MS, "wall_ns": 0, "source": "action", "action": action,
                     "succeeded": True})  # fmt: skip
    final = {"time_elapsed": elapsed, "downtime": downtime_ms or 50} if outcome == "completed" else None
    meta = TraceMeta(
        provenance="simulated", origin="a test", domain=Domain(name=name, memory_bytes=10**9),
        cadence=Cadence(interval_ms=interval_ms, iteration_events=True), end=End(outcome=outcome, completed=final),
        migration=Migration(downtime_limit_ms=limit_ms), lab=Lab(scenario=scenario) if scenario else None,
    )  # fmt: skip
    return mk.Trace.from_rows(rows, meta, name)


def _row(
    elapsed_ms: int, source: str, left_mib: float, sent_mib: float, iteration: int, bandwidth_mibps: float, **more: Any
) -> dict[str, Any]:
    pages = int(sent_mib * MIB) // PAGE
    return {
        "mono_ns": elapsed_ms * NS_PER_MS, "wall_ns": 0, "source": source, "latency_us": 0, "job_type": 2,
        "time_elapsed_ms": elapsed_ms, "data_remaining_bytes": int(left_mib * MIB),
        "memory_remaining_bytes": int(left_mib * MIB), "data_processed_bytes": int(sent_mib * MIB),
        "memory_normal_pages": pages, "memory_constant_pages": 0, "memory_page_size_bytes": PAGE,
        "memory_iteration": iteration, "memory_bps": int(bandwidth_mibps * MIB), **more,
    }  # fmt: skip
