"""`migkit replay` and `migkit report`: what a person reads, and one line for what is wrong."""

from __future__ import annotations

import json

import pytest

from migkit.cli import main
from tests.conftest import TRACES

STALL = str(TRACES / "stall_link.parquet")


def test_a_decision_is_told_with_its_spread_reason_and_evidence(capsys):
    assert main(["replay", STALL, "--policy", "kubevirt-1.8", "--set", "progress_timeout=5"]) == 0
    head, decision, divergence = capsys.readouterr().out.splitlines()
    assert head == ("stall_link (imported, completed) under kubevirt-1.8; completion deadline 150 s (1 GB)")
    assert decision.startswith("  9.6 s (9.2 to 9.6)  abort  stuck [observed]: ")
    assert "remaining not lower for 6.0 s, more than 5 s; 315 MiB left" in decision
    assert divergence == "  leaves what was really done at 9.60 s: unknowable from there on"


def test_json_is_one_object_a_trace_and_policy(capsys):
    two = ["--policy", "kubevirt-1.8", "--policy", "tight=kubevirt-1.8,progress_timeout=5"]
    assert main(["replay", STALL, *two, "--json"]) == 0
    plain, tight = map(json.loads, capsys.readouterr().out.splitlines())
    assert (plain["label"], plain["decisions"]) == ("kubevirt-1.8", [])
    assert tight["options"]["progress_timeout"] == 5
    assert tight["decisions"][0]["action"] == "abort"


def test_a_scripted_failure_is_retried(capsys):
    policy = "kubevirt-1.8,completion_timeout_per_gib=10,allow_post_copy=true"
    assert main(["replay", STALL, "--policy", policy, "--fail", "MigrateStartPostCopy=1"]) == 0
    out = capsys.readouterr().out
    assert "start post-copy (fails)" in out
    assert out.count("start post-copy") == 2


def test_the_report_is_one_page_with_its_pictures(capsys, tmp_path):
    two = ["--policy", "kubevirt-1.8", "--policy", "tight=kubevirt-1.8,progress_timeout=5"]
    assert main(["report", STALL, "-o", str(tmp_path), *two]) == 0
    out = capsys.readouterr().out
    assert f"Page: {tmp_path / 'index.html'}" in out
    page = (tmp_path / "index.html").read_text()
    for picture in ("overview.png", "downtime.png", "stall_link.png", "stall_link.decisions.png"):
        assert f"src='{picture}'" in page
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert "imported" in page
    assert main(["report", STALL, "-o", str(tmp_path), *two]) == 1
    assert "exists already" in capsys.readouterr().err


REPLAY = ["replay", STALL, "--policy", "kubevirt-1.8"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["replay", STALL], 2, "replay needs --policy"),
        (["replay", STALL, "--policy", "kubevirt-1.88"], 2, "did you mean 'kubevirt-1.8'?"),
        ([*REPLAY, "--set", "progres_timeout=3"], 2, "did you mean 'progress_timeout'?"),
        ([*REPLAY, "--set", "progress_timeout"], 2, "write an option as NAME=VALUE"),
        ([*REPLAY, "--fail", "Suspend"], 2, "which of its calls fail"),
        ([*REPLAY, "--fail", "Suspnd=1"], 2, "did you mean 'Suspend'"),
        ([*REPLAY, "--policy", "kubevirt-1.8"], 2, "two of the policies have the same name"),
        (["replay", "nowhere.parquet", "--policy", "kubevirt-1.8"], 1, "nowhere.parquet: no such file"),
        (["report", STALL, "-o", "/proc/none"], 1, "cannot be written"),
    ],
)
def test_bad_input_is_one_line_on_stderr(arguments, code, said, capsys):
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1


VFIO = ["--policy", "kubevirt-1.9,completion_timeout_per_gib=10,allow_workload_disruption=true", "--set"]


def test_the_guest_may_be_said_to_have_host_devices(capsys):
    trace = str(TRACES / "noconverge_abort.parquet")
    assert main(["replay", trace, *VFIO, "has_vfio=true"]) == 0
    out = capsys.readouterr().out
    assert "set max downtime 20 s" in out
    assert "note: replayed as a guest with host devices (VFIO)" in out
    assert main(["replay", trace, *VFIO, "has_vfio=false", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["has_vfio"], found["notes"]) == (False, [])
    assert found["decisions"][0]["action"] == "suspend"
    assert main(["replay", trace, *VFIO, "has_vfio=maybe"]) == 2
    assert capsys.readouterr().err == "migkit: option 'has_vfio': 'maybe' is neither true nor false\n"


def test_a_comparison_says_once_what_weakens_it(capsys):
    trace = str(TRACES / "noconverge_abort.parquet")
    other = ["--policy", "kubevirt-1.8,completion_timeout_per_gib=10,allow_workload_disruption=true"]
    assert main(["compare", trace, *other, *VFIO, "has_vfio=true"]) == 0
    out = capsys.readouterr().out
    assert "suspend becomes set max downtime 20000 ms" in out
    assert out.count("note: ") == 1
