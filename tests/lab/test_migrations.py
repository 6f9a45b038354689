"""Real migrations between the lab's two hosts: what they leave in a trace, and that they leave nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import migkit as mk
from migkit.cli import main
from migkit.lab import guest, hosts, scenario
from tests.lab.shows import assert_it_shows_its_name

if TYPE_CHECKING:
    from migkit.lab.hosts import Lab

pytestmark = pytest.mark.lab


@pytest.fixture
def folder(lab_ready: None) -> Iterator[Path]:
    """Where a test brings up a lab of its own; whatever happens, it is taken down."""
    with tempfile.TemporaryDirectory(prefix="mklab", dir="/var/tmp") as temporary:
        path = Path(temporary) / "lab"
        yield path
        hosts.down(path)


def recorded(lab: Lab, output: Path, name: str, *options: str) -> mk.Trace:
    assert main(["lab", "record", name, "-o", str(output), "--dir", str(lab.folder), *options]) == 0
    return mk.load(output / f"{name}.parquet")


@pytest.mark.smoke
def test_a_recorded_migration_tells_all_that_the_lab_knows(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = recorded(lab, tmp_path, "idle")
    meta = trace.meta
    assert meta.end.outcome == "completed"
    assert meta.end.completed is not None
    assert meta.host.accelerator in ("kvm", "tcg")
    assert meta.migration.flag_names == ("VIR_MIGRATE_LIVE", "VIR_MIGRATE_PEER2PEER")
    assert meta.migration.parameters["bandwidth"] == 64
    assert meta.migration.downtime_limit_ms == 300
    assert meta.heartbeat is not None
    assert meta.heartbeat.downtime_ms is not None
    assert meta.heartbeat.downtime_ms > 0
    assert meta.lab is not None
    assert (meta.lab.scenario, meta.lab.guest_corrupted) == ("idle", False)
    assert meta.lab.truth == {"limited_by": "bandwidth", "converges": True}
    capsys.readouterr()
    assert main(["info", str(tmp_path)]) == 0
    assert "idle" in capsys.readouterr().out


@pytest.mark.smoke
def test_a_migration_is_recorded_through_a_command_prefix(lab: Lab, tmp_path: Path) -> None:
    trace = recorded(lab, tmp_path, "idle", "--via")
    assert trace.meta.end.outcome == "completed"
    assert trace.meta.cadence.via.startswith("nsenter --target ")
    assert trace.active.sum() > 5


@pytest.mark.smoke
def test_a_lab_beside_another_comes_and_goes_without_a_trace(lab: Lab, folder: Path) -> None:
    accelerator = guest.accelerator(guest.image())
    second = hosts.up(folder, accelerator=accelerator)
    assert hosts.up(folder, accelerator=accelerator) == second
    assert all(host.up for host in (*lab.hosts, *second.hosts))
    inside = [pid for host in second.hosts for pid in host.processes()]
    assert len(inside) >= 4
    assert len(hosts.leftovers(folder)) >= 4
    hosts.down(folder)
    assert hosts.leftovers(folder) == []
    assert not folder.exists()
    assert not any(host.alive for host in second.hosts)
    assert all(host.up for host in lab.hosts)


def test_ctrl_c_ends_a_recording_and_takes_the_lab_down(folder: Path, tmp_path: Path) -> None:
    words = ["lab", "record", "nonconverging-aborted", "-o", str(tmp_path), "--dir", str(folder)]
    with subprocess.Popen([sys.executable, "-m", "migkit", *words], stderr=subprocess.PIPE, text=True) as process:
        assert hosts.wait_until(lambda: (lab := hosts.find_lab(folder)) is not None and _migrates(lab), 90)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert said == "migkit: stopped\n"
    assert not folder.exists()
    assert hosts.leftovers(folder) == []


def test_a_second_recording_in_the_same_lab_is_refused(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lab.busy():
        assert main(["lab", "record", "idle", "-o", str(tmp_path), "--dir", str(lab.folder)]) == 1
    assert "another migration is running in this lab" in capsys.readouterr().err


def test_a_killed_run_does_not_stand_in_the_way_of_the_next(lab: Lab, tmp_path: Path) -> None:
    words = ["lab", "record", "converge-slow", "-o", str(tmp_path), "--dir", str(lab.folder)]
    with subprocess.Popen([sys.executable, "-m", "migkit", *words]) as process:
        assert hosts.wait_until(lambda: _migrates(lab, "converge-slow"), 90)
        process.kill()
    assert recorded(lab, tmp_path, "idle").meta.end.outcome == "completed"


def test_a_folder_that_cannot_be_written_is_told(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["lab", "record", "idle", "-o", str(tmp_path / "file" / "in"), "--dir", str(lab.folder)]) == 1
    assert "cannot be made" in capsys.readouterr().err


def _migrates(lab: Lab, name: str = "nonconverging-aborted") -> bool:
    return lab.b.qemu(name) is not None and os.path.exists(lab.folder / "serial")


# The longer ones are in the set of recorded traces, where test_the_set.py looks at them.
SHORT = [name for name, entry in scenario.load().items() if entry.seconds <= 17 and name != "block-volume-missing"]


@pytest.mark.parametrize("name", SHORT)
def test_a_scenario_shows_what_its_name_says(lab: Lab, tmp_path: Path, name: str) -> None:
    assert_it_shows_its_name(recorded(lab, tmp_path, name), scenario.load()[name])


def test_two_guests_migrate_at_once_and_leave_a_trace_each(lab: Lab, tmp_path: Path) -> None:
    large = recorded(lab, tmp_path, "pair-large", "--seed", "5", "--note", "for=a test")
    small = mk.load(tmp_path / "pair-small.parquet")
    begin = max(int(trace.samples["mono_ns"][trace.active].iloc[0]) for trace in (large, small))
    end = min(int(trace.samples["mono_ns"][trace.active].iloc[-1]) for trace in (large, small))
    assert end - begin > 5e9
    for trace in (large, small):
        assert_it_shows_its_name(trace, scenario.load()[trace.name])
        assert trace.meta.lab is not None
        assert trace.meta.lab.guest["seed"] == 5
        assert trace.meta.notes["for"] == "a test"
        assert len(trace.meta.notes["load_average_before"]) == 3
