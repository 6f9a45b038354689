"""The recorder keeps what the domain served, tells the end truthfully, and stops in one line."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

import migkit as mk
from migkit.capture import outcome, recorder, sampler, session
from migkit.capture.fake import FakeDomain
from migkit.capture.journal import journal_path
from migkit.capture.source import Event, Facts, SourceError
from migkit.capture.stats_row import row_from_stats
from migkit.errors import MigkitError, UsageError
from migkit.meta import Disk, Domain, Host
from migkit.parquet import read

SPEED = 8


@pytest.fixture(autouse=True)
def _as_impatient_as_the_domain_is_fast(monkeypatch):
    monkeypatch.setattr(outcome, "WITNESS_NS", outcome.WITNESS_NS // SPEED)
    monkeypatch.setattr(outcome, "SETTLE_NS", outcome.SETTLE_NS // SPEED)
    monkeypatch.setattr(session, "DESTINATION_S", session.DESTINATION_S / SPEED)


def recorded(domain: FakeDomain, path: Path, **options):
    result = mk.record(domain, output=path / "a.parquet", interval_ms=100 / domain.speed, **options)
    rows = [{k: v for k, v in row.items() if v is not None} for row in read(result.path)[0].to_pylist()]
    return result, rows


def stop_at_call(domain: FakeDomain, number: int) -> FakeDomain:
    """Presses Ctrl-C when the domain is asked for the `number`-th time."""
    real, calls = domain.job_stats, itertools.count(1)

    def job_stats():
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return real()

    domain.job_stats = job_stats
    return domain


def not_as_served(rows, domain: FakeDomain) -> list[dict]:
    """Rows with stats of a running job that differ from what the domain serves at that moment."""
    wrong = []
    for row in rows:
        if row.get("job_type") == 2:
            served = row_from_stats(domain.answer(row["time_elapsed_ms"] + domain.course.plan.start_ms))
            wrong += [row] if any(row[name] != value for name, value in served.items()) else []
    return wrong


@pytest.mark.parametrize(
    ("scenario", "ending", "evidence"),
    [
        ("converge", "completed", "job-completed event"),
        ("fast", "completed", "job-completed event"),
        ("abort", "cancelled", "job type cancelled"),
        ("failed", "failed", "job type failed"),
        ("post-copy", "completed", "job-completed event"),
        ("post-copy-failed", "postcopy-failed", "lifecycle event: suspended, post-copy failed"),
        ("daemon-restart", "failed", "the job is gone and the guest runs on the source"),
        ("vanish", "lost", "nobody said how it ended"),
    ],
)
def test_what_was_served_is_what_is_stored_and_the_end_is_true(scenario, ending, evidence, tmp_path):
    domain = FakeDomain(scenario, speed=SPEED, seed=1)
    result, rows = recorded(domain, tmp_path)
    assert (result.meta.end.outcome, result.meta.end.evidence) == (ending, evidence)
    assert not_as_served(rows, domain) == []
    assert sum(row.get("job_type") == 2 for row in rows) > (20 if scenario != "fast" else 1)
    assert not journal_path(result.path).exists()
    assert result.meta.provenance == "simulated"


def test_every_iteration_event_is_kept_once(tmp_path):
    domain = FakeDomain("converge", speed=SPEED)
    _, rows = recorded(domain, tmp_path)
    seen = [row["event_iteration"] for row in rows if row["source"] == "iteration"]
    assert sorted(seen) == list(range(1, domain.course.legs[-1].iteration + 1))
    assert all(row["event_lag_us"] >= row["latency_us"] for row in rows if "event_lag_us" in row)


def test_events_stand_where_they_came_and_the_rows_are_in_order(tmp_path):
    _, rows = recorded(FakeDomain("converge", speed=SPEED), tmp_path)
    times = [row["mono_ns"] for row in rows]
    assert times == sorted(times)
    changes = [(row["lifecycle_event"], row["lifecycle_detail"]) for row in rows if row["source"] == "lifecycle"]
    assert changes == [(3, 1), (5, 3)]
    (job,) = [row for row in rows if row["source"] == "job"]
    assert job["time_elapsed_net_ms"] > 0
    assert rows[0]["domain_state"] == 1


def test_the_final_stats_are_those_of_the_event(tmp_path):
    domain = FakeDomain("converge", speed=SPEED)
    result, _ = recorded(domain, tmp_path)
    assert result.meta.end.completed == domain.course.final_stats()
    assert result.meta.end.completed_from == "event"
    assert result.meta.migration.downtime_limit_ms == 300


def test_a_downtime_limit_that_changes_is_noted_with_its_moment(tmp_path):
    domain = FakeDomain("nonconverging", speed=SPEED)
    domain.max_downtime_ms = lambda: 300 if domain.now_ms() < 2000 else 4000
    result, rows = recorded(stop_at_call(domain, 250), tmp_path)
    assert result.meta.migration.downtime_limit_ms == 300
    (first, limit), (second, raised) = result.meta.notes["downtime_limits_ms"]
    assert (limit, raised) == (300, 4000)
    assert rows[0]["mono_ns"] < first < second < rows[-1]["mono_ns"]


def test_a_recorder_waits_and_keeps_nothing_of_the_time_before(tmp_path):
    domain = FakeDomain("fast", speed=SPEED, start_ms=4000)
    ready = []
    _, rows = recorded(domain, tmp_path, on_ready=lambda: ready.append(domain.now_ms() < 4000))
    assert ready == [True]
    assert rows[0]["job_type"] == 2
    assert not_as_served(rows, domain) == []


def test_the_destination_knows_the_end_of_a_domain_that_vanished(tmp_path):
    there = FakeDomain("arrived", speed=SPEED)
    result, _ = recorded(FakeDomain("vanish", speed=SPEED), tmp_path, destination=there)
    assert result.meta.end.outcome == "completed"
    assert result.meta.end.completed_from == "destination"
    assert result.meta.end.completed == there.course.final_stats()


class Told:
    """A destination that still has the stats of an earlier migration."""

    def completed_stats(self):
        return {"memory_processed": 5}

    def reopen(self):
        raise AssertionError

    def close(self):
        raise AssertionError


def test_stats_of_an_earlier_migration_prove_nothing(tmp_path):
    result, _ = recorded(FakeDomain("vanish", speed=20), tmp_path, destination=Told())
    assert result.meta.end.outcome == "lost"


class Silent(FakeDomain):
    """Loses its events on the way."""

    def _events(self, before, leg):
        return iter(())


def test_a_persistent_source_knows_the_end_without_any_event(tmp_path):
    domain = Silent("converge", speed=SPEED, persistent=True)
    result, _ = recorded(domain, tmp_path)
    assert result.meta.end.outcome == "completed"
    assert result.meta.end.evidence == "domain state: shut off, migrated"
    assert result.meta.end.completed_from == "source"


def test_a_lost_connection_is_a_gap_in_the_record(tmp_path):
    result, rows = recorded(FakeDomain("daemon-restart", speed=4), tmp_path)
    ((begin, end),) = result.meta.cadence.gaps
    assert end > begin
    assert 38 in [row.get("error_code") for row in rows]
    assert not [row for row in rows if begin < row["mono_ns"] < end]


def test_a_connection_that_stays_lost_ends_the_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(sampler, "RECONNECT_S", 0.2)
    monkeypatch.setattr(sampler, "RECONNECT_PAUSE_S", 0.05)
    domain = FakeDomain("daemon-restart", speed=4)
    monkeypatch.setattr(domain, "reopen", lambda: domain.job_stats())
    result, _ = recorded(domain, tmp_path)
    assert (result.meta.end.outcome, result.meta.end.evidence) == ("lost", "the connection was lost")
    assert result.meta.end.error_code == 38


def test_ctrl_c_keeps_what_there_is(tmp_path):
    domain = stop_at_call(FakeDomain("nonconverging", speed=SPEED), 30)
    result, rows = recorded(domain, tmp_path)
    assert result.meta.end.outcome == "interrupted"
    assert len(rows) >= 29
    assert not_as_served(rows, domain) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_acts_while_a_call_hangs(tmp_path):
    domain = FakeDomain("nonconverging")
    answers, hang = itertools.count(), threading.Event()

    def job_stats():
        if next(answers) > 3:
            os.kill(os.getpid(), signal.SIGINT)
            hang.wait(60)
        return domain.answer(1000)

    domain.job_stats = job_stats
    begin = time.monotonic()
    result, rows = recorded(domain, tmp_path)
    hang.set()
    assert result.meta.end.outcome == "interrupted"
    assert len(rows) == 4
    assert time.monotonic() - begin < 30


def when_it_is_over(domain: FakeDomain, act) -> FakeDomain:
    """Acts once the migration's last event has come, before the recorder sees it."""
    real = domain._events

    def events(before, leg):
        for event in real(before, leg):
            if event.kind == "job":
                act()
            yield event

    domain._events = events
    return domain


def test_ctrl_c_while_the_trace_is_being_written_is_not_swallowed(tmp_path, monkeypatch):
    real = recorder.finalise

    def finalise(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **options)

    monkeypatch.setattr(recorder, "finalise", finalise)
    result, _ = recorded(FakeDomain("fast", speed=SPEED), tmp_path)
    assert (result.stopped, result.meta.end.outcome) == (True, "completed")
    monkeypatch.undo()
    assert not mk.record(FakeDomain("fast", speed=SPEED), output=tmp_path / "b.parquet").stopped


def test_a_journal_that_is_removed_while_recording_costs_nothing(tmp_path):
    path = journal_path(tmp_path / "a.parquet")
    domain = when_it_is_over(FakeDomain("fast", speed=SPEED), path.unlink)
    result, rows = recorded(domain, tmp_path)
    assert result.meta.end.outcome == "completed"
    assert not_as_served(rows, domain) == []
    assert [found.name for found in tmp_path.iterdir()] == ["a.parquet"]


def test_a_journal_that_is_moved_while_recording_costs_nothing(tmp_path):
    path, elsewhere = journal_path(tmp_path / "a.parquet"), tmp_path / "elsewhere"
    result, _ = recorded(when_it_is_over(FakeDomain("fast", speed=SPEED), lambda: path.rename(elsewhere)), tmp_path)
    assert result.meta.end.outcome == "completed"
    assert mk.recover(elsewhere, tmp_path / "b.parquet").rows == result.rows


def test_a_folder_that_is_moved_while_recording_is_found(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    with pytest.raises(MigkitError, match=r"cannot be written \(No such file or directory\)") as caught:
        recorded(when_it_is_over(FakeDomain("fast", speed=SPEED), lambda: old.rename(new)), old)
    assert str(caught.value).endswith(f"; the recording is kept: migkit recover {new}/a.parquet.journal")
    assert mk.recover(new / "a.parquet.journal").meta.end.outcome == "completed"


def test_a_folder_that_is_removed_while_recording_leaves_a_copy(tmp_path, monkeypatch):
    (tmp_path / "room").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "room"))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(MigkitError, match=r"the recording is kept: migkit recover .*room.*a\.parquet\.journal$"):
        recorded(when_it_is_over(FakeDomain("fast", speed=SPEED), lambda: shutil.rmtree(folder)), folder)
    (copy,) = (tmp_path / "room").iterdir()
    assert mk.recover(copy).meta.end.outcome == "completed"


def test_a_removed_journal_that_cannot_be_written_any_more_is_copied_and_named(tmp_path, monkeypatch):
    """The disk is full and the journal has lost its name, both."""
    path = journal_path(tmp_path / "a.parquet")
    domain = FakeDomain("nonconverging", speed=SPEED)
    real, calls = os.write, itertools.count()

    def write(fd, data):
        if next(calls) > 20:
            path.unlink(missing_ok=True)
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(MigkitError, match=r"rows are kept: migkit recover .*a\.parquet\.journal$"):
        recorded(domain, tmp_path)
    monkeypatch.undo()
    assert mk.recover(path).rows > 10


def test_ctrl_c_before_the_migration_leaves_nothing(tmp_path):
    with pytest.raises(MigkitError, match="nothing was recorded"):
        recorded(stop_at_call(FakeDomain("idle"), 3), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_wait_needs_a_running_migration(tmp_path):
    with pytest.raises(MigkitError, match="no migration is running; leave out --no-wait"):
        recorded(FakeDomain("idle"), tmp_path, wait=False)
    assert list(tmp_path.iterdir()) == []


def test_slots_that_a_slow_call_swallowed_are_skipped(tmp_path):
    domain = stop_at_call(FakeDomain("nonconverging", speed=SPEED), 30)
    slow, begun = domain.job_stats, []

    def job_stats():
        begun.append(time.monotonic_ns())
        time.sleep(0.033)
        return slow()

    domain.job_stats = job_stats
    result = mk.record(domain, output=tmp_path / "a.parquet", interval_ms=10)
    span_ms = (begun[-1] - begun[0]) / 1e6
    assert result.samples <= span_ms / 30 + 2


def test_a_job_that_is_no_migration_is_not_recorded(tmp_path):
    domain = FakeDomain("fast", speed=SPEED, start_ms=1500)
    real = domain.job_stats

    def job_stats():
        stats = real()
        return {"type": 2, "operation": 8} if stats["type"] == 0 else stats

    domain.job_stats = job_stats
    _, rows = recorded(domain, tmp_path)
    assert {row["operation"] for row in rows if "operation" in row} == {5}


def test_an_unknown_key_of_a_newer_libvirt_is_kept(tmp_path):
    domain = FakeDomain("fast", speed=SPEED)
    real = domain.job_stats
    domain.job_stats = lambda: real() | {"quantum_state": 7}
    _, rows = recorded(domain, tmp_path)
    assert {row["extra"] for row in rows if row.get("job_type") == 2} == {'{"quantum_state":7}'}


def test_masked_names_are_nowhere_in_the_trace(tmp_path):
    secret = Domain(
        name="payroll-db", uuid="b6f3ac8e-0000-4000-8000-000000000001",
        disks=(Disk(target="vda", source="/srv/payroll.qcow2", capacity_bytes=7),), has_vfio=False,
    )  # fmt: skip
    domain = FakeDomain("vanish", speed=20, name="payroll-db")
    facts = Facts(domain=secret, host=Host(name="rack7"), provenance="simulated", origin="x", via="ssh rack7")
    domain.facts = lambda: facts
    result, rows = recorded(domain, tmp_path, mask_names=True)
    everything = repr(rows) + result.meta.to_json()
    for name in ("payroll", "b6f3ac8e", "rack7", "/srv"):
        assert name not in everything
    assert result.meta.domain.name == result.meta.domain.uuid == "vm-db9e02b0"
    assert result.meta.domain.disks[0].capacity_bytes == 7
    assert result.meta.cadence.names_masked


def test_a_disk_that_is_full_stops_the_recording_and_keeps_it(tmp_path, monkeypatch):
    real, calls = os.write, itertools.count()

    def write(fd, data):
        if next(calls) > 20:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(
        MigkitError, match=r"No space left on device\): recording stopped, \d+ rows are kept: migkit re"
    ):
        recorded(FakeDomain("nonconverging", speed=SPEED), tmp_path)
    monkeypatch.undo()
    assert mk.recover(tmp_path / "a.parquet.journal").rows > 10


def test_a_trace_that_cannot_be_written_is_still_in_the_journal(tmp_path, monkeypatch):
    real = os.replace

    def replace(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(
        MigkitError, match=r"No space left.*; the recording is kept: migkit recover .*a\.parquet\.journal"
    ):
        recorded(FakeDomain("fast", speed=SPEED), tmp_path)
    monkeypatch.setattr(os, "replace", real)
    assert mk.recover(tmp_path / "a.parquet.journal").meta.end.outcome == "completed"


def test_outputs_that_cannot_be_are_refused_at_once(tmp_path):
    domain = FakeDomain("idle")
    (tmp_path / "there.parquet").write_text("precious")
    for output, said in [
        (tmp_path / "there.parquet", "exists already"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "a.parquet", "cannot be written"),
        ("/proc/a.parquet", "cannot be written"),
        ("/dev/full", "no ordinary file"),
    ]:
        with pytest.raises(MigkitError, match=said):
            mk.record(domain, output=output)
    with pytest.raises(UsageError, match="interval 0 ms: must be"):
        mk.record(domain, output=tmp_path / "a.parquet", interval_ms=0)
    assert (tmp_path / "there.parquet").read_text() == "precious"


def test_a_domain_that_goes_away_before_is_said(tmp_path):
    domain = FakeDomain("idle")

    def job_stats():
        raise SourceError(42, "Domain not found")

    domain.job_stats = job_stats
    with pytest.raises(MigkitError, match="went away before a migration began"):
        recorded(domain, tmp_path)


def test_an_event_without_a_sample_is_kept_at_the_end():
    """The sampler is told to stop while an iteration event waits for its sample."""
    domain = FakeDomain("idle")
    asked = sampler.Sampler(domain, sampler.SimpleQueue(), 100)
    asked.take_event(Event(kind="iteration", iteration=7, mono_ns=5, wall_ns=6))
    asked._thread.start()
    rows = asked.stop(5)
    assert rows in ([{"mono_ns": 5, "wall_ns": 6, "source": "iteration", "event_iteration": 7}], [])


def test_what_record_returns_describes_the_trace(tmp_path):
    result, rows = recorded(FakeDomain("fast", speed=SPEED), tmp_path)
    assert result.rows == len(rows)
    assert result.duration_ms == result.meta.end.completed["time_elapsed"]
    assert dataclasses.is_dataclass(result)
    assert mk.load(result.path).meta == result.meta


def test_a_defect_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    class Defect(FakeDomain):
        def answer(self, at_ms):
            if at_ms > 1500:
                raise ZeroDivisionError("oops")
            return super().answer(at_ms)

    domain = Defect("nonconverging")
    with pytest.raises(MigkitError, match=r"a defect of migkit.*ZeroDivisionError: oops.*migkit recover") as caught:
        mk.record(domain, output=tmp_path / "x.parquet", interval_ms=50)
    domain.close()
    assert "\n" not in str(caught.value)
    assert mk.recover(tmp_path / "x.parquet.journal", tmp_path / "y.parquet").meta.end.outcome == "interrupted"
