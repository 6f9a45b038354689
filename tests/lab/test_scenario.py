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

FAULTS = {
    "stop_destination", "kill_destination", "restart_destination_daemon", "restart_source_daemon", "link_down",
    "slow_link", "block_port", "cut_socket",
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
    assert entry.seconds <= 300
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
        ("downtime_ms = 900", "downtime_ms = 900, percent = 3", "takes no percent"),
        ('"set_max_downtime", downtime_ms = 900', '"slow_link", seconds = 3', "slow_link needs percent"),
        ('"set_max_downtime", downtime_ms = 900', '"slow_link", percent = 0, seconds = 3', "percent: must be above 0"),
        ('"set_max_downtime", downtime_ms = 900', '"cut_socket", seconds = 3', "cut_socket takes no seconds"),
        ("ws_mib = 32", "ws_mib = 32, ws_end_mib = 200", "ws_end_mib: must be 0 to 160"),
        ("ws_mib = 32", "ws_mib = 32, ramp_s = -1", "ramp_s: must not be negative"),
        ("ws_mib = 32", "ws_mib = 32, seed = -1", "seed: must be 0 to"),
        ("bandwidth_mibps = 16", "bandwidth_mibps = 16, link_mibps = 0", "link_mibps: must be above 0"),
        ("bandwidth_mibps = 16", "bandwidth_mibps = 16, destination_disk = 'tiny'", "must be one of same, small"),
        ("converges = true", "converges = true, fault_until_s = 4", "needs an earlier fault_from_s"),
        ("converges = true", "converges = true, fault_from_s = 5, fault_until_s = 4", "needs an earlier fault_from_s"),
        ("seconds = 9", "seconds = 9\nbeside = 'other'", "beside: must be another scenario"),
        ("seconds = 9", "seconds = 9\nbeside = 'mine'", "beside: must be another scenario"),
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


def test_a_seed_is_given_to_a_guest_without_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    mine = scenario.load(path)["mine"]
    assert mine.guest.seed is None
    assert scenario.seeded(mine, 7).guest.seed == 7
    assert scenario.seeded(scenario.seeded(mine, 7), 8).guest.seed == 7


@pytest.mark.parametrize("entry", scenario.load().values(), ids=lambda entry: entry.name)
def test_a_faults_times_are_those_of_the_actions(entry: scenario.Scenario) -> None:
    assert entry.truth is not None
    faults = [action for action in entry.actions if action.do in FAULTS]
    if not faults:
        assert entry.truth.fault_from_s in (None, 0)
        return
    assert entry.truth.fault_from_s == faults[0].at_s
    if entry.truth.fault_until_s is not None:
        assert entry.truth.fault_until_s == faults[0].at_s + (faults[0].seconds or 0)


def test_those_who_migrate_at_once_name_each_other() -> None:
    scenarios = scenario.load()
    for name, entry in scenarios.items():
        if entry.beside is not None:
            assert scenarios[entry.beside].beside == name
            assert scenarios[entry.beside].migration.link_mibps == entry.migration.link_mibps
