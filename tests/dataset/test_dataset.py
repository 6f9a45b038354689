"""Many traces, read when they are asked for."""

from __future__ import annotations

import os
import pickle
import shutil

import pandas as pd
import pyarrow as pa
import pytest

import migkit as mk
from migkit import parquet
from migkit.dataset.catalogue import SCHEMA
from migkit.errors import MigkitError, UsageError
from migkit.meta import Domain, End, Migration, TraceMeta
from migkit.schema import SCHEMA_VERSION
from tests.conftest import TRACES

NAMES = ("idle", "link-down", "post-copy", "stall_link", "noconverge_abort")


@pytest.fixture
def folder(tmp_path):
    """A folder of a few traces, one of them deeper."""
    (tmp_path / "traces" / "deep").mkdir(parents=True)
    for name in NAMES:
        shutil.copy(TRACES / f"{name}.parquet", tmp_path / "traces" / ("deep" if name == "idle" else "."))
    return tmp_path / "traces"


def damage(path):
    """Flips a bit of the data; the footer stays sound."""
    whole = bytearray(path.read_bytes())
    whole[300] ^= 16
    path.write_bytes(whole)


def test_a_dataset_is_a_sequence_of_traces(folder):
    traces = mk.open_dataset(folder)
    assert len(traces) == 5
    assert traces.names == ["idle", "link-down", "noconverge_abort", "post-copy", "stall_link"]
    assert [trace.name for trace in traces] == traces.names
    assert traces[0].name == "idle"
    assert traces[-1].name == "stall_link"
    assert traces["post-copy"].meta.end.outcome == "completed"
    assert "post-copy" in traces
    assert "postcopy" not in traces
    assert [trace.name for trace in traces[3:0:-2]] == ["post-copy", "link-down"]
    assert repr(traces[:2]) == f"<Dataset: 2 traces, {sum(len(trace.samples) for trace in traces[:2])} rows>"
    with pytest.raises(IndexError):
        traces[5]
    with pytest.raises(UsageError, match="unknown trace 'post-cop': did you mean 'post-copy'"):
        traces["post-cop"]


def test_opening_reads_no_rows(folder):
    """A damaged trace is found out when it is read: until then only its footer was."""
    damage(folder / "link-down.parquet")
    traces = mk.open_dataset(folder)
    assert traces.catalogue["outcome"].notna().all()
    with pytest.raises(MigkitError, match=r"link-down\.parquet: the file is damaged"):
        traces["link-down"]


def test_a_trace_that_is_still_held_is_not_read_again(folder):
    traces = mk.open_dataset(folder)
    held = traces["idle"]
    assert traces[0] is held
    assert next(iter(traces)) is held


def test_the_catalogue_tells_what_the_traces_tell(bundled):
    table = mk.open_dataset(TRACES).catalogue.set_index("name")
    assert list(table.columns) == SCHEMA.names[1:]
    found = mk.stats.summary(bundled.values())
    for name in ("outcome", "provenance", "memory_bytes", "bandwidth_limit_bps", "downtime_ms", "interval_ms",
                 "heartbeat_downtime_ms"):  # fmt: skip
        assert table[name].astype(object).where(table[name].notna(), None).tolist() == [
            None if pd.isna(value) else value for value in found[name]
        ], name
    known = table["duration_s"].notna()
    assert known.sum() > 60
    assert (table["duration_s"] - found["duration_s"])[known].abs().max() == 0
    assert table["rows"].tolist() == [len(trace.samples) for trace in bundled.values()]


def test_the_catalogue_knows_post_copy_where_the_metadata_does(bundled):
    told = mk.open_dataset(TRACES).catalogue.set_index("name")["post_copy"].dropna()
    really = mk.stats.summary(bundled.values())["post_copy"]
    assert told.sum() >= 10
    assert (told == really[told.index]).all()


def test_the_lab_s_truth_can_be_asked_for():
    faults = mk.open_dataset(TRACES).where("limited_by == network, fault_from != unknown, converges false")
    assert len(faults) > 2
    assert all(trace.meta.lab.truth["converges"] is False for trace in faults)


def test_conditions_choose_by_the_catalogue_alone(folder):
    damage(folder / "link-down.parquet")
    traces = mk.open_dataset(folder)
    assert traces.where("outcome == completed, memory >= 300 MiB").names == ["link-down", "stall_link"]
    assert traces.where("name == link*")[:0].names == []


def test_nothing_that_matches_is_an_empty_dataset(folder):
    none = mk.open_dataset(folder).where("memory >= 4 TiB")
    assert len(none) == 0
    assert list(none) == []
    assert none.partitions() == []
    assert none.catalogue.dtypes.equals(mk.open_dataset(folder).catalogue.dtypes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"end": End(outcome="completed", completed={"downtime": "soon"})}, "downtime_ms as 'soon'"),
        ({"migration": Migration(started_wall_ns="today")}, "started as 'today'"),
        ({"migration": Migration(parameters={"bandwidth": "all"})}, "bandwidth_limit_bps as 'all'"),
        ({"domain": Domain(memory_bytes=2**70)}, f"memory_bytes as {2**70}"),
        ({"domain": Domain(has_vfio=1)}, "has_vfio as 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_file(tmp_path, bundled, changes, said):
    bundled["idle"].replace_meta(**changes).save(tmp_path / "a.parquet")
    with pytest.raises(MigkitError, match=rf"a\.parquet: its metadata gives {said}; record or import it again"):
        mk.open_dataset(tmp_path)


def test_partitions_cover_the_dataset_in_order(folder):
    traces = mk.open_dataset(folder)
    shares = traces.partitions(traces=2)
    assert [len(share) for share in shares] == [2, 2, 1]
    assert [name for share in shares for name in share.names] == traces.names
    assert [trace.name for share in shares for trace in share.traces()] == traces.names
    with pytest.raises(UsageError, match="at least 1"):
        traces.partitions(traces=0)


def test_a_partition_can_be_sent_and_read_anywhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    (share,) = mk.open_dataset(".").partitions()
    sent = pickle.dumps(share)
    assert len(sent) < 2000
    monkeypatch.chdir(tmp_path)
    assert [trace.name for trace in pickle.loads(sent).traces()] == share.names


def test_a_dataset_can_be_sent_too(folder):
    sent = pickle.loads(pickle.dumps(mk.open_dataset(folder)[1:]))
    assert [trace.name for trace in sent] == ["link-down", "noconverge_abort", "post-copy", "stall_link"]


def test_tables_have_the_columns_asked_for(folder):
    columns = ["memory_iteration", "mono_ns"]
    (share,) = mk.open_dataset(folder)[:1].partitions()
    ((name, table, meta),) = share.tables(columns)
    whole, told = parquet.read(folder / "deep" / "idle.parquet")
    assert (name, meta) == ("idle", told)
    assert table.equals(whole.select(columns))
    with pytest.raises(UsageError, match="unknown column 'mono_n': did you mean 'mono_ns'"):
        next(share.tables(["mono_n"]))


def test_a_column_that_an_older_trace_lacks_is_null(tmp_path):
    """A trace of a libvirt and a migkit that knew less."""
    rows = parquet.table_from_rows([{"mono_ns": 5, "wall_ns": 6, "source": "poll"}]).select([0, 1, 2])
    parquet.write(tmp_path / "old.parquet", rows, TraceMeta())
    ((_, table, _),) = mk.open_dataset(tmp_path).partitions()[0].tables(["mono_ns", "vfio_data_transferred_bytes"])
    assert table.to_pylist() == [{"mono_ns": 5, "vfio_data_transferred_bytes": None}]


@pytest.fixture
def thousand(tmp_path):
    """A thousand traces, one of them corrupt."""
    for number in range(1000):
        os.link(TRACES / "idle.parquet", tmp_path / f"t{number:04d}.parquet")
    (tmp_path / "t0500.parquet").unlink()
    (tmp_path / "t0500.parquet").write_bytes(b"PAR1 no trace at all PAR1")
    return tmp_path


def test_one_corrupt_file_among_a_thousand_is_named_or_left_out(thousand):
    with pytest.raises(MigkitError, match=r"t0500\.parquet: not a trace, or cut short"):
        mk.open_dataset(thousand)
    traces = mk.open_dataset(thousand, skip_bad=True)
    assert len(traces) == 999
    ((place, why),) = traces.bad
    assert place.endswith("t0500.parquet")
    assert why.startswith("not a trace, or cut short")
    assert repr(traces).endswith("1 left out>")


def test_a_trace_with_damaged_rows_is_passed_over_where_that_is_allowed(folder):
    damage(folder / "link-down.parquet")
    traces = mk.open_dataset(folder, skip_bad=True)
    for _ in range(2):
        assert [trace.name for trace in traces] == ["idle", "noconverge_abort", "post-copy", "stall_link"]
    ((place, why),) = traces.bad
    assert place.endswith("link-down.parquet")
    assert why.startswith("the file is damaged")


def test_a_partition_takes_a_list_of_what_it_leaves_out(folder):
    damage(folder / "link-down.parquet")
    (share,) = mk.open_dataset(folder).partitions()
    with pytest.raises(MigkitError, match=r"link-down\.parquet: the file is damaged"):
        list(share.tables(["mono_ns"]))
    bad = []
    assert len(list(share.tables(["mono_ns"], bad=bad))) == 4
    assert [place.rpartition("/")[2] for place, _ in bad] == ["link-down.parquet"]


def test_a_clock_that_goes_back_is_refused_by_its_trace(tmp_path):
    rows = parquet.table_from_rows([{"mono_ns": t, "wall_ns": 0, "source": "poll"} for t in (5, 9, 7)])
    parquet.write(tmp_path / "odd.parquet", rows, TraceMeta())
    (share,) = mk.open_dataset(tmp_path).partitions()
    with pytest.raises(MigkitError, match=r"odd\.parquet: row 2: mono_ns goes back"):
        list(share.tables(["mono_ns"]))


def test_a_trace_of_a_newer_schema_is_refused_by_name(folder, bundled):
    newer = bundled["idle"].replace_meta(schema_version=SCHEMA_VERSION + 1)
    newer.save(folder / "newer.parquet")
    with pytest.raises(MigkitError, match=rf"newer\.parquet: .*schema version {SCHEMA_VERSION + 1}.*update migkit"):
        mk.open_dataset(folder)
    assert len(mk.open_dataset(folder, skip_bad=True)) == 5


def test_traces_of_one_name_are_told_apart_or_refused(folder, bundled):
    bundled["idle"].save(folder / "idle.parquet")
    assert mk.open_dataset(folder).names[:3] == ["deep-idle", "traces-idle", "link-down"]
    (folder / "other" / "deep").mkdir(parents=True)
    bundled["idle"].save(folder / "other" / "deep" / "idle.parquet")
    with pytest.raises(MigkitError, match=r"idle\.parquet: a trace of the name 'deep-idle' is in .*; rename one"):
        mk.open_dataset(folder)


def test_a_file_given_twice_is_refused_under_any_name(folder):
    (folder / "link.parquet").symlink_to(folder / "post-copy.parquet")
    with pytest.raises(MigkitError, match=r"\.parquet: is given twice"):
        mk.open_dataset(folder)


@pytest.mark.parametrize("place", ["nowhere.parquet", "nowhere/"])
def test_a_place_that_is_not_there_is_said_plainly(place):
    with pytest.raises(MigkitError, match=r"nowhere.*: no such file"):
        mk.open_dataset(place)


def test_no_place_at_all_and_an_empty_one_are_refused(tmp_path):
    with pytest.raises(MigkitError, match="needs a file, folder or URL"):
        mk.open_dataset()
    with pytest.raises(MigkitError, match="holds no trace"):
        mk.open_dataset(tmp_path)


def test_what_begins_with_a_dot_is_no_trace(folder):
    (folder / ".half").mkdir()
    (folder / ".half" / "a.parquet").write_bytes(b"half")
    (folder / ".b.parquet").write_bytes(b"half")
    assert len(mk.open_dataset(folder)) == 5


def test_a_folder_that_cannot_be_listed_is_not_passed_over(folder, monkeypatch):
    really = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(MigkitError, match=r"deep: cannot be listed \(Permission denied\)"):
        mk.open_dataset(folder)


def test_comparing_takes_a_dataset(folder):
    found = mk.compare(mk.open_dataset(folder)[1:3], [mk.kubevirt("1.8"), mk.kubevirt("1.4")])
    assert found.table["trace"].tolist() == ["link-down", "noconverge_abort"]


def test_tables_are_arrow_s(folder):
    ((_, table, _),) = mk.open_dataset(folder)[:1].partitions()[0].tables()
    assert table.schema == parquet.SCHEMA
    assert isinstance(table, pa.Table)
