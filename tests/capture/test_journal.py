"""The journal keeps every row through kills, cuts and flipped bits."""

from __future__ import annotations

import fcntl
import os
import resource
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migkit import parquet
from migkit.capture import journal, journal_file
from migkit.capture.frames import LAYOUT, MAGIC, frame, pack_row, unpack_row
from migkit.capture.journal import Journal, recover
from migkit.cli import main
from migkit.errors import MigkitError, UsageError
from migkit.meta import Domain, End, TraceMeta

META = TraceMeta(provenance="simulated", domain=Domain(name="guest"))
ROWS = [
    {"mono_ns": 10**12 + k, "wall_ns": k, "source": "poll", "job_type": 2, "data_remaining_bytes": 2**64 - 1 - k}
    for k in range(6)
] + [{"mono_ns": 2 * 10**12, "wall_ns": 7, "source": "poll", "error_code": 42, "error_text": "no domain \xabMJ1 'ä'"}]

VALUES = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "bool": st.booleans(),
    "string": st.text(st.characters(codec="utf-8"), max_size=40),
}
ANY_ROW = st.fixed_dictionaries(
    {"mono_ns": VALUES["int64"], "wall_ns": VALUES["int64"], "source": st.sampled_from(["poll", "job"])},
    optional={name: VALUES[dtype] for name, dtype in LAYOUT if name not in ("mono_ns", "wall_ns", "source")},
)


def within_a_week(row):
    """A trace is not longer than that, whatever a journal may hold."""
    most = {"mono_ns": 6 * 10**14, "time_elapsed_ms": 6 * 10**8}
    return {name: value % most[name] if name in most else value for name, value in row.items()}


def written(path: Path, rows, *, finish: bool = False) -> Path:
    made = Journal(path, META)
    for row in rows:
        made.append(row)
    if finish:
        made.finish(META)
    made.close()
    return path


@given(row=ANY_ROW)
def test_a_row_comes_back_as_it_was(row):
    assert unpack_row(pack_row(row)) == row


@given(rows=st.lists(ANY_ROW.map(within_a_week), min_size=1, max_size=5))
def test_a_recovered_trace_holds_the_rows_of_the_journal(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("journal")
    recovered = recover(written(folder / "a.parquet.journal", rows))
    stored = parquet.read(recovered.path)[0].to_pylist()
    found = [{name: value for name, value in row.items() if value is not None} for row in stored]
    assert found == sorted(rows, key=lambda row: row["mono_ns"])


def _starts(data: bytes) -> list[int]:
    """Where the row frames begin."""
    return [k for k in range(len(data)) if data.startswith(MAGIC + b"R", k)]


def test_a_cut_at_any_byte_of_the_last_two_rows_keeps_all_others(tmp_path):
    data = written(tmp_path / "whole", ROWS).read_bytes()
    second_last, last = _starts(data)[-2:]
    for size in range(second_last, len(data)):
        (tmp_path / "cut").write_bytes(data[:size])
        assert journal.read(tmp_path / "cut").rows == ROWS[: 5 if size < last else 6]


def test_a_flipped_bit_at_any_byte_of_the_last_two_rows_costs_that_row_alone(tmp_path):
    data = written(tmp_path / "whole", ROWS).read_bytes()
    second_last, last = _starts(data)[-2:]
    for place in range(second_last, len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            (tmp_path / "flipped").write_bytes(damaged)
            contents = journal.read(tmp_path / "flipped")
            assert contents.rows == [row for k, row in enumerate(ROWS) if k != (5 if place < last else 6)]
            assert contents.skipped_bytes > 0


@pytest.mark.parametrize("place", range(20))
def test_a_damaged_beginning_costs_no_row(place, tmp_path):
    data = bytearray(written(tmp_path / "whole", ROWS).read_bytes())
    data[place] ^= 0xFF
    (tmp_path / "damaged").write_bytes(data)
    assert journal.read(tmp_path / "damaged").rows == ROWS


@pytest.mark.parametrize("size", [4096, 16384])
def test_a_destroyed_beginning_costs_no_row_behind_it(size, tmp_path):
    """The metadata comes again, and the header beside it: the outcome and the names are known all the same."""
    rows = [ROWS[k % 7] | {"mono_ns": k} for k in range(200)]
    path = written(tmp_path / "a.parquet.journal", rows)
    data = path.read_bytes()
    gone = sum(place < size for place in _starts(data))
    path.write_bytes(bytes(size) + data[size:])
    contents = journal.read(path)
    assert contents.rows == rows[gone:]
    assert contents.skipped_bytes >= size
    assert recover(path).meta.domain.name == "guest"


def test_a_header_anywhere_tells_the_columns(tmp_path):
    """Of a journal by other columns than today's only the last header is intact."""
    columns = [("source", "string"), ("mono_ns", "int64")]
    rows = [{"source": "poll", "mono_ns": k} for k in range(3)]
    head = frame(b"H", b'{"schema_version":1,"columns":[["source","string"],["mono_ns","int64"]]}')
    (tmp_path / "a").write_bytes(b"".join(frame(b"R", pack_row(row, columns)) for row in rows) + head)
    assert journal.read(tmp_path / "a").rows == rows


def test_without_any_header_the_columns_are_todays(tmp_path):
    path = tmp_path / "a.parquet.journal"
    path.write_bytes(b"".join(frame(b"R", pack_row(row)) for row in ROWS))
    assert journal.read(path).rows == ROWS
    assert "metadata is destroyed" in recover(path).meta.origin


def test_rows_that_do_not_fit_the_guessed_columns_are_damage(tmp_path):
    alien = frame(b"R", pack_row({"mono_ns": 5, "job_type": 2}, [("job_type", "int32"), ("mono_ns", "int64")]))
    (tmp_path / "a").write_bytes(alien + frame(b"R", pack_row(ROWS[0])))
    contents = journal.read(tmp_path / "a")
    assert (contents.rows, contents.skipped_bytes) == (ROWS[:1], len(alien))


def test_a_row_longer_than_its_columns_is_damage(tmp_path):
    path = written(tmp_path / "a", ROWS[:2])
    path.write_bytes(path.read_bytes() + frame(b"R", pack_row(ROWS[2]) + b"more"))
    assert journal.read(path).rows == ROWS[:2]


@given(junk=st.binary(max_size=200))
def test_junk_between_frames_is_stepped_over(junk, tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "a"
    written(path, ROWS[:2])
    path.write_bytes(path.read_bytes() + junk + frame(b"R", pack_row(ROWS[2])))
    assert journal.read(path).rows[:2] == ROWS[:2]
    if MAGIC not in junk:
        assert journal.read(path).rows == ROWS[:3]


def test_what_does_not_fit_its_column_is_kept_in_extra(tmp_path):
    odd = {**ROWS[0], "memory_bps": -1, "operation": "out", "extra": '{"new":1}'}
    (row,) = journal.read(written(tmp_path / "a", [odd])).rows
    assert row == {**ROWS[0], "extra": '{"memory_bps":-1,"new":1,"operation":"out"}'}


def test_without_a_last_word_the_recording_was_interrupted(tmp_path):
    recovered = recover(written(tmp_path / "a.parquet.journal", ROWS[:3]))
    assert recovered.meta.end.outcome == "interrupted"
    assert "recovered from its journal" in recovered.meta.end.evidence
    assert recovered.meta.domain.name == "guest"


def test_rows_that_prove_the_end_are_believed_without_a_last_word(tmp_path):
    event = {"mono_ns": 3 * 10**12, "wall_ns": 9, "source": "job", "operation": 5, "downtime_ms": 33}
    end = recover(written(tmp_path / "a.parquet.journal", [*ROWS[:3], event])).meta.end
    assert (end.outcome, end.completed) == ("completed", {"operation": 5, "downtime": 33})
    assert "the recorder was cut short" in end.evidence


def test_the_last_word_of_the_recorder_counts(tmp_path):
    made = Journal(tmp_path / "a.parquet.journal", META)
    made.append(ROWS[0])
    made.finish(TraceMeta(end=End(outcome="cancelled", evidence="job type cancelled")))
    made.close()
    assert recover(made.path).meta.end == End(outcome="cancelled", evidence="job type cancelled")


def test_an_intact_journal_is_removed_and_a_damaged_one_is_kept(tmp_path):
    whole, damaged = tmp_path / "a.parquet.journal", tmp_path / "b.parquet.journal"
    written(whole, ROWS)
    damaged.write_bytes(whole.read_bytes()[:-1])
    assert recover(whole).skipped_bytes == 0
    assert recover(damaged).skipped_bytes > 0
    assert [path.name for path in tmp_path.iterdir() if "journal" in path.name] == ["b.parquet.journal.damaged"]


def test_a_damaged_journal_takes_no_older_ones_name(tmp_path):
    for _ in range(2):
        path = written(tmp_path / "b.parquet.journal", ROWS)
        path.write_bytes(path.read_bytes()[:-1])
        recover(path, force=True)
    kept = sorted(path.name for path in tmp_path.iterdir() if "journal" in path.name)
    assert kept == ["b.parquet.journal.damaged", "b.parquet.journal.damaged-2"]


def test_a_journal_with_rows_is_never_overwritten(tmp_path):
    path = written(tmp_path / "a.journal", ROWS)
    with pytest.raises(MigkitError, match=r"first run: migkit recover .*a\.journal"):
        Journal(path, META)
    assert journal.read(path).rows == ROWS


def test_a_journal_without_rows_is_replaced(tmp_path):
    path = written(tmp_path / "a.journal", [])
    assert journal.read(written(path, ROWS)).rows == ROWS


def test_a_file_that_is_no_journal_is_left_alone(tmp_path):
    path = tmp_path / "a.journal"
    path.write_text("my notes")
    with pytest.raises(MigkitError, match="not a journal"):
        Journal(path, META)
    assert path.read_text() == "my notes"


def test_a_living_recorder_keeps_others_away(tmp_path):
    alive = Journal(tmp_path / "a.parquet.journal", META)
    alive.append(ROWS[0])
    with pytest.raises(MigkitError, match="still being recorded"):
        recover(alive.path)
    with pytest.raises(MigkitError, match="another migkit"):
        Journal(alive.path, META)
    alive.close()
    assert recover(alive.path).rows == 1


def test_recover_refuses_to_overwrite_and_keeps_the_journal(tmp_path):
    path = written(tmp_path / "a.parquet.journal", ROWS)
    (tmp_path / "a.parquet").write_text("precious")
    with pytest.raises(MigkitError, match="exists already"):
        recover(path)
    assert path.exists()
    assert recover(path, force=True).rows == len(ROWS)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"", "holds no row"), (b"PAR1" + os.urandom(99), "not a journal of migkit")],
)
def test_what_cannot_be_recovered_is_said(content, said, tmp_path):
    path = tmp_path / "a.journal"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MigkitError, match=said):
        recover(path)


def test_a_journal_of_another_name_needs_an_output(tmp_path):
    with pytest.raises(UsageError, match="say with -o"):
        recover(written(tmp_path / "odd.name", ROWS))
    assert recover(tmp_path / "odd.name", tmp_path / "b.parquet").rows == len(ROWS)


def test_a_newer_schema_is_refused_by_name(tmp_path):
    header = b'{"schema_version":99,"columns":[]}'
    (tmp_path / "a.journal").write_bytes(frame(b"H", header))
    with pytest.raises(MigkitError, match="schema version 99"):
        recover(tmp_path / "a.journal")


def _fill(made: Journal) -> None:
    for row in ROWS * 10:
        made.append(row)


def test_a_full_disk_leaves_a_readable_journal(tmp_path):
    """A limit of the file's size stands for the full disk: the write comes back short, then fails."""
    made = Journal(tmp_path / "a.journal", META)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.fstat(made.fd).st_size + 500, before[1]))
    try:
        with pytest.raises(MigkitError, match=r"a\.journal: cannot be written \(File too large\)"):
            _fill(made)
        with pytest.raises(MigkitError, match="File too large"):
            made.append(ROWS[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        made.close()
    assert 0 < made.rows == len(journal.read(made.path).rows)


def test_a_sync_that_fails_is_not_overlooked(tmp_path, monkeypatch):
    made = Journal(tmp_path / "a.journal", META)

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(MigkitError, match="No space left"):
        made.finish(META)
    made.close()


@pytest.mark.parametrize("opens", [journal_file.open_new, journal_file.open_old])
def test_a_journal_removed_between_opening_and_locking_is_not_mistaken_for_the_one_that_is_there(
    opens, tmp_path, monkeypatch
):
    path = written(tmp_path / "a.journal", ROWS)
    real, calls = fcntl.flock, []

    def flock(fd, how):
        calls.append(fd)
        if len(calls) == 1:
            path.unlink()
            path.write_text("the next one")
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    fd = opens(path)
    assert journal_file.is_at(fd, path)
    assert journal_file.content(fd, path) == b"the next one"
    os.close(fd)


def test_the_end_of_a_recording_does_not_remove_another_one_of_the_same_name(tmp_path):
    mine = Journal(tmp_path / "a.journal", META)
    mine.path.unlink()
    other = Journal(tmp_path / "a.journal", META)
    mine.close(remove=True)
    assert other.path.exists()
    other.close()


def test_rows_of_a_removed_journal_are_copied_to_where_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "folder").mkdir()
    made = Journal(tmp_path / "folder" / "a.journal", META)
    made.append(ROWS[0])
    made.path.unlink()
    (tmp_path / "folder").rmdir()
    kept = journal_file.kept(made.fd, made.path)
    made.close()
    assert kept.parent == tmp_path
    assert journal.read(kept).rows == ROWS[:1]


def test_where_no_copy_can_be_made_the_loss_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    (tmp_path / "folder").mkdir()
    made = Journal(tmp_path / "folder" / "a.journal", META)
    made.path.unlink()
    (tmp_path / "folder").rmdir()
    with pytest.raises(MigkitError, match="its rows are lost"):
        journal_file.kept(made.fd, made.path)
    made.close()


def test_the_advice_is_a_command_that_works(tmp_path):
    path, target = written(tmp_path / "a copy", ROWS), tmp_path / "a.parquet"
    target.write_text("precious")
    with pytest.raises(MigkitError, match="exists already") as caught:
        recover(path, target)
    program, *words = shlex.split(str(caught.value).partition("the recording is kept: ")[2])
    assert (program, words) == ("migkit", ["recover", str(path), "-o", str(target), "--force"])
    assert main(words) == 0
    assert parquet.read(target)[0].num_rows == len(ROWS)


def test_a_recording_over_an_older_trace_is_recovered_by_the_command_that_is_told(tmp_path):
    path = written(tmp_path / "a.parquet.journal", ROWS)
    (tmp_path / "a.parquet").write_text("to be overwritten")
    with pytest.raises(MigkitError) as caught:
        Journal(path, META)
    assert main(shlex.split(str(caught.value).partition("first run: ")[2])[1:]) == 0
    Journal(path, META).close(remove=True)


def test_a_journal_is_not_overwritten_by_its_own_trace(tmp_path):
    path = written(tmp_path / "a.journal", ROWS)
    with pytest.raises(UsageError, match="is the journal itself"):
        recover(path, path, force=True)
    assert journal.read(path).rows == ROWS


def test_a_journal_that_cannot_be_taken_away_is_said(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(13, "Permission denied")

    path = written(tmp_path / "a.parquet.journal", ROWS)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(MigkitError, match=r"a\.parquet is written, but .*journal cannot be taken away \(Permission"):
        recover(path)


def test_the_lock_is_let_go_at_the_end(tmp_path):
    path = written(tmp_path / "a", ROWS)
    with open(path) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_names_of_columns_are_in_the_header(tmp_path):
    """A journal of an older migkit is read by its own columns, whatever the order of today's."""
    head = frame(b"H", b'{"schema_version":1,"columns":[["job_type","int32"],["mono_ns","int64"]]}')
    row = frame(b"R", pack_row({"mono_ns": 5, "job_type": 2}, [("job_type", "int32"), ("mono_ns", "int64")]))
    (tmp_path / "a").write_bytes(head + row)
    assert journal.read(tmp_path / "a").rows == [{"job_type": 2, "mono_ns": 5}]
