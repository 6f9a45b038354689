"""The recorded traces of data/traces: every scenario is among them, and each shows what its name says."""

from __future__ import annotations

import re

import pytest

import migkit as mk
from migkit.lab import campaign, scenario
from tests.conftest import TRACES
from tests.lab.shows import SHOWS, assert_it_shows_its_name, duration_s

SCENARIOS = scenario.load()
RECORDED = {path.stem: path for path in sorted(TRACES.glob("*.parquet")) if "_" not in path.stem}


def scenario_of(name: str) -> scenario.Scenario:
    return SCENARIOS[re.sub(r"(-corrupted)?(-\d+)?$", "", name)]


def test_what_a_scenario_must_show_is_written_down_for_each() -> None:
    assert set(SHOWS) == set(SCENARIOS)


def test_the_bundled_campaign_is_there_whole() -> None:
    assert campaign.missing(campaign.load(None, SCENARIOS), TRACES) == []


@pytest.mark.parametrize("name", [name for name in RECORDED if "-corrupted" not in name])
def test_a_recorded_trace_shows_what_its_name_says(name: str) -> None:
    trace = mk.load(RECORDED[name])
    asked = scenario_of(name)
    assert trace.meta.provenance == "recorded"
    assert trace.meta.lab is not None
    assert (trace.meta.lab.scenario, trace.meta.lab.guest_corrupted) == (asked.name, False)
    assert asked.truth is not None
    assert trace.meta.lab.truth == asked.truth.label
    assert_it_shows_its_name(trace, asked)


def test_a_trace_of_a_corrupted_guest_is_marked() -> None:
    for name in RECORDED:
        lab = mk.load(RECORDED[name]).meta.lab
        assert lab is not None
        assert lab.guest_corrupted == ("-corrupted" in name)


def test_the_set_is_what_it_promises_to_be() -> None:
    traces = [mk.load(path) for path in RECORDED.values()]
    memory = {trace.meta.domain.memory_bytes for trace in traces}
    assert len(traces) >= 60
    assert sum(240 <= duration_s(trace) <= 480 for trace in traces) >= 12
    assert min(memory) == 256 * 2**20
    assert max(memory) == 2048 * 2**20
    assert {trace.meta.cadence.interval_ms for trace in traces} >= {50, 100}
    assert sum(path.stat().st_size for path in TRACES.glob("*.parquet")) <= 12e6
