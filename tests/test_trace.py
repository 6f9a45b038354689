"""One file a migration: nothing is lost on the way in or out, and what is no trace is refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import migkit as mk
from migkit import parquet
from migkit.errors import MigkitError
from migkit.meta import Cadence, Disk, Domain, End, Heartbeat, Host, Lab, Migration, Rule, TraceMeta
from migkit.schema import COLUMNS, SCHEMA_VERSION

VALUES = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
}
NEVER_NULL = {
    "mono_ns": VALUES["int64"],
    "wall_ns": VALUES["int64"],
    "source": st.sampled_from(["poll", "iteration", "lifecycle", "job", "action", "wake"]),
}
ROWS = st.lists(
    st.fixed_dictionaries(NEVER_NULL, optional={c.name: VALUES[c.dtype] for c in COLUMNS if c.name not in NEVER_NULL}),
    min_size=1,
    max_size=12,
)


def plausible(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """In time order and within two weeks, as a reader asks for."""
    for row in rows:
        row["mono_ns"] = row["mono_ns"] % 10**15
        if row.get("time_elapsed_ms") is not None:
            row["time_elapsed_ms"] = row["time_elapsed_ms"] % 10**9
    return sorted(rows, key=lambda row: row["mono_ns"])


ROWS = ROWS.map(plausible)
FULL_META = TraceMeta(
    provenance="simulated",
    origin="a test",
    domain=Domain(
        name="web1", uuid="u", memory_bytes=2**30, vcpus=2, disks=(Disk(target="vda", capacity_bytes=5),),
        host_devices=("pci 0000:01:00.0",), has_vfio=True,
    ),
    host=Host(name="a", libvirt_version="9.0.0", qemu_version="7.2.22", accelerator="tcg"),
    migration=Migration(flags=3, flag_names=("LIVE",), parameters={"bandwidth": 32}, downtime_limit_ms=300),
    cadence=Cadence(recorder="migkit", interval_ms=100, iteration_events=True, gaps=((1, 2), (3, 4))),
    end=End(outcome="failed", evidence="job type failed", error_code=9, error_text="x", completed={"downtime": 1}),
    heartbeat=Heartbeat(interval_ms=10, downtime_ms=57.4),
    lab=Lab(scenario="s", truth={"converges": False}, guest_corrupted=False),
    notes={"a": [1, 2]},
)  # fmt: skip


def write_parquet(path: Path, table: pa.Table, metadata: dict[bytes, bytes] | None = None) -> Path:
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        if metadata:
            writer.add_key_value_metadata(metadata)
    return path


@given(rows=ROWS)
def test_what_was_observed_comes_back_as_it_was(
    rows: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory
):
    path = tmp_path_factory.mktemp("trace") / "t.parquet"
    parquet.write(path, parquet.table_from_rows(rows), FULL_META)
    samples = mk.load(path).samples
    for i, row in enumerate(rows):
        for column in COLUMNS:
            value = samples[column.name].iloc[i]
            assert (None if value is pd.NA else value) == row.get(column.name)


def test_a_loaded_trace_saves_to_the_same_rows_and_metadata(bundled, tmp_path):
    for trace in bundled.values():
        again = mk.load(trace.save(tmp_path / f"{trace.name}.parquet"))
        pd.testing.assert_frame_equal(again.samples, trace.samples)
        assert again.meta == trace.meta


def test_metadata_survives_whole():
    assert TraceMeta.from_json(FULL_META.to_json()) == FULL_META


def test_time_zero_is_the_first_active_samples_time_minus_its_elapsed_time():
    rows = [
        {"mono_ns": 1_000_000_000, "wall_ns": 0, "source": "poll", "job_type": 0},
        {"mono_ns": 5_000_000_000, "wall_ns": 0, "source": "poll", "job_type": 2, "time_elapsed_ms": 1500},
    ]
    trace = mk.Trace.from_rows(rows, TraceMeta())
    assert trace.t0_ns == 3_500_000_000
    assert list(trace.t_s) == [-2.5, 1.5]


def test_a_trace_without_a_running_job_says_so():
    trace = mk.Trace.from_rows([{"mono_ns": 1, "wall_ns": 0, "source": "poll"}], TraceMeta(), "idle")
    with pytest.raises(mk.MigkitError, match="idle: holds no sample of a running migration"):
        _ = trace.t0_ns


def test_added_rows_are_put_in_time_order(bundled):
    trace = bundled["stall_link"]
    middle = int(trace.samples["mono_ns"].iloc[100]) + 1
    more = trace.with_rows(
        [{"mono_ns": middle, "wall_ns": 0, "source": "action", "action": "abort", "succeeded": True}]
    )
    assert len(more.samples) == len(trace.samples) + 1
    assert more.samples["mono_ns"].is_monotonic_increasing
    assert more.samples["action"].iloc[101] == "abort"
    assert list(more.samples.dtypes) == list(trace.samples.dtypes)


def test_an_existing_file_is_not_overwritten_unless_forced(bundled, tmp_path):
    path = bundled["stall_link"].save(tmp_path / "t.parquet")
    with pytest.raises(mk.MigkitError, match="exists already"):
        bundled["stall_link"].save(path)
    bundled["stall_link"].save(path, force=True)


def test_nothing_half_written_is_left_when_the_folder_is_missing(bundled, tmp_path):
    with pytest.raises(mk.MigkitError, match="cannot be written"):
        bundled["stall_link"].save(tmp_path / "no" / "t.parquet")
    assert list(tmp_path.iterdir()) == []


def test_an_older_trace_without_newer_columns_reads_as_null(bundled, tmp_path):
    table, meta = parquet.read(bundled["stall_link"].save(tmp_path / "t.parquet"))
    older = table.drop_columns(["vfio_data_transferred_bytes", "event_lag_us"])
    path = write_parquet(tmp_path / "older.parquet", older, {b"migkit": meta.to_json().encode()})
    assert mk.load(path).samples["vfio_data_transferred_bytes"].isna().all()


def test_a_newer_schema_is_refused_by_its_number(bundled, tmp_path):
    trace = bundled["stall_link"]
    meta = dataclasses.replace(trace.meta, schema_version=SCHEMA_VERSION + 1)
    path = dataclasses.replace(trace, meta=meta).save(tmp_path / "t.parquet")
    with pytest.raises(mk.MigkitError, match=rf"t\.parquet: .*schema version {SCHEMA_VERSION + 1}.*update migkit"):
        mk.load(path)


@pytest.mark.parametrize("size", [0, 3, 4, 100, 5000])
def test_a_cut_file_is_refused_in_one_line(bundled, tmp_path, size):
    whole = bundled["stall_link"].save(tmp_path / "t.parquet").read_bytes()
    path = tmp_path / "cut.parquet"
    path.write_bytes(whole[:size])
    with pytest.raises(mk.MigkitError, match=r"cut\.parquet: not a trace, or cut short") as caught:
        mk.load(path)
    assert "\n" not in str(caught.value)


def test_damaged_columns_are_refused_in_one_line(bundled, tmp_path):
    """Each page carries a checksum, so a single flipped bit in the data is not read as somebody's numbers."""
    whole = bundled["stall_link"].save(tmp_path / "t.parquet").read_bytes()
    path = tmp_path / "bad.parquet"
    for place in range(100, 8000, 700):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(mk.MigkitError, match=r"bad\.parquet: the file is damaged") as caught:
            mk.load(path)
        assert "\n" not in str(caught.value)


def test_a_foreign_parquet_file_is_refused(tmp_path):
    path = write_parquet(tmp_path / "other.parquet", pa.table({"a": [1]}))
    with pytest.raises(mk.MigkitError, match="not a trace of migkit"):
        mk.load(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"mono_ns": [1], "wall_ns": [1], "source": ["poll"], "bogus": [1]}), "column 'bogus' is not in"),
        (pa.table({"mono_ns": [1], "wall_ns": [1]}), "column 'source' is missing"),
        (pa.table({"mono_ns": [1.5], "wall_ns": [1], "source": ["poll"]}), "column 'mono_ns' is double, not int64"),
    ],
)
def test_an_edited_table_is_refused_by_its_column(tmp_path, table, message):
    path = write_parquet(tmp_path / "t.parquet", table, {b"migkit": TraceMeta().to_json().encode()})
    with pytest.raises(mk.MigkitError, match=message):
        mk.load(path)


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"schema_version":1,"end":{"outcome":"great"}}', "[1]"])
def test_damaged_metadata_is_refused(text):
    with pytest.raises(mk.MigkitError):
        TraceMeta.from_json(text)


def test_no_such_file_and_folders_are_said_plainly(tmp_path):
    with pytest.raises(mk.MigkitError, match="no such file"):
        mk.load(tmp_path / "none.parquet")
    with pytest.raises(mk.MigkitError, match="is a folder"):
        mk.load(tmp_path)
    with pytest.raises(mk.MigkitError, match="holds no trace"):
        mk.open_dataset(tmp_path)


def test_column_data_and_footer_stay_small(bundled, tmp_path):
    """A sample costs at most 24 bytes on a trace of 1500 samples or more, the footer 12 kB."""
    trace = max(bundled.values(), key=lambda trace: len(trace.samples))
    rows = pd.concat([trace.samples] * (1 + 1500 // len(trace.samples)), ignore_index=True)
    long = dataclasses.replace(trace, samples=rows)
    path = long.save(tmp_path / "long.parquet")
    group = pq.ParquetFile(path).metadata.row_group(0)
    data = sum(group.column(i).total_compressed_size for i in range(group.num_columns))
    assert data / len(rows) <= 24
    assert path.stat().st_size - data <= 12_000


def test_the_card_tells_about_eight_facts_and_draws_a_sparkline(bundled):
    card = bundled["stall_link"]._repr_html_()
    assert 6 <= card.count("<tr>") <= 10
    assert "<svg" in card
    assert "completed" in card


def test_the_card_escapes_what_the_guest_is_called(bundled):
    trace = bundled["stall_link"].replace_meta(domain=Domain(name="<b>x</b>"))
    assert "<b>x</b>" not in trace._repr_html_()


def test_provenance_is_on_the_card_and_in_the_file(bundled):
    trace = bundled["stall_link"]
    assert "imported" in trace._repr_html_()
    assert json.loads(trace.meta.to_json())["provenance"] == "imported"


def rows_at(*times_ns: int, **columns: object) -> list[dict[str, object]]:
    return [{"mono_ns": t, "wall_ns": 0, "source": "poll", "job_type": 2} | columns for t in times_ns]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (rows_at(5, 9, 7), "row 2: mono_ns goes back"),
        (rows_at(0, 30 * 24 * 3600 * 10**9), "its rows span 30 days"),
        (rows_at(0, 1, time_elapsed_ms=2**64 - 1), "is more than two weeks"),
    ],
)
def test_clocks_that_cannot_be_are_refused(rows, said, tmp_path):
    path = tmp_path / "odd.parquet"
    mk.Trace.from_rows(rows, TraceMeta(), "odd").save(path)
    with pytest.raises(MigkitError, match=said):
        mk.load(path)


def test_final_statistics_that_are_no_numbers_are_refused():
    with pytest.raises(MigkitError, match="final time_elapsed 'soon': must be a number"):
        TraceMeta(end=End(outcome="completed", completed={"time_elapsed": "soon"}))


def test_traces_of_one_name_are_told_apart_by_their_folders(tmp_path, bundled):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        bundled["idle"].save(tmp_path / folder / "x.parquet")
    assert [trace.name for trace in mk.open_dataset(tmp_path)] == ["a-x", "b-x"]
    with pytest.raises(MigkitError, match="is given twice"):
        mk.open_dataset(tmp_path / "a", tmp_path / "a" / "x.parquet")


def test_the_card_tells_the_rule_that_ran_beside_it(bundled):
    trace = next(iter(bundled.values()))
    assert "rule" not in trace.facts()
    decided = ({"action": "set_max_downtime", "argument": 300}, {"action": "abort"})
    rule = Rule(policy="kubevirt-1.9", acted=True, decisions=decided)
    assert trace.replace_meta(rule=rule).facts()["rule"] == "kubevirt-1.9 did: set max downtime, abort"
    watched = Rule(policy="kubevirt-1.9")
    assert trace.replace_meta(rule=watched).facts()["rule"] == "kubevirt-1.9 would have done: nothing"


def test_the_rule_comes_back_from_the_file(bundled, tmp_path):
    rule = Rule(policy="kubevirt-1.9", options={"a": True}, acted=True, decisions=({"t_s": 1.5, "argument": None},))
    trace = next(iter(bundled.values())).replace_meta(rule=rule)
    assert mk.load(trace.save(tmp_path / "a.parquet")).meta.rule == rule
