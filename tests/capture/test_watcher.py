"""A watcher records every migration on a host, once, whole, and goes on whatever befalls it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import migkit as mk
from migkit.capture import outcome, watch
from migkit.capture import session as recording
from migkit.capture.course import Plan
from migkit.capture.fake import FakeDomain
from migkit.capture.fake_host import FakeHost
from migkit.capture.journal import Journal, journal_path
from migkit.capture.source import SourceError
from migkit.capture.watch_folder import Folder, Keep
from migkit.errors import MigkitError, UsageError
from migkit.meta import TraceMeta
from migkit.parquet import read
from migkit.units import MIB

SPEED = 8


@pytest.fixture(autouse=True)
def _as_impatient_as_the_domains_are_fast(monkeypatch):
    monkeypatch.setattr(outcome, "WITNESS_NS", outcome.WITNESS_NS // SPEED)
    monkeypatch.setattr(outcome, "SETTLE_NS", outcome.SETTLE_NS // SPEED)
    monkeypatch.setattr(watch, "LOOK_S", watch.LOOK_S / SPEED)
    monkeypatch.setattr(watch, "PACE_S", watch.PACE_S / SPEED)
    monkeypatch.setattr(watch, "BACK_OFF_S", (0.05,))


@dataclass
class Seen:
    """What a watcher told."""

    watcher: watch.Watcher
    ended: list[watch.Ended] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def wait_for(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, (self.ended, self.notices)
            time.sleep(0.01)

    def wait_until_ended(self, count: int) -> None:
        self.wait_for(lambda: len(self.ended) >= count)

    def by_domain(self) -> dict[str, watch.Ended]:
        return {one.domain: one for one in self.ended}


@contextlib.contextmanager
def watching(host: FakeHost, path: Path, **options) -> Iterator[Seen]:
    known = {"interval_ms": 100 / SPEED, "keep": Keep(), "mask_names": False, "annotate": None}
    folder, seen = Folder(path), Seen(None)
    seen.watcher = watch.Watcher(
        host, folder, **(known | options), on_end=seen.ended.append, on_notice=seen.notices.append
    )
    ready = threading.Event()
    thread = threading.Thread(target=seen.watcher.run, args=(ready.set,))
    thread.start()
    try:
        assert ready.wait(60)
        yield seen
    finally:
        seen.watcher.stop()
        thread.join(60)
        host.close()
        folder.close()
    assert not thread.is_alive()


def fake(scenario: str = "converge", seed: int = 0, **options) -> FakeDomain:
    options.setdefault("name", f"{scenario}-{seed}")
    return FakeDomain(scenario, seed=seed, speed=SPEED, **options)


def host(*domains: FakeDomain) -> FakeHost:
    return FakeHost(domains, speed=SPEED)


def rows_of(ended: watch.Ended) -> list[dict]:
    return read(ended.recording.path)[0].to_pylist()


def iterations_in(ended: watch.Ended) -> list[int]:
    return sorted(row["event_iteration"] for row in rows_of(ended) if row["source"] == "iteration")


def test_every_migration_of_a_host_becomes_a_trace_of_its_own_with_a_true_end(tmp_path):
    endings = {
        "converge": "completed", "fast": "completed", "abort": "cancelled", "failed": "failed",
        "post-copy": "completed", "post-copy-failed": "postcopy-failed", "vanish": "lost",
    }  # fmt: skip
    domains = [fake(name, k, name=name, start_ms=2000) for k, name in enumerate(endings)]
    with watching(host(*domains), tmp_path) as seen:
        seen.wait_until_ended(len(endings))
        told = {name: one.recording.meta.end.outcome for name, one in seen.by_domain().items()}
    assert told == endings
    for domain in domains:
        one = seen.by_domain()[domain.name]
        assert iterations_in(one) == list(range(1, max(leg.iteration for leg in domain.course.legs) + 1))
        assert one.recording.meta.cadence.recorder == "migkit watch"
        assert one.recording.meta.domain.memory_bytes == domain.course.plan.memory_bytes
    assert seen.notices == []
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", *[".parquet"] * len(endings)]


def test_the_file_is_called_by_the_domain_and_the_moment(tmp_path):
    with watching(host(fake("fast", name="web1")), tmp_path) as seen:
        seen.wait_until_ended(1)
    path = seen.ended[0].recording.path
    moment = time.strptime(path.name, "web1-%Y%m%dT%H%M%SZ.parquet")
    assert abs(time.mktime(moment) - time.mktime(time.gmtime())) < 60


class Deaf(FakeHost):
    """Nobody tells it of an event."""

    def _told(self, uuid, event):
        return


def test_the_look_round_finds_a_migration_that_no_event_tells_of(tmp_path):
    """Disks are copied before the first iteration."""
    made = Deaf([fake("abort", persistent=True)], speed=SPEED)
    with watching(made, tmp_path) as seen:
        seen.wait_until_ended(1)
    assert rows_of(seen.ended[0])[0]["source"] == "poll"
    assert seen.ended[0].recording.meta.end.outcome == "cancelled"


def test_a_migration_under_way_is_joined_at_once(tmp_path):
    with watching(host(fake("nonconverging", start_ms=-20_000)), tmp_path) as seen:
        seen.wait_for(lambda: list(tmp_path.glob("*.journal")))
    (one,) = seen.ended
    assert rows_of(one)[0]["time_elapsed_ms"] > 20_000
    assert one.recording.meta.end.outcome == "interrupted"


def test_a_domain_that_comes_later_is_watched_too(tmp_path):
    made = host(fake("idle"))
    with watching(made, tmp_path) as seen:
        made.add(fake("fast", 1, name="newcomer", start_ms=400))
        seen.wait_until_ended(1)
    assert seen.ended[0].domain == "newcomer"


def test_a_domain_that_migrates_again_has_another_trace(tmp_path):
    made = host(fake("abort", name="web1"))
    with watching(made, tmp_path) as seen:
        seen.wait_until_ended(1)
        made.add(fake("fast", name="web1", start_ms=4000))
        seen.wait_until_ended(2)
    assert [one.recording.meta.end.outcome for one in seen.ended] == ["cancelled", "completed"]
    assert len(list(tmp_path.glob("web1-*.parquet"))) == 2


def test_a_job_that_stays_after_a_failed_post_copy_is_recorded_once(tmp_path):
    # At the world's own speed: a job is known by when it began.
    plan = Plan(prepare_ms=100, postcopy_ms=600, mishap="postcopy-fail", mishap_ms=800)
    domain, looks = FakeDomain(plan=plan), itertools.count()
    made = FakeHost([domain])
    running = made.running
    made.running = lambda: (next(looks), running())[1]
    with watching(made, tmp_path) as seen:
        seen.wait_until_ended(1)
        before = next(looks)
        assert domain.job_stats()["type"] == 2
        seen.wait_for(lambda: next(looks) > before + 20)
    assert len(seen.ended) == 1


def test_a_job_that_is_no_migration_out_is_left_alone(tmp_path):
    domain = fake("nonconverging", start_ms=-1000)
    real, asked = domain.job_stats, itertools.count()
    domain.job_stats = lambda: (next(asked), real() | {"operation": 8})[1]
    with watching(Deaf([domain], speed=SPEED), tmp_path) as seen:
        seen.wait_for(lambda: next(asked) > 10)
    assert seen.ended == []
    assert list(tmp_path.glob("*.parquet*")) == []


def test_a_daemon_that_dies_and_comes_back_is_a_gap_and_the_watching_goes_on(tmp_path):
    made = host(fake("nonconverging", name="web1"), fake("nonconverging", 1, name="web2"))
    with watching(made, tmp_path) as seen:
        seen.wait_for(lambda: len(list(tmp_path.glob("*.journal"))) == 2)
        time.sleep(0.2)
        made.cut()
        seen.wait_for(lambda: seen.notices)
        time.sleep(0.2)
        made.restore()
        seen.wait_until_ended(2)
        made.add(fake("fast", 2, name="web3", start_ms=500))
        seen.wait_until_ended(3)
    assert seen.notices[0] == (
        "the connection was lost (internal error: client socket is closed), trying to connect again"
    )
    assert seen.notices[1].startswith("connected again after ")
    assert len(seen.notices) == 2
    for name in ("web1", "web2"):
        meta = seen.by_domain()[name].recording.meta
        assert (meta.end.outcome, meta.end.evidence) == ("failed", "the job is gone and the guest runs on the source")
        assert len(meta.cadence.gaps) == 1
    assert seen.by_domain()["web3"].recording.meta.end.outcome == "completed"


def test_the_end_of_the_watcher_keeps_what_there_is(tmp_path):
    with watching(host(*(fake("nonconverging", k) for k in range(3))), tmp_path) as seen:
        seen.wait_for(lambda: len(list(tmp_path.glob("*.journal"))) == 3)
    assert [one.recording.meta.end.outcome for one in seen.ended] == ["interrupted"] * 3
    assert list(tmp_path.glob("*.journal")) == []


def test_sigterm_ends_it_and_sighup_does_not(tmp_path):
    def ended(one):
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

    mk.watch(host(fake("fast")), output=tmp_path, on_end=ended)
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_a_second_watcher_of_a_folder_is_refused(tmp_path):
    with watching(host(), tmp_path), pytest.raises(MigkitError, match="another migkit watch writes there"):
        mk.watch(host(), output=tmp_path)
    Folder(tmp_path).close()


def test_what_a_killed_watcher_left_is_recovered_and_nothing_else_touched(tmp_path):
    left = Journal(tmp_path / "web1-20250101T000000Z.parquet.journal", TraceMeta())
    for k in range(3):
        left.append({"mono_ns": k, "wall_ns": k, "source": "poll", "job_type": 2})
    left.close()
    Journal(tmp_path / "web2-20250101T000000Z.parquet.journal", TraceMeta()).close()
    (tmp_path / ".web1-20250101T000000Z.parquet.77.part").write_text("begun")
    other = Journal(tmp_path / "by-hand.parquet.journal", TraceMeta())
    other.close()
    with watching(host(), tmp_path) as seen:
        seen.wait_until_ended(1)
        seen.wait_for(lambda: not (tmp_path / "web2-20250101T000000Z.parquet.journal").exists())
    (one,) = seen.ended
    assert (one.recovered, one.recording.rows, one.recording.meta.end.outcome) == (True, 3, "interrupted")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".migkit-watch.lock", "by-hand.parquet.journal", "web1-20250101T000000Z.parquet",
    ]  # fmt: skip


class Disk:
    """Journals find no room while it is full."""

    def __init__(self, monkeypatch) -> None:
        self.full, self._write = False, os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if self.full and os.readlink(f"/proc/self/fd/{fd}").endswith(".journal"):
            raise OSError(28, "No space left on device")
        return self._write(fd, data)


def test_a_full_disk_is_said_once_and_is_a_gap_once_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "FULL_PAUSE_NS", 10**7)
    disk = Disk(monkeypatch)
    domains = [fake("abort", k) for k in range(3)]
    with watching(host(*domains), tmp_path) as seen:
        seen.wait_for(lambda: all(domain.now_ms() > 2000 for domain in domains))
        disk.full = True
        seen.wait_for(lambda: all(domain.now_ms() > 4000 for domain in domains))
        disk.full = False
        seen.wait_until_ended(3)
    (notice,) = seen.notices
    assert notice.endswith("cannot be written (No space left on device); what is recorded stays, and watching goes on")
    for one in seen.ended:
        ((begin, end),) = one.recording.meta.cadence.gaps
        times = [row["mono_ns"] for row in rows_of(one)]
        assert min(times) < begin < end <= max(times)
        assert not [t for t in times if begin < t < end]
        assert (one.recording.meta.end.outcome, one.recording.skipped_bytes) == ("cancelled", 0)


def test_a_disk_that_stays_full_keeps_the_journal_until_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "HOUSEKEEPING_S", 0.2)
    disk = Disk(monkeypatch)
    domain = fake("abort")
    with watching(host(domain), tmp_path) as seen:
        seen.wait_for(lambda: domain.now_ms() > 2000)
        disk.full = True
        seen.wait_until_ended(1)
    (one,) = seen.ended
    assert one.recording.rows > 3
    assert one.recording.meta.end.evidence.endswith("the recorder was cut short, recovered from its journal")


def test_masked_names_are_in_no_trace_and_in_no_name(tmp_path):
    with watching(host(fake("fast", name="payroll-db")), tmp_path, mask_names=True) as seen:
        seen.wait_until_ended(1)
    (one,) = seen.ended
    assert one.domain == "payroll-db"
    assert one.recording.path.name.startswith("vm-")
    assert one.recording.meta.cadence.names_masked
    assert b"payroll" not in one.recording.path.read_bytes()


def test_a_domain_that_tells_no_stats_is_named_once(tmp_path):
    domain, asked = fake("idle", name="odd"), itertools.count()

    def job_stats():
        next(asked)
        raise SourceError(3, "this function is not supported")

    domain.job_stats = job_stats
    with watching(host(domain), tmp_path) as seen:
        seen.wait_for(lambda: next(asked) > 8)
    assert seen.notices == ["odd: job stats cannot be had: this function is not supported"]


def test_a_domain_that_goes_before_its_facts_are_had_leaves_its_name(tmp_path, monkeypatch):
    def facts(self):
        raise SourceError(42, "Domain not found")

    made = host(fake("fast", name="hasty"))
    monkeypatch.setattr(FakeDomain, "facts", facts)
    with watching(made, tmp_path) as seen:
        seen.wait_until_ended(1)
    assert (seen.ended[0].domain, seen.ended[0].recording.meta.domain.memory_bytes) == ("hasty", None)


def test_a_defect_ends_the_watcher_in_one_line(tmp_path):
    made = host()
    made.running = lambda: [("not", "two", "values")]
    with pytest.raises(MigkitError, match="a defect of migkit, please report it: ValueError"):
        mk.watch(made, output=tmp_path)


def test_an_error_of_the_caller_ends_the_watcher_and_reaches_the_caller(tmp_path):
    def ended(one):
        raise ZeroDivisionError("oops")

    with pytest.raises(ZeroDivisionError, match="oops"):
        mk.watch(host(fake("fast")), output=tmp_path, on_end=ended)
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_the_oldest_traces_make_room(tmp_path):
    old = tmp_path / "gone-20200101T000000Z.parquet"
    old.write_bytes(b"x" * MIB)
    with watching(host(fake("fast", name="web1")), tmp_path, keep=Keep(total_bytes=MIB)) as seen:
        seen.wait_until_ended(1)
        seen.wait_for(lambda: seen.notices)
    assert seen.notices == [f"removed {old.name}, the oldest"]
    assert not old.exists()
    assert seen.ended[0].recording.path.exists()


def test_a_folder_that_is_removed_is_said_and_the_watching_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "HOUSEKEEPING_S", 0.05)
    made = host()
    with watching(made, tmp_path / "traces") as seen:
        shutil.rmtree(tmp_path / "traces")
        seen.wait_for(lambda: seen.notices)
        (tmp_path / "traces").mkdir()
        made.add(fake("fast", name="web1", start_ms=400))
        seen.wait_until_ended(1)
    assert seen.notices == [f"{tmp_path}/traces: cannot be read any more (No such file or directory)"]


def test_an_interval_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(UsageError, match="interval 0 ms: must be"):
        mk.watch(host(), output=tmp_path, interval_ms=0)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_keeps_none_of_its_rows_in_memory(tmp_path):
    domain = FakeDomain("idle")
    session = recording.Session(domain, tmp_path / "a.parquet", interval_ms=100)
    session._attach(domain.facts())
    session._journal = Journal(journal_path(tmp_path / "a.parquet"), session.meta)

    def traced_after(count: int) -> int:
        for k in range(count):
            row = {"mono_ns": k, "wall_ns": k, "source": "poll", "job_type": 2, "operation": 5, "time_elapsed_ms": k}
            session._take(row, wait=True)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before = traced_after(2000)
    grown = traced_after(6000) - before
    tracemalloc.stop()
    session._journal.close(remove=True)
    assert grown < 6000
