"""What differs between policies: the first decision they do not share."""

from __future__ import annotations

import json

import pytest

import migkit as mk
from migkit.cli import main
from migkit.errors import UsageError
from tests.conftest import TRACES


def test_the_same_policy_never_differs(bundled):
    found = mk.compare(list(bundled.values()), {"a": mk.kubevirt("1.8"), "b": mk.kubevirt("1.8")})
    assert not found.table["differs"].any()
    assert found.summary["difference"].tolist() == ["decides the same"]


def test_a_decision_that_only_one_makes_is_the_difference(bundled):
    policies = {"patient": mk.kubevirt("1.8"), "tight": mk.kubevirt("1.8", progress_timeout=5)}
    (row,) = mk.compare([bundled["stall_link"]], policies).table.itertuples()
    assert (row.differs, row.baseline_does, row.policy_does, row.reason) == (True, "nothing", "abort", "stuck")
    assert row.t_s == pytest.approx(9.6)
    assert row.beyond_spread


def test_post_copy_came_to_the_deadline_by_another_gate(bundled):
    """v1.4 asks allow_post_copy alone; v1.8 aborts when disruption is forbidden."""
    options = {"completion_timeout_per_gib": 10, "allow_post_copy": True}
    policies = {
        "1.4": mk.kubevirt("1.4", **options),
        "1.8": mk.kubevirt("1.8", allow_workload_disruption=False, **options),
    }
    found = mk.compare([bundled["noconverge_abort"]], policies)
    assert found.table[["baseline_does", "policy_does"]].values.tolist() == [["start post-copy", "abort"]]
    assert found.summary["difference"].tolist() == ["decides the same", "start post-copy becomes abort"]


def test_times_within_the_spread_are_no_difference(bundled):
    policies = {"1.8": mk.kubevirt("1.8", completion_timeout_per_gib=10),
                "1.9": mk.kubevirt("1.9", completion_timeout_per_gib=10)}  # fmt: skip
    assert not mk.compare([bundled["noconverge_abort"]], policies).table["differs"].any()


def test_fewer_than_two_policies_are_refused(bundled):
    with pytest.raises(UsageError, match="at least two"):
        mk.compare([bundled["stall_link"]], [mk.kubevirt("1.8")])
    with pytest.raises(UsageError, match="same name"):
        mk.compare([bundled["stall_link"]], [mk.kubevirt("1.8"), mk.kubevirt("1.8")])


def test_the_command_prints_draws_and_counts(capsys, tmp_path):
    trace = str(TRACES / "stall_link.parquet")
    two = ["--policy", "kubevirt-1.8", "--policy", "tight=kubevirt-1.8,progress_timeout=5"]
    assert main(["compare", trace, *two, "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "abort at 9.6 s" in out
    assert "nothing becomes abort" in out
    assert (tmp_path / "stall_link.decisions.png").exists()
    assert main(["compare", trace, *two, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policy_does"] == "abort"


def test_one_policy_on_the_command_line_is_a_usage_error(capsys):
    assert main(["compare", str(TRACES), "--policy", "kubevirt-1.8"]) == 2
    assert "at least two --policy" in capsys.readouterr().err
