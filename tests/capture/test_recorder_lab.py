"""The recorder beside real migrations: killed, cut off from its daemon, behind a relay."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.kills import kill_one, wait_for_rows
from migkit.capture.journal import journal_path
from migkit.lab import guest, hosts
from tests.lab.conftest import lab, lab_ready  # noqa: F401

if TYPE_CHECKING:
    from migkit.lab.hosts import Host, Lab

pytestmark = pytest.mark.lab
MIGKIT = (sys.executable, "-m", "migkit")


@contextlib.contextmanager
def migration(made: Lab, scenario: str, output: Path) -> Iterator[None]:
    """A migration of the lab that is under way or about to be, while the block runs."""
    words = [*MIGKIT, "lab", "record", scenario, "-o", str(output), "--dir", str(made.folder)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert hosts.wait_until(lambda: made.a.qemu(scenario) is not None, 60)
        yield
        process.wait(120)


def recorder(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*MIGKIT, "record", *words, "--json"], stdout=subprocess.PIPE, text=True)


def test_ten_recorders_killed_during_a_real_migration_leave_all_they_had(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    uri, name = lab.a.read_only_uri, "nonconverging-aborted"
    with migration(lab, name, tmp_path), ThreadPoolExecutor(5) as pool:
        kills = list(pool.map(lambda seed: kill_one(tmp_path, seed, domain=name, uri=uri), range(10)))
    assert [kill.error for kill in kills] == [""] * 10
    assert all(kill.rows > 0 for kill in kills)


def test_names_are_masked_and_a_relay_to_the_socket_will_do(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    via = ["--via", shlex.join(lab.a.prefix), "--via-socket", "/run/libvirt/libvirt-sock-ro", "-c", "qemu:///system"]
    with migration(lab, "idle", tmp_path):
        process = recorder("idle", *via, "--mask-names", "-o", str(tmp_path / "masked.parquet"))
        told = json.loads(process.communicate(timeout=120)[0])
    assert (process.returncode, told["outcome"], told["evidence"]) == (0, "completed", "job-completed event")
    assert b"idle" not in (tmp_path / "masked.parquet").read_bytes()


def test_a_daemon_that_is_killed_and_started_again_is_a_gap(lab_ready: None, tmp_path: Path) -> None:  # noqa: F811
    with tempfile.TemporaryDirectory(prefix="mklab", dir="/var/tmp") as temporary:
        folder, output = Path(temporary) / "lab", tmp_path / "gap.parquet"
        made = hosts.up(folder, accelerator=guest.accelerator(guest.image()))
        try:
            with migration(made, "nonconverging-aborted", tmp_path):
                process = recorder("nonconverging-aborted", "-c", made.a.read_only_uri, "-o", str(output))
                wait_for_rows(process, journal_path(output))
                _restart(made.a)
                told = json.loads(process.communicate(timeout=120)[0])
        finally:
            hosts.down(folder)
    assert (told["outcome"], told["evidence"]) == ("failed", "the job is gone and the guest runs on the source")
    import migkit as mk

    trace = mk.load(output)
    assert len(trace.meta.cadence.gaps) == 1
    assert trace.active.sum() > 0


def _restart(host: Host) -> None:
    pid = int((host.folder / "run" / "libvirtd.pid").read_text())
    assert pid in host.processes()
    hosts._kill(pid, signal.SIGKILL)
    hosts._start_daemon(host)
