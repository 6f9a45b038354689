"""Traces are made of journals in another process, and the loss of that process loses nothing."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from pathlib import Path

import pytest

from migkit.capture import finisher
from migkit.capture.finisher import Finisher
from migkit.capture.journal import Journal
from migkit.errors import UsageError
from migkit.meta import End, TraceMeta
from migkit.parquet import read_meta
from tests.capture.annotations import defect, killed, noted


class Answers(list):
    """What a finisher says, and how to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._more = threading.Semaphore(0)

    def __call__(self, journal, recording, wrong) -> None:
        self.append((journal, recording, wrong))
        self._more.release()

    def wait(self):
        assert self._more.acquire(timeout=60)
        return self[-1]


def journal(path: Path, rows: int = 3) -> Path:
    made = Journal(path, TraceMeta(end=End(outcome="completed")))
    for k in range(rows):
        made.append({"mono_ns": k, "wall_ns": 7 + k, "source": "poll", "job_type": 2})
    made.finish(TraceMeta(end=End(outcome="completed")))
    made.close()
    return path


@pytest.fixture
def answers():
    return Answers()


def test_a_journal_becomes_a_trace_with_what_there_is_to_say_of_its_rows(answers, tmp_path):
    made = Finisher(answers, noted)
    made.put(journal(tmp_path / "a.parquet.journal"))
    made.close()
    ((path, recording, wrong),) = answers
    assert (path.name, wrong) == ("a.parquet.journal", "")
    assert (recording.rows, recording.first_wall_ns, recording.last_wall_ns) == (3, 7, 9)
    rows, meta = read_meta(tmp_path / "a.parquet")
    assert (rows, meta.end.outcome, meta.notes["rows"]) == (3, "completed", 3)
    assert meta.notes["process"] != os.getpid()
    assert not path.exists()


def test_the_death_of_the_process_keeps_the_journal_and_the_next_is_made(answers, tmp_path, monkeypatch):
    made = Finisher(answers, killed)
    first = journal(tmp_path / "a.parquet.journal")
    made.put(first)
    assert answers.wait()[1:] == (None, f"{first}: no trace could be made of it (EOFError: Ran out of input), it stays")
    assert first.exists()
    monkeypatch.setattr(made, "_annotate", pickle.dumps(noted))
    made.put(first)
    assert answers.wait()[1].rows == 3
    made.close()


def test_a_defect_is_one_line_and_the_process_lives_on(answers, tmp_path):
    made = Finisher(answers, defect)
    made.put(journal(tmp_path / "a.parquet.journal"))
    said = answers.wait()[2]
    process = made._process
    made.put(journal(tmp_path / "b.parquet.journal"))
    answers.wait()
    assert made._process is process
    made.close()
    assert said.endswith("a.parquet.journal: a defect of migkit, please report it: ZeroDivisionError: oops")


def test_a_journal_without_a_row_goes_and_one_that_is_none_stays(answers, tmp_path):
    made = Finisher(answers)
    empty, alien = journal(tmp_path / "a.parquet.journal", rows=0), tmp_path / "b.parquet.journal"
    alien.write_text("precious")
    made.put(empty)
    made.put(alien)
    made.close()
    assert answers[0] == (empty, None, "")
    assert not empty.exists()
    assert "not a journal of migkit" in answers[1][2]
    assert alien.read_text() == "precious"


def test_the_process_ends_when_it_has_nothing_to_do(answers, tmp_path, monkeypatch):
    monkeypatch.setattr(finisher, "IDLE_S", 0.1)
    made = Finisher(answers)
    made.put(journal(tmp_path / "a.parquet.journal"))
    answers.wait()
    end = time.monotonic() + 60
    while made._process is not None:
        assert time.monotonic() < end
        time.sleep(0.01)
    made.put(journal(tmp_path / "b.parquet.journal"))
    assert answers.wait()[1].rows == 3
    made.close()


def test_the_process_ends_with_the_watcher_and_not_by_a_signal(tmp_path):
    process = finisher._started()
    finisher._send(process.stdin, (journal(tmp_path / "a.parquet.journal"), pickle.dumps(None)))
    pickle.load(process.stdout)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    finisher._send(process.stdin, (journal(tmp_path / "b.parquet.journal"), pickle.dumps(None)))
    assert pickle.load(process.stdout)[0].rows == 3
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()


def test_what_cannot_go_to_another_process_is_refused_at_once(answers):
    with pytest.raises(UsageError, match="annotate is called in another process"):
        Finisher(answers, lambda rows, meta: meta)
