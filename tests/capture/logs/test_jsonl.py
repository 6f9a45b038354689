"""Raw recordings become traces that say what the raw lines said."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import migkit as mk
from migkit.capture.logs import jsonl
from migkit.schema import BY_KEY

RAW = Path(__file__).parent / "raw"
NAMES = sorted(path.name.removesuffix(".jsonl.gz") for path in RAW.glob("*.jsonl.gz"))
OUTCOMES = {
    "block_raw": "completed",
    "noconverge_abort": "cancelled",
    "postcopy_switch": "completed",
    "precopy_converge_32": "completed",
    "src_daemon_restart": "failed",
    "stall_link": "completed",
}


def lines_of(name: str) -> list[dict]:
    with gzip.open(RAW / f"{name}.jsonl.gz", "rt") as stream:
        return [json.loads(line) for line in stream]


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_of_libvirt_stands_in_the_trace_unscaled(name):
    polled = jsonl.read_file(RAW / f"{name}.jsonl.gz").samples.query("source == 'poll' and job_type.notna()")
    raw = [line for line in lines_of(name) if line["kind"] == "stats"]
    assert len(polled) == len(raw)
    for (_, row), line in zip(polled.iterrows(), raw, strict=True):
        said = {BY_KEY[key].name: value for key, value in line["stats"].items() if key != "type"}
        assert {key: row[key] for key in said} == said
        silent = [column.name for column in BY_KEY.values() if column.name not in said]
        assert row[silent].isna().all()


@pytest.mark.parametrize("name", NAMES)
def test_the_outcome_is_the_one_that_the_lines_prove(name):
    assert jsonl.read_file(RAW / f"{name}.jsonl.gz").meta.end.outcome == OUTCOMES[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_bundled_trace_is_the_conversion_of_the_raw_recording(name, bundled):
    fresh = jsonl.read_file(RAW / f"{name}.jsonl.gz")
    assert bundled[name].meta == fresh.meta
    assert bundled[name].samples.equals(fresh.samples)


def test_a_call_is_placed_where_its_answer_came():
    """The last poll hangs for 1.2 s: the events that arrived meanwhile stand before it."""
    rows = jsonl.read_file(RAW / "block_raw.jsonl.gz").samples
    hanging = rows.index[rows["error_code"] == 55][0]
    job = rows.index[rows["source"] == "job"][0]
    assert rows["latency_us"][hanging] > 1_000_000
    assert job > rows.index[rows["source"] == "lifecycle"][0]
    assert rows["mono_ns"].is_monotonic_increasing


def test_actions_keep_their_name_and_whether_they_succeeded():
    rows = jsonl.read_file(RAW / "postcopy_switch.jsonl.gz").samples
    action = rows[rows["action"] == "start_post_copy"]
    assert list(action["succeeded"]) == [True]


def test_a_daemon_restart_is_a_gap():
    gaps = jsonl.read_file(RAW / "src_daemon_restart.jsonl.gz").meta.cadence.gaps
    assert len(gaps) == 1
    assert 0.3e9 < gaps[0][1] - gaps[0][0] < 1e9


def test_final_statistics_come_from_the_event():
    end = jsonl.read_file(RAW / "postcopy_switch.jsonl.gz").meta.end
    assert end.completed_from == "event"
    assert end.completed["downtime"] == 10
    assert "downtime_net" not in end.completed


def test_lines_that_are_left_out_are_counted():
    notes = jsonl.read_file(RAW / "block_raw.jsonl.gz").meta.notes
    assert notes["skipped_lines"] == {"completed_stats": 1, "qmp event": 16}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no statistics of a running migration"),
        ("hello\n", "line 1 is not of a raw recording"),
        ('{"t_mono_ns": 1, "t_wall": 1.0}\n', "line 1 is not of a raw recording"),
        ('{"t_mono_ns": 1, "t_wall": 1.0, "kind": "stats", "stats": 3}\n', "line 1 is not of a raw recording"),
        ('{"t_mono_ns": 1, "t_wall": 1.0, "kind": "stats", "stats": {"type": 0}}\n', "holds no statistics"),
    ],
)
def test_what_is_no_raw_recording_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(mk.MigkitError, match=rf"x\.jsonl: .*{message}"):
        jsonl.read_file(path)


def test_an_unknown_parameter_of_libvirt_is_kept(tmp_path):
    path = tmp_path / "x.jsonl"
    stats = {"type": 2, "time_elapsed": 5, "brand_new_key": 7}
    path.write_text(json.dumps({"t_mono_ns": 1, "t_wall": 1.0, "kind": "stats", "lat_us": 0, "stats": stats}))
    assert json.loads(jsonl.read_file(path).samples["extra"].iloc[0]) == {"brand_new_key": 7}


def test_a_cut_archive_says_so(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes((RAW / "block_raw.jsonl.gz").read_bytes()[:900])
    with pytest.raises(mk.MigkitError, match=r"x\.jsonl\.gz: cannot be read"):
        jsonl.read_file(path)
