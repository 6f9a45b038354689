"""QEMU's own answers and events become the migration that they tell of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import migkit as mk
from migkit.capture.logs.formats import Importer, as_trace
from migkit.capture.source import EVENT_SUSPENDED, SUSPENDED_POSTCOPY
from tests.capture.logs import rendering_others as rendering

HERE = Path(__file__).parent
SAMPLE = ("converge-late", "link-dead", "post-copy", "auto-converge", "xbzrle", "nonconverging-long")
SAID = ("time_elapsed_ms", "downtime_ms", "setup_time_ms", "memory_total_bytes", "memory_processed_bytes",
        "memory_remaining_bytes", "memory_constant_pages", "memory_normal_pages", "memory_normal_bytes",
        "memory_dirty_rate_pages_per_s", "memory_page_size_bytes", "memory_iteration", "memory_postcopy_requests",
        "auto_converge_throttle_percent", "data_total_bytes", "data_remaining_bytes", "data_processed_bytes",
        "memory_bps")  # fmt: skip


def imported(lines, tmp_path: Path) -> tuple[list[mk.Trace], Importer]:
    path = tmp_path / "log"
    path.write_text("\n".join(lines) + "\n")
    importer = Importer([path])
    return [as_trace(found) for found in importer.imported()], importer


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("indent", [None, 4])
def test_a_recorded_migration_comes_back_to_the_byte(name, indent, bundled, tmp_path):
    [trace], importer = imported(rendering.qmp(bundled[name], indent=indent), tmp_path)
    said = rendering.active(bundled[name], 0)
    said = said[(said["memory_total_bytes"] > 0).to_numpy(dtype=bool)].reset_index(drop=True)
    got = trace.samples[trace.active].reset_index(drop=True)
    for column in SAID:
        # mbps is a float: half a byte a second may be lost.
        off = (got[column].astype("Float64") - said[column].astype("Float64")).abs()
        assert (off <= (1 if column == "memory_bps" else 0)).fillna(True).all(), column
        assert got[column].isna().equals(said[column].isna()), column
    assert importer.skipped.keys() <= {"message that is no answer to query-migrate"}  # the greeting


@pytest.mark.parametrize("stamps", [True, False])
def test_events_of_passes_stand_where_they_came(stamps, bundled, tmp_path):
    recorded = bundled["converge-late"]
    [trace], _ = imported(rendering.qmp(recorded, stamps=stamps), tmp_path)
    got = trace.samples[trace.samples["source"] == "iteration"]
    said = recorded.samples[recorded.samples["event_iteration"].notna()]
    assert got["event_iteration"].tolist() == said["event_iteration"].tolist()
    off_ms = (got["mono_ns"].to_numpy() - (said["mono_ns"].to_numpy() - recorded.t0_ns)) / 1e6
    assert abs(off_ms).max() < (5 if stamps else 50)
    assert trace.meta.cadence.iteration_events is True


def test_what_libvirt_has_no_key_for_is_kept(bundled, tmp_path):
    [trace], _ = imported(rendering.qmp(bundled["converge-slow"]), tmp_path)
    last = trace.samples[trace.active].iloc[-1]
    assert json.loads(last["extra"]) == {"ram.multifd-bytes": 0, "ram.precopy-bytes": last["memory_processed_bytes"]}


@pytest.mark.parametrize("name", ["converge-late", "long-hot-set", "destination-killed", "link-one-percent"])
def test_outcomes_survive(name, bundled, tmp_path):
    [trace], _ = imported(rendering.qmp(bundled[name]), tmp_path)
    assert trace.meta.end.outcome == bundled[name].meta.end.outcome
    if trace.meta.end.outcome == "completed":
        assert trace.meta.end.completed["downtime"] == bundled[name].meta.end.completed["downtime"]


def test_answers_of_a_public_pull_request_are_read():
    """flyingcircusio/fc-nixos#1946"""
    [trace] = mk.read_log(HERE / "qmp" / "fc-nixos-1946.txt")
    first, second = trace.samples.to_dict("records")
    assert (first["data_remaining_bytes"], first["setup_time_ms"], first["downtime_ms"]) == (286334976, 2, 4000)
    assert second["memory_bps"] == 41220  # 0.32976 megabits
    assert second["memory_iteration"] == 1
    assert json.loads(second["extra"]) == {
        "blocked": False, "ram.multifd-bytes": 0, "ram.pages-per-second": 10,
    }  # fmt: skip


def test_events_say_that_post_copy_began_and_how_it_ended(bundled, tmp_path):
    start = rendering.START_NS
    lines = [line for line in rendering.qmp(bundled["post-copy"]) if '"completed"' not in line]
    events = [rendering.event("MIGRATION", {"status": "postcopy-active"}, start + 11 * 10**9),
              rendering.event("STOP", {}, start + 11 * 10**9),
              rendering.event("MIGRATION", {"status": "completed"}, start + 12 * 10**9)]  # fmt: skip
    [trace], importer = imported([*lines, *events], tmp_path)
    switched = trace.samples[trace.samples["source"] == "lifecycle"]
    assert switched[["lifecycle_event", "lifecycle_detail"]].values.tolist() == [[EVENT_SUSPENDED, SUSPENDED_POSTCOPY]]
    assert abs(switched["mono_ns"].iloc[0] - 11 * 10**9) < 5 * 10**6
    assert (trace.meta.end.outcome, trace.meta.end.evidence) == ("completed", "an event of the migration")
    assert importer.skipped["event of another kind"] == 1


@pytest.mark.parametrize("late_ns", [-(10**9), 0, 3 * 10**8])
def test_events_behind_the_answers_in_one_file_are_of_the_same_migration(late_ns, bundled, tmp_path):
    """A time is written before the call that it belongs to: the first one may be older than the start."""
    lines = list(rendering.qmp(bundled["converge-slow"]))
    events = [line for line in lines if '"event"' in line and '"setup"' not in line]
    setup = rendering.event("MIGRATION", {"status": "setup"}, rendering.START_NS + late_ns)
    answers = [line for line in lines if '"event"' not in line]
    [trace], _ = imported([*answers, setup, *events], tmp_path)
    assert trace.samples["event_iteration"].dropna().tolist() == list(range(1, len(events) + 1))
    assert trace.active.sum() > 300


def test_the_next_migration_begins_with_its_event(bundled, tmp_path):
    names = ["converge-slow", "long-hot-set", "idle"]
    traces, _ = imported([line for name in names for line in rendering.qmp(bundled[name], stamps=False)], tmp_path)
    assert [trace.meta.end.outcome for trace in traces] == [bundled[name].meta.end.outcome for name in names]


def test_monitors_in_libvirts_debug_log_are_told_apart(bundled, tmp_path):
    one, two = (
        [f"2026-08-01 10:00:00.000+0000: 42: info : qemuMonitorJSONIOProcessLine:231 : QEMU_MONITOR_RECV_REPLY: "
         f"mon=0x7f{mark}0 reply={json.dumps(rendering.answer(row))}"
         for _, row in rendering.sampled(bundled[name], 1000).iterrows()]
        for mark, name in (("a", "converge-late"), ("b", "long-hot-set"))
    )  # fmt: skip
    mixed = [line for pair in zip(one, two, strict=False) for line in pair]
    traces, _ = imported(mixed, tmp_path)
    assert [int(trace.active.sum()) for trace in traces] == [len(mixed) // 2] * 2
    assert traces[0].samples["data_total_bytes"].max() != traces[1].samples["data_total_bytes"].max()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"return": {"status": "running", "singlestep": false, "running": true}}', "message that is no answer"),
        ('{"return": {"status": "active", "total-time": "12", "ram": {}}}', "answer with a value of an unknown form"),
        ('{"return": {"status": "active", "total-time": 12, "ram": 3}}', "answer with a value of an unknown form"),
        (
            '{"return": {"status": "active", "total-time": 12, "ram": {"mbps": "x"}}}',
            "answer with a value of an unknown",
        ),
        ('{"return": {"status": "active", "total-time": -1, "ram": {}}}', "answer with a number that cannot be"),
        ('{"return": {"status": "active", "total-time": 12, "ram": {"transferred": 1', "document that is cut short"),
        ('{"return": {"status": "act\x00ive"}}', "document that is cut short"),
        ("[" * 3000 + '{"a":' * 3000, "document that is"),
        ("hello", "foreign line"),
    ],
)
def test_what_is_no_answer_is_left_out_with_its_reason(line, reason, bundled, tmp_path):
    lines = list(rendering.qmp(bundled["converge-slow"], every_ms=1000))
    [whole], before = imported(lines, tmp_path)
    [trace], importer = imported([*lines[:20], line, *lines[20:]], tmp_path)
    assert len(trace.samples) == len(whole.samples)
    more = importer.skipped - before.skipped
    assert sum(count for words, count in more.items() if words.startswith(reason)) == 1, more


@pytest.mark.parametrize("stamps", [True, False])
@pytest.mark.parametrize("status", ["none", "failed", "cancelled", "completed"])
def test_a_job_that_is_over_is_not_gone_on_with(status, stamps, bundled, tmp_path):
    """The next one was first seen when it had run for longer, and sent more, than the one before."""
    rows = [row for _, row in rendering.active(bundled["nonconverging-long"], 1000).iterrows()]
    lines = []
    for later_s, part in ((0, rows[2:6]), (600, rows[30:40])):
        for row in part:
            lines += [f"{(rendering.at(row) + later_s * 10**9) / 1e9:.3f}"] if stamps else []
            lines.append(json.dumps(rendering.answer(row)))
        over = rendering.answer(part[-1], status) if status == "completed" else {"return": {"status": status}}
        lines.append(json.dumps(over))
    traces, _ = imported(lines, tmp_path)
    assert [int(trace.active.sum()) for trace in traces] == [4, 10]
