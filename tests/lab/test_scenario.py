"""Scenarios: migkit's own are sound, and a user's file is refused in one line that says where and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from migkit.errors import MigkitError, UsageError
from migkit.lab import scenario

WANTED = {
    "converge-fast", "converge-slow", "random-writes", "hot-cold", "bursty", "nonconverging-aborted", "post-copy",
    "auto-converge", "suspend-midway", "downtime-raised", "destination-stopped", "block-then-ram",
}  # fmt: skip

GOOD = """
[mine]
description = "mine"
seconds = 9
guest = { pattern = "random", ws_mib = 32, rate_mibps = 4 }
migration = { bandwidth_mibps = 16 }
actions = [{ at_s = 2, do = "set_max_downtime", downtime_ms = 900 }]
truth = { limited_by = "nothing", converges = true }
"""


def refused(tmp_path: Path, text: str) -> MigkitError:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(MigkitError) as caught:
        scenario.load(path)
    assert "\n" not in str(caught.value)
    assert "mine" in str(caught.value)
    return caught.value


def test_the_bundled_scenarios_are_all_there() -> None:
    assert set(scenario.load()) >= WANTED


@pytest.mark.parametrize("entry", scenario.load().values(), ids=lambda entry: entry.name)
def test_a_bundled_scenario_tells_its_truth_and_ends(entry: scenario.Scenario) -> None:
    assert entry.truth is not None
    assert entry.description
    assert entry.seconds <= 200
    assert all(action.at_s < entry.seconds for action in entry.actions)


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    mine = scenario.load(path)["mine"]
    assert mine.guest == scenario.Guest(pattern="random", ws_mib=32, rate_mibps=4)
    assert mine.actions[0].argument == 900


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("ws_mib", "ws_mb", "did you mean 'ws_mib'"),
        ('"random"', '"ramdom"', "did you mean 'random'"),
        ("set_max_downtime", "set_max_dovntime", "did you mean 'set_max_downtime'"),
        ("limited_by", "limited", "did you mean 'limited_by'"),
        ('"nothing"', '"nothink"', "did you mean 'nothing'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path, old: str, new: str, says: str) -> None:
    error = refused(tmp_path, GOOD.replace(old, new))
    assert isinstance(error, UsageError)
    assert says in str(error)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seconds = 9", "", "seconds is missing"),
        ("ws_mib = 32", "ws_mib = 'many'", "ws_mib: must be a whole number"),
        ("ws_mib = 32", "ws_mib = true", "ws_mib: must be a whole number"),
        ("ws_mib = 32", "ws_mib = 250", "ws_mib: must be 1 to 160"),
        ("rate_mibps = 4", "rate_mibps = -1", "must not be negative"),
        ("bandwidth_mibps = 16", "bandwidth_mibps = 0", "must be above 0"),
        ("bandwidth_mibps = 16", "bandwidth_mibps = 16, block_copy = true", "disk_mib"),
        (", downtime_ms = 900", "", "set_max_downtime needs downtime_ms"),
        ("downtime_ms = 900", "downtime_ms = 900, seconds = 3", "takes no seconds"),
        ("at_s = 2", "at_s = -2", "must not be negative"),
        ('"set_max_downtime", downtime_ms = 900', '"start_post_copy"', "needs post_copy = true"),
        ("[mine]", "[Mine]", "a-z"),
        ("[mine]", "[mine", "cannot be read as TOML"),
        ("actions = [{ at_s = 2, do = \"set_max_downtime\", downtime_ms = 900 }]", "actions = 3", "list of tables"),
        (GOOD, "", "holds no scenario"),
        (GOOD, "mine = 3", "must be a table"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert says in str(refused(tmp_path, GOOD.replace(old, new)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MigkitError, match=r"mine\.toml: no such file"):
        scenario.load(tmp_path / "mine.toml")


def test_an_unknown_scenario_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'post-copy'"):
        scenario.choose(scenario.load(), ["postcopy"])
