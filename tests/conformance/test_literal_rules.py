"""The rules against a literal reading of them that was written apart, on wake-ups nobody chose."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import literal_rules
from tests.conformance.cases import World

VARIANTS = (
    "v0.59.0", "v1.4.0", "v1.5.0", "v1.6.0", "v1.7.0", "v1.8.0",
    "v1.9.0-legacy", "v1.9.0-stall", "head-legacy", "head-stall",
)  # fmt: skip
CALLS = ("MigrateStartPostCopy", "MigrateSetMaxDowntime", "Suspend", "AbortJob", "GetJobInfo")
ERRORS = (
    "lost connection", "operation aborted: job: canceled by client",
    "x has to be  smaller or equal to the actual size of the containing file",
)  # fmt: skip

small = st.integers(0, 12)
sizes = st.one_of(st.integers(0, 3), st.integers(900_000, 1_100_000), st.integers(0, 2**63 - 1))
mostly = st.sampled_from([True] * 9 + [False])
rarely = st.sampled_from([False] * 19 + [True])


@st.composite
def ticks(draw: st.DrawFn, variant: str) -> list[dict[str, Any]]:
    """A stream of wake-ups 1 ms to 4 s apart; the elapsed time may jump, even back."""
    t_ms, made = 0, []
    for _ in range(draw(st.integers(1, 40))):
        t_ms += draw(st.sampled_from([1, 50, 400, 400, 400, 999, 1000, 1001, 4000]))
        stats = {
            "type": draw(st.sampled_from([2] * 12 + [0, 1, 3, 4, 5])),
            "data_remaining": draw(sizes), "data_remaining_set": draw(mostly),
            "time_elapsed": max(0, t_ms + draw(st.sampled_from([0, 0, 0, 5, -5, -3000]))),
            "time_elapsed_set": draw(mostly),
            "mem_iteration": draw(small), "mem_iteration_set": draw(mostly),
            "mem_bps": draw(st.sampled_from([0, 1, 1000, 10**6, 10**9])), "mem_bps_set": draw(mostly),
        }  # fmt: skip
        tick: dict[str, Any] = {
            "t_ms": t_ms, "source": draw(st.sampled_from(["poll", "event"])),
            "stats": stats if draw(mostly) else None, "dom_state_paused_migration": draw(rarely),
        }  # fmt: skip
        if draw(rarely):
            tick["dom_state_error"] = True
        if draw(rarely):
            tick["external_cancel"] = True
        # What an error does that comes at a tick without a wake-up, nobody wrote down.
        if draw(rarely) and (tick["source"] == "poll" or variant.endswith("stall")):
            tick["migration_err"] = draw(st.sampled_from(ERRORS))
        made.append(tick)
    return made


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """A case in the shared format, without what KubeVirt did."""
    variant = draw(st.sampled_from(VARIANTS))
    factor = st.sampled_from(["0", "0.001", "0.333", "0.5", "0.7", "1", "1.1", "1.5", "2", "10"])
    stall = {
        "stall_margin": draw(st.sampled_from([0, 1, 4, 29, 50, 100])), "stall_progress_timeout": draw(small),
        "switchover_timeout": draw(small), "search_local_minima": draw(st.booleans()),
        "ewma_alpha": draw(factor), "precopy_possible_factor": draw(factor),
        "patience_window_decay_factor": draw(factor), "completion_timeout_factor": draw(factor),
    }  # fmt: skip
    maybe = st.one_of(st.none(), st.integers(-3, 5))
    tuning = {
        "initial_ms": draw(st.sampled_from([None, -5, 0, 1, 150, 301, 900])), "steps": draw(maybe),
        "start_after_iteration": draw(maybe), "cooldown_seconds": draw(maybe),
    }  # fmt: skip
    failures = draw(
        st.dictionaries(st.sampled_from(CALLS), st.lists(st.integers(0, 3), min_size=1, max_size=2), max_size=2)
    )
    if variant.endswith("stall") and draw(rarely):
        failures["DomainEventMigrationIterationRegister"] = [1]
    return {
        "id": "made up", "variant": variant,
        "options": {
            "progress_timeout": draw(small), "completion_timeout_per_gib": draw(small),
            "max_downtime_ms": draw(st.sampled_from([0, 1, 299, 300, 301, 900, 5000])),
            "allow_post_copy": draw(st.booleans()), "allow_workload_disruption": draw(st.booleans()),
            "stall": stall if variant.endswith("stall") else None,
            "downtime_tuning": tuning if variant.startswith("head") and draw(st.booleans()) else None,
        },
        "vm": {"has_vfio": draw(st.booleans()), "data_size_gb": draw(st.integers(0, 2)),
               "migrated_volumes": draw(st.integers(0, 1))},
        "ticks": draw(ticks(variant)), "scripted_call_failures": failures,
    }  # fmt: skip


@settings(max_examples=600)
@given(case=cases())
def test_the_rules_do_what_their_literal_reading_does(case):
    read = literal_rules.decide(case)
    world = World(case)
    exit_tick = world.run()
    calls = [[world.ticks[c.row], c.name, c.argument, c.succeeded] for c in world.monitor.calls]
    assert calls == read["calls"]
    assert ("monitor_returned" if world.monitor.finished else "trace_end", exit_tick) == (
        read["exit"],
        read["exit_tick"],
    )
    final = world.final()
    assert {name: final[name] for name in read["final"]} == read["final"]


@given(case=cases())
def test_the_compiled_rules_do_what_the_plain_ones_do(case):
    pytest.importorskip("numba")
    plain, compiled = World(case), World(case, compiled_form=True)
    assert plain.run() == compiled.run()
    assert plain.monitor.calls == compiled.monitor.calls
    assert plain.final() == compiled.final()
