"""Packed folders: nothing lost, whole or not at all, and every damage named."""

from __future__ import annotations

import json
import shutil

import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

import migkit as mk
from migkit import parquet
from migkit.dataset import packing
from migkit.dataset.packed import CATALOGUE_KEY
from migkit.errors import MigkitError
from migkit.meta import TraceMeta
from tests.conftest import TRACES
from tests.dataset.test_dataset import damage

CATALOGUE = "_catalogue.parquet"


@pytest.fixture(scope="module")
def bundled_packed(tmp_path_factory):
    """The bundled traces, packed."""
    return mk.open_dataset(TRACES).pack(tmp_path_factory.mktemp("packed") / "all")


@pytest.fixture
def few(tmp_path, monkeypatch):
    """Seven traces in three packed files."""
    monkeypatch.setattr(packing, "FILE_TRACES", 3)
    return mk.open_dataset(TRACES)[:7].pack(tmp_path / "few")


def rows_of(traces):
    return [(name, table, meta) for share in traces.partitions() for name, table, meta in share.tables()]


def test_packing_loses_nothing(bundled_packed):
    before, after = mk.open_dataset(TRACES), mk.open_dataset(bundled_packed)
    assert after.names == before.names
    assert after.catalogue.drop(columns="place").equals(before.catalogue.drop(columns="place"))
    for (name, rows, meta), (same, packed_rows, packed_meta) in zip(rows_of(before), rows_of(after), strict=True):
        assert (same, packed_meta) == (name, meta)
        assert packed_rows.equals(rows), name


def test_the_metadata_is_kept_word_for_word(bundled_packed):
    (before,), (after,) = (mk.open_dataset(place)[:1].partitions() for place in (TRACES, bundled_packed))
    ((one, _),), ((same, _),) = before.loaded(), after.loaded()
    assert same.text == one.text
    assert json.loads(same.text)["schema_version"] == 1


def test_one_trace_comes_back_out_as_it_went_in(bundled_packed, tmp_path):
    path = mk.open_dataset(bundled_packed)["post-copy"].save(tmp_path / "post-copy.parquet")
    rows, meta = parquet.read(path)
    original, told = parquet.read(TRACES / "post-copy.parquet")
    assert meta == told
    assert rows.equals(original)


def test_packing_a_packed_folder_gives_the_same(bundled_packed, tmp_path):
    again = mk.open_dataset(bundled_packed).pack(tmp_path / "again")
    files = sorted(path.name for path in bundled_packed.iterdir())
    assert sorted(path.name for path in again.iterdir()) == files
    assert all((again / name).read_bytes() == (bundled_packed / name).read_bytes() for name in files)


def test_names_told_apart_are_kept(tmp_path, bundled):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        bundled["idle"].save(tmp_path / folder / "x.parquet")
    packed = mk.open_dataset(tmp_path / "a", tmp_path / "b").pack(tmp_path / "packed")
    assert mk.open_dataset(packed).names == ["a-x", "b-x"]


def test_a_trace_without_rows_is_kept(tmp_path):
    for name, times in (("a", [1]), ("empty", []), ("z", [2])):
        mk.Trace.from_rows([{"mono_ns": t, "wall_ns": 0, "source": "poll"} for t in times], TraceMeta(), name).save(
            tmp_path / f"{name}.parquet"
        )
    packed = mk.open_dataset(mk.open_dataset(tmp_path).pack(tmp_path / "packed"))
    assert [len(trace.samples) for trace in packed] == [1, 0, 1]


def test_only_traces_without_rows_can_be_packed(tmp_path):
    mk.Trace.from_rows([], TraceMeta(), "e").save(tmp_path / "e.parquet")
    (trace,) = mk.open_dataset(mk.open_dataset(tmp_path).pack(tmp_path / "packed"))
    assert trace.samples.empty


def test_files_are_few_with_one_row_group_each(few, bundled_packed):
    assert sorted(path.name for path in few.glob("part-*")) == [f"part-0000{n}.parquet" for n in range(3)]
    groups = {pq.ParquetFile(path).num_row_groups for folder in (few, bundled_packed) for path in folder.glob("part-*")}
    assert groups == {1}
    assert len(list(bundled_packed.glob("part-*"))) == 1


def test_rows_close_a_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "FILE_ROWS", 500)
    folder = mk.open_dataset(TRACES)[:7].pack(tmp_path / "p")
    counts = [pq.ParquetFile(path).metadata.num_rows for path in sorted(folder.glob("part-*"))]
    assert len(counts) >= 2
    assert all(count >= 500 for count in counts[:-1])


def test_partitions_keep_to_the_files(few):
    shares = mk.open_dataset(few).partitions(traces=4)
    assert [[len(piece.names) for piece in share.pieces] for share in shares] == [[3], [3, 1]]
    assert [len(share) for share in mk.open_dataset(few).partitions(traces=2)] == [2, 1, 2, 2]
    assert [trace.name for share in shares for trace in share.traces()] == mk.open_dataset(few).names


def test_a_choice_of_a_packed_folder_reads_only_itself(few):
    traces = mk.open_dataset(few)
    chosen = traces[1::2]
    assert [name for name, _, _ in rows_of(chosen)] == traces.names[1::2]
    assert chosen[2].meta == traces[5].meta


def test_other_tools_see_rows_named_by_their_trace(few):
    table = pads.dataset(few).to_table(columns=["trace", "mono_ns"])
    traces = mk.open_dataset(few)
    counts = table.group_by("trace").aggregate([("mono_ns", "count")]).to_pydict()
    assert dict(zip(counts["trace"], counts["mono_ns_count"], strict=True)) == {t.name: len(t.samples) for t in traces}


def test_packed_folders_lie_among_files(tmp_path, few, bundled):
    bundled["post-copy"].save(tmp_path / "post-copy.parquet")
    bundled["idle"].save(few / "dropped-in.parquet")
    names = mk.open_dataset(tmp_path).names
    assert len(names) == 9
    assert {"post-copy", "dropped-in"} < set(names)


def test_a_packed_file_and_a_catalogue_can_be_opened_by_themselves(few):
    whole = mk.open_dataset(few)
    assert mk.open_dataset(few / "part-00001.parquet").names == whole.names[3:6]
    assert mk.open_dataset(few / CATALOGUE).names == whole.names
    with pytest.raises(MigkitError, match=r"part-00001\.parquet: is given twice"):
        mk.open_dataset(few, few / "part-00001.parquet")


def test_loading_many_traces_as_one_says_how_to_open_them(few):
    with pytest.raises(MigkitError, match=r"part-00000\.parquet: holds many traces: mk\.open_dataset opens it"):
        mk.load(few / "part-00000.parquet")


def test_without_its_catalogue_a_packed_folder_opens_all_the_same(few):
    before = mk.open_dataset(few)
    (few / CATALOGUE).unlink()
    assert mk.open_dataset(few).catalogue.equals(before.catalogue)


@pytest.mark.parametrize("break_it", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-50])])
def test_a_file_that_is_gone_or_cut_is_named_without_reading_it(few, break_it):
    break_it(few / "part-00001.parquet")
    with pytest.raises(MigkitError, match=r"few/part-00001\.parquet: is (missing|not the file)"):
        mk.open_dataset(few)
    traces = mk.open_dataset(few, skip_bad=True)
    assert len(traces) == 4
    assert len(traces.bad) == 3
    assert all("part-00001.parquet (" in place for place, _ in traces.bad)


def test_a_damaged_file_is_named_and_the_others_are_read(few):
    damage(few / "part-00001.parquet")
    traces = mk.open_dataset(few)
    with pytest.raises(MigkitError, match=r"part-00001\.parquet: the file is damaged"):
        traces[3]
    bad = []
    read = [name for share in traces.partitions() for name, _, _ in share.tables(bad=bad)]
    assert read == [*traces.names[:3], traces.names[6]]
    assert [place.partition(" (")[2][:-1] for place, _ in bad] == traces.names[3:6]


def rewritten(path, key, change, table=None):
    """The file with what its footer holds under a key changed, and with other rows where they are given."""
    file = pq.ParquetFile(path)
    rows, told = file.read() if table is None else table, change(file.metadata.metadata[key])
    with parquet.writing(path, rows.schema) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({key: told})


def test_a_damaged_catalogue_is_named(few):
    rewritten(few / CATALOGUE, CATALOGUE_KEY, lambda text: text[:-5])
    with pytest.raises(MigkitError, match=r"_catalogue\.parquet: the catalogue is damaged"):
        mk.open_dataset(few)


def test_a_newer_packed_folder_is_refused(few):
    rewritten(few / CATALOGUE, CATALOGUE_KEY, lambda text: text.replace(b'"version":1', b'"version":2'))
    with pytest.raises(MigkitError, match=r"_catalogue\.parquet: packed by a newer migkit"):
        mk.open_dataset(few)


def test_a_newer_trace_in_a_packed_folder_is_refused_by_name(few):
    table = pq.ParquetFile(few / CATALOGUE).read()
    newer = table.set_column(table.column_names.index("schema_version"), "schema_version", [[2] + [1] * 6])
    rewritten(few / CATALOGUE, CATALOGUE_KEY, lambda text: text, newer)
    with pytest.raises(MigkitError, match=r"part-00000\.parquet: has schema version 2, this migkit reads up to 1"):
        mk.open_dataset(few)
    assert len(mk.open_dataset(few, skip_bad=True)) == 6


@pytest.mark.parametrize("change", [lambda _: b"nonsense", lambda _: b"e30=", lambda _: b"eJyrrgUAAXUA+Q=="])
def test_a_damaged_list_of_traces_is_named(few, change):
    rewritten(few / "part-00000.parquet", parquet.TRACES_KEY, change)
    with pytest.raises(MigkitError, match=r"part-00000\.parquet: the list of its traces is damaged"):
        mk.open_dataset(few / "part-00000.parquet")


def test_a_packed_folder_is_replaced_only_when_asked(few):
    traces = mk.open_dataset(few)
    with pytest.raises(MigkitError, match="few: exists already; choose another name or pass --force"):
        traces.pack(few)
    traces[:2].pack(few, force=True)
    assert mk.open_dataset(few).names == traces.names[:2]
    assert sorted(path.name for path in few.parent.iterdir()) == ["few"]


@pytest.mark.parametrize("force", [False, True])
def test_nothing_but_a_packed_folder_is_ever_replaced(tmp_path, few, force):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    shutil.copy(few / "part-00000.parquet", mine / "part-00000.parquet")
    (tmp_path / "file").write_text("a file")
    (few / "notes.txt").write_text("mine")
    for place in (mine, tmp_path / "file", few):
        with pytest.raises(MigkitError, match="is there and no packed folder; choose another name"):
            mk.open_dataset(TRACES)[:1].pack(place, force=force)
    assert (mine / "thesis.txt").exists()
    assert (few / "notes.txt").exists()


def test_an_interrupted_packing_leaves_nothing(tmp_path):
    def interrupt(name):
        if name == "bandwidth-raised":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mk.open_dataset(TRACES).pack(tmp_path / "p", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_packing_keeps_what_it_was_to_replace(few):
    def interrupt(_):
        raise KeyboardInterrupt

    before = mk.open_dataset(few)
    with pytest.raises(KeyboardInterrupt):
        before[:1].pack(few, force=True, progress=interrupt)
    assert mk.open_dataset(few).names == before.names
    assert sorted(path.name for path in few.parent.iterdir()) == ["few"]


def test_a_damaged_trace_stops_the_packing_or_is_left_out(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("idle", "bursty"):
        shutil.copy(TRACES / f"{name}.parquet", tmp_path / "in")
    damage(tmp_path / "in" / "bursty.parquet")
    with pytest.raises(MigkitError, match=r"bursty\.parquet: the file is damaged"):
        mk.open_dataset(tmp_path / "in").pack(tmp_path / "p")
    assert not (tmp_path / "p").exists()
    traces = mk.open_dataset(tmp_path / "in", skip_bad=True)
    assert mk.open_dataset(traces.pack(tmp_path / "p")).names == ["idle"]
    assert len(traces.bad) == 1


def test_nothing_to_pack_is_said(tmp_path):
    with pytest.raises(MigkitError, match="no trace to pack"):
        mk.open_dataset(TRACES)[:0].pack(tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(few):
    with pytest.raises(MigkitError, match="/proc/none: cannot be written"):
        mk.open_dataset(few).pack("/proc/none")
