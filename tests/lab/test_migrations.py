"""Real migrations between the lab's two hosts: what they leave in a trace, and that they leave nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import migkit as mk
from migkit.cli import main
from migkit.lab import guest, hosts, scenario

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


def _largest(trace: mk.Trace, name: str) -> float:
    return float(np.nanmax(trace.column(name)[trace.active]))


def _stall_s(trace: mk.Trace) -> float:
    """The longest time during which no data was sent."""
    sent, t = trace.column("memory_processed_bytes")[trace.active], trace.t_s[trace.active]
    moved = np.flatnonzero(np.diff(sent, prepend=-1) > 0)
    return float(np.diff(t[moved]).max())


def _downtime_ms(trace: mk.Trace) -> float:
    assert trace.meta.heartbeat is not None
    assert trace.meta.heartbeat.downtime_ms is not None
    return trace.meta.heartbeat.downtime_ms


def _lifecycle(trace: mk.Trace) -> set[tuple[int, int]]:
    events = trace.samples[trace.samples["source"] == "lifecycle"]
    return set(zip(events["lifecycle_event"], events["lifecycle_detail"], strict=True))


SHOWS: dict[str, Callable[[mk.Trace], bool]] = {
    "idle": lambda trace: _largest(trace, "memory_iteration") <= 3,
    "converge-fast": lambda trace: 2 <= _largest(trace, "memory_iteration") <= 8,
    "converge-slow": lambda trace: _largest(trace, "memory_iteration") > 8,
    "random-writes": lambda trace: _largest(trace, "memory_iteration") > 5,
    "hot-cold": lambda trace: _largest(trace, "memory_iteration") >= 3,
    "bursty": lambda trace: _largest(trace, "memory_iteration") >= 2,
    "nonconverging-aborted": lambda trace: trace.meta.end.outcome == "cancelled",
    "post-copy": lambda trace: (3, 7) in _lifecycle(trace),  # suspended, for post-copy
    "auto-converge": lambda trace: _largest(trace, "auto_converge_throttle_percent") >= 40,
    "suspend-midway": lambda trace: _downtime_ms(trace) > 1000,
    "downtime-raised": lambda trace: _largest(trace, "downtime_ms") > 300,
    "destination-stopped": lambda trace: _stall_s(trace) > 4,
    "link-down": lambda trace: _stall_s(trace) > 4,
    "bandwidth-lowered": lambda trace: float(np.nanmin(trace.column("memory_bps")[trace.active])) < 20 * 2**20,
    "block-then-ram": lambda trace: _largest(trace, "disk_total_bytes") == 128 * 2**20,
}


@pytest.mark.parametrize("name", scenario.load())
def test_a_scenario_shows_what_its_name_says(lab: Lab, tmp_path: Path, name: str) -> None:
    asked = scenario.load()[name]
    trace = recorded(lab, tmp_path, name)
    aborted = any(action.do == "abort" for action in asked.actions)
    assert trace.meta.end.outcome == ("cancelled" if aborted else "completed")
    done = trace.samples[trace.samples["source"] == "action"]
    assert list(done["action"])[: len(asked.actions)] == [action.do for action in asked.actions]
    assert done["succeeded"].all()
    assert (trace.meta.heartbeat is not None and trace.meta.heartbeat.downtime_ms is None) == aborted
    assert SHOWS[name](trace)
