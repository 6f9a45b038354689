"""Traces recorded earlier get the label that their scenario has now, and stay what they are otherwise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import migkit as mk
from migkit.cli import main
from migkit.lab import scenario
from migkit.lab.relabel import relabel

NOW = scenario.load()


@pytest.fixture
def older(bundled: dict[str, mk.Trace], tmp_path: Path) -> Path:
    """A trace whose label lacks what its scenario says by now."""
    trace = bundled["link-down"]
    assert trace.meta.lab is not None
    lab = dataclasses.replace(trace.meta.lab, truth={"limited_by": "network", "converges": True})
    return trace.replace_meta(lab=lab).save(tmp_path / "link-down.parquet")


def test_the_label_is_the_scenarios_and_nothing_else_changes(older: Path, bundled: dict[str, mk.Trace]) -> None:
    assert relabel(older, NOW) == {"limited_by": "network", "converges": True, "fault_from_s": 4, "fault_until_s": 10}
    found = mk.load(older)
    assert found.meta == bundled["link-down"].meta
    assert found.samples.equals(bundled["link-down"].samples)


def test_the_description_is_the_scenarios_too(bundled: dict[str, mk.Trace], tmp_path: Path) -> None:
    trace = bundled["link-down"]
    assert trace.meta.lab is not None
    old = trace.replace_meta(lab=dataclasses.replace(trace.meta.lab, description="as it was told before"))
    path = old.save(tmp_path / "link-down.parquet")
    assert relabel(path, NOW) is not None
    assert mk.load(path).meta == trace.meta


def test_a_second_time_nothing_is_left_to_do(older: Path) -> None:
    relabel(older, NOW)
    before = older.read_bytes()
    assert relabel(older, NOW) is None
    assert older.read_bytes() == before


def test_a_trace_of_no_lab_is_left_alone(bundled: dict[str, mk.Trace], tmp_path: Path) -> None:
    path = bundled["link-down"].replace_meta(lab=None).save(tmp_path / "mine.parquet")
    assert relabel(path, NOW) is None


def test_the_verb_tells_what_it_changed(older: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "relabel", str(older.parent)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{older}: limited_by network, converges True, fault_from_s 4, fault_until_s 10\n"
    assert said.err == "1 traces, 1 relabelled\n"
