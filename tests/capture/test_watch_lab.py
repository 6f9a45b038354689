"""A watcher beside real migrations: three at once, killed, and without its daemon for a while."""

from __future__ import annotations

import contextlib
import json
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import migkit as mk
from benchmarks.kills import wait_for_rows
from migkit.lab import domain, guest, heartbeat, hosts
from migkit.lab.heartbeat import Listener
from migkit.lab.scenario import Guest, Migration
from tests.lab.conftest import lab, lab_ready  # noqa: F401

if TYPE_CHECKING:
    from migkit.lab.control import Outcome
    from migkit.lab.hosts import Lab

pytestmark = pytest.mark.lab

NAMES = ("one", "two", "three")
# Three small guests that write in order, an eighth of the bandwidth: a dozen seconds, several passes.
SMALL = Guest(memory_mib=224, pattern="sequential", ws_mib=112, rate_mibps=2)
SLOW = Migration(bandwidth_mibps=16)


@contextlib.contextmanager
def guests(made: Lab, names: Sequence[str], told: Guest = SMALL) -> Iterator[None]:
    """Guests on the source, booted and with their memory filled; ended on both hosts afterwards."""
    from migkit.lab.control import Control

    image = guest.image()
    with contextlib.ExitStack() as stack:
        stack.enter_context(made.busy())
        listeners = [stack.enter_context(Listener(made.folder / f"serial-{k}")) for k in range(len(names))]
        control = stack.enter_context(Control(made))
        for name, listener in zip(names, listeners, strict=True):
            stack.callback(domain.remove_disks, made, name)
            stack.callback(control.end_guest, name)
            domain.make_disks(made, name, told)
            control.start_guest(domain.xml(name, told, image, serial=listener.path, accelerator=made.accelerator))
        for name, listener in zip(names, listeners, strict=True):
            assert listener.wait_for(lambda lines: bool(heartbeat.said(lines[-500:], "ready")), 120), name
        yield
        for name in names:
            control.end_guest(name)
        hosts.wait_until(lambda: not any(host.qemu(name) for host in made.hosts for name in names), 10)


@contextlib.contextmanager
def migrating(made: Lab, names: Sequence[str], how: Migration = SLOW) -> Iterator[list[Future[Outcome]]]:
    """Their migrations, all begun at the same moment; waited for at the block's end."""
    from migkit.lab.control import Control

    start = threading.Barrier(len(names))

    def migrate(name: str) -> Outcome:
        with Control(made) as control:
            start.wait(60)
            return control.migrate(name, how)

    with ThreadPoolExecutor(len(names)) as pool:
        yield [pool.submit(migrate, name) for name in names]


class Watching:
    """`migkit watch --json` on the lab's source host; `via` its prefix."""

    def __init__(self, made: Lab, output: Path, *, via: bool = False) -> None:
        place = ["qemu:///system", "--via", shlex.join(made.a.prefix)] if via else [made.a.read_only_uri]
        words = ["-m", "migkit", "watch", "-o", str(output), "--json", "-c", *place]
        self.notices: list[str] = []
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [sys.executable, *words, "--shadow", "kubevirt-1.9-stall"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        assert self.process.stderr.readline().startswith("migkit: watching")
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._ended.put)),
            threading.Thread(target=self._read, args=(self.process.stderr, self.notices.append)),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            code = self.process.wait(60)
        finally:
            self.kill()
        assert code == 0, self.notices

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(10)

    def ended(self, count: int) -> list[dict[str, Any]]:
        """The next lines."""
        return [json.loads(self._ended.get(timeout=120)) for _ in range(count)]

    @staticmethod
    def _read(stream: Any, take: Any) -> None:
        with stream:
            for line in stream:
                take(line)


def first_samples_ms(told: Sequence[dict[str, Any]]) -> list[int]:
    """How old each job was when its first sample was taken."""
    traces = [mk.load(one["path"]) for one in told]
    return [int(trace.samples["time_elapsed_ms"][trace.active].iloc[0]) for trace in traces]


@pytest.mark.smoke
def test_three_migrations_at_once_leave_three_good_traces(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    with guests(lab, NAMES), Watching(lab, tmp_path) as watcher:
        with migrating(lab, NAMES) as calls:
            pass
        told = watcher.ended(3)
        assert [call.result().succeeded for call in calls] == [True] * 3
    assert sorted(one["domain"] for one in told) == sorted(NAMES)
    assert {(one["outcome"], one["evidence"]) for one in told} == {("completed", "job-completed event")}
    assert all(one["shadow"][0]["policy"] == "kubevirt-1.9-stall" for one in told)
    traces = [mk.load(one["path"]) for one in told]
    for trace in traces:
        events = trace.samples["event_iteration"].dropna().astype(int)
        assert sorted(set(events)) == list(range(1, int(events.max()) + 1))
        assert trace.active.sum() > 30
        assert trace.meta.end.completed["downtime"] > 0
        assert trace.meta.domain.memory_bytes == SMALL.memory_mib * 2**20
        assert trace.meta.migration.downtime_limit_ms == 300
        assert trace.meta.cadence.gaps == ()
    begin = max(int(trace.samples["mono_ns"][trace.active].iloc[0]) for trace in traces)
    end = min(int(trace.samples["mono_ns"][trace.active].iloc[-1]) for trace in traces)
    assert end - begin > 2e9
    print("first sample of each job at (ms):", first_samples_ms(told))
    assert watcher.notices == ["migkit: stopped\n"]


def test_the_copying_of_disks_is_noticed_though_no_event_tells_of_it(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    with guests(lab, NAMES[:1], replace(SMALL, disk_mib=64)), Watching(lab, tmp_path, via=True) as watcher:
        with migrating(lab, NAMES[:1], replace(SLOW, block_copy=True)) as calls:
            pass
        (told,) = watcher.ended(1)
        assert calls[0].result().succeeded
    samples = mk.load(told["path"]).samples
    before = samples.iloc[: int((samples["source"] == "iteration").to_numpy().argmax())]
    assert (before["disk_total_bytes"] > 0).sum() > 5
    assert told["outcome"] == "completed"
    print("first sample of the disks' job at (ms):", first_samples_ms([told]))


def test_a_killed_watcher_is_followed_by_one_that_recovers_and_goes_on(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    names = NAMES[:2]
    with guests(lab, names):
        first = Watching(lab, tmp_path)
        with migrating(lab, names) as calls:
            for name in names:
                assert hosts.wait_until(lambda name=name: any(tmp_path.glob(f"{name}-*.journal")), 60)
            for journal in tmp_path.glob("*.journal"):
                wait_for_rows(first.process, journal)
            first.kill()
            with Watching(lab, tmp_path) as second:
                told = second.ended(4)
        assert [call.result().succeeded for call in calls] == [True] * 2
    for name in names:
        before, after = sorted((one for one in told if one["domain"] == name), key=lambda one: not one["recovered"])
        assert (before["outcome"], before["recovered"]) == ("interrupted", True)
        assert (after["outcome"], after["recovered"]) == ("completed", False)
        assert before["samples"] > 0
        assert after["samples"] > 0
        assert before["path"] != after["path"]
    assert list(tmp_path.glob("*.journal*")) == []


def test_the_death_of_the_source_daemon_is_a_gap_and_the_next_migration_is_recorded(
    lab: Lab, tmp_path: Path,  # noqa: F811
) -> None:  # fmt: skip
    names = NAMES[:2]
    with guests(lab, names), Watching(lab, tmp_path) as watcher:
        with migrating(lab, names) as calls:
            for name in names:
                assert hosts.wait_until(lambda name=name: any(tmp_path.glob(f"{name}-*.journal")), 60)
            for journal in tmp_path.glob("*.journal"):
                wait_for_rows(watcher.process, journal)
            assert lab.a.kill_daemon()
            lab.a.start_daemon()
            lost = watcher.ended(2)
        assert [call.result().succeeded for call in calls] == [False] * 2
        with migrating(lab, names[:1]) as again:
            (next_one,) = watcher.ended(1)
        assert again[0].result().succeeded
    assert {(one["outcome"], one["evidence"]) for one in lost} == {
        ("failed", "the job is gone and the guest runs on the source")
    }
    assert all(len(mk.load(one["path"]).meta.cadence.gaps) == 1 for one in lost)
    assert (next_one["domain"], next_one["outcome"]) == (names[0], "completed")
    assert next_one["evidence"] == "job-completed event"
    assert [line.partition(" (")[0].partition(" after")[0] for line in watcher.notices] == [
        "migkit: the connection was lost", "migkit: connected again", "migkit: stopped\n",
    ]  # fmt: skip
