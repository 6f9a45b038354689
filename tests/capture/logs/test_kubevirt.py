"""Launcher logs of every form become the migrations that they were, no finer than they were printed."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import migkit as mk
from migkit.capture.logs import kubevirt, kubevirt_lines
from migkit.units import MIB
from tests.capture.logs import rendering

LOGS = Path(__file__).parent / "kubevirt"
EXACT = ("time_elapsed_ms", "memory_iteration", "memory_postcopy_requests", "memory_constant_pages",
         "memory_normal_pages", "memory_page_size_bytes")  # fmt: skip
AMOUNTS = ("data_processed_bytes", "data_remaining_bytes", "data_total_bytes", "memory_processed_bytes",
           "memory_remaining_bytes", "memory_total_bytes", "memory_normal_bytes")  # fmt: skip
# One trace of each kind: convergence, a dead link, post-copy, disks first, throttling, compression, an abort.
SAMPLE = ("converge-late", "stall_link", "post-copy-late", "block-then-ram", "auto-converge", "xbzrle",
          "nonconverging-long")  # fmt: skip


def imported(lines, tmp_path: Path, **options) -> list[mk.Trace]:
    path = tmp_path / "launcher.log"
    path.write_text("\n".join(lines) + "\n")
    return mk.read_log(path, **options)


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize(
    ("form", "bytes_step", "rate_step"), [("A", 1, 1), ("B", MIB, 8_000_000), ("C", MIB, 125_000), ("D", MIB, 125_000)]
)
def test_a_recorded_migration_comes_back_within_the_resolution_of_its_log(
    name, form, bytes_step, rate_step, bundled, tmp_path
):
    recorded = bundled[name]
    [trace] = imported(rendering.kubevirt(recorded, form), tmp_path, version="1.1.0" if form == "B" else None)
    got = trace.samples[trace.active].reset_index(drop=True)
    said = rendering.sampled(recorded).reset_index(drop=True)
    assert len(got) == len(said) > 0
    for column in EXACT:
        assert got[column].equals(said[column]), column
    for column in AMOUNTS:
        lost = (said[column] - got[column]).dropna()
        assert ((lost >= 0) & (lost < bytes_step)).all(), column
    lost = (said["memory_bps"] - got["memory_bps"]).dropna()
    assert ((lost >= 0) & (lost < rate_step)).all()
    dirty = [rows["memory_dirty_rate_pages_per_s"] * rows["memory_page_size_bytes"] for rows in (said, got)]
    lost = (dirty[0] - dirty[1]).dropna()
    assert ((lost >= 0) & (lost < rate_step + 4096)).all()
    assert trace.meta.cadence.resolution_bytes == (None if form == "A" else MIB)


@pytest.mark.parametrize("form", "ABCD")
def test_outcomes_survive_the_log(form, bundled, tmp_path):
    for name in ("converge-late", "nonconverging-aborted", "long-destination-stopped"):
        [trace] = imported(rendering.kubevirt(bundled[name], form), tmp_path)
        assert trace.meta.end.outcome == bundled[name].meta.end.outcome, name


def test_what_libvirt_did_not_say_is_no_zero(bundled, tmp_path):
    [trace] = imported(rendering.kubevirt(bundled["block-then-ram"], "C"), tmp_path)
    before_memory = trace.samples[trace.active & (trace.samples["memory_total_bytes"] == 0).to_numpy()]
    assert len(before_memory) > 0
    silent = ["memory_bps", "memory_normal_pages", "memory_constant_pages", "memory_page_size_bytes", "downtime_ms"]
    assert before_memory[silent].isna().all().all()


def test_rates_that_are_64_times_too_small_are_seen_and_repaired():
    [trace] = mk.read_log(LOGS / "mbps-64-times-too-small.log")
    assert trace.samples["memory_bps"].dropna().unique().tolist() == [14 * 8_000_000]
    assert trace.meta.cadence.resolution_bps == 8_000_000
    assert "64 times too small" in trace.meta.notes["said"][0]


@pytest.mark.parametrize(
    ("version", "bps"), [("1.1", 8_000_000), ("1.2.0", 8_000_000), ("v1.2.1", 125_000), ("1.8", 125_000)]
)
def test_the_version_says_what_a_printed_rate_is(version, bps):
    [trace] = mk.read_log(LOGS / "mbps-64-times-too-small.log", version=version)
    assert trace.samples["memory_bps"].max() == 14 * bps


def test_rates_that_nobody_can_judge_are_left_out(tmp_path):
    first = (LOGS / "mbps-64-times-too-small.log").read_text().splitlines()[1]
    [trace] = imported([first], tmp_path)
    assert trace.samples["memory_bps"].isna().all()
    assert "memory_bps" in trace.meta.cadence.lacks
    assert "nothing tells" in trace.meta.notes["said"][0]


def test_what_the_monitor_wrote_is_what_it_did():
    [trace] = mk.read_log(LOGS / "stall-gate-switchover.log")
    done = trace.samples[trace.samples["source"] == "action"]
    assert done[["action", "argument"]].values.tolist() == [["set_max_downtime", 300], ["set_max_downtime", 2_000_000]]
    assert (trace.meta.end.outcome, trace.meta.end.completed["downtime"]) == ("completed", 5187)
    paused = trace.samples[trace.samples["domain_state"].eq(3)]
    assert paused["mono_ns"].tolist() == [121_400_000_000]
    assert trace.meta.cadence.iteration_events is True
    assert trace.samples.query("source == 'iteration'")["event_iteration"].tolist() == list(range(2, 14))
    lines = [text for _, text in trace.meta.notes["monitor_lines"]]
    assert any(text.startswith("stall detected") for text in lines)
    assert any(text.startswith("relaxed best") for text in lines)


def test_the_monitors_options_make_its_policy():
    [trace] = mk.read_log(LOGS / "stall-gate-switchover.log")
    policy = mk.kubevirt("main", **trace.meta.notes["kubevirt_options"])
    assert policy.options["max_downtime_ms"] == 700
    assert policy.options["stall_margin"] == 4
    assert mk.replay(trace, policy).fidelity.level == "approximate"


V19 = (
    "initialized migration monitor: stallDetection=true progressTimeout=150s completionTimeoutPerGiB=150 "
    "maxDowntimeMs=900 allowPostCopy=false allowWorkloadDisruption=false stallMargin=0.04 stallProgressTimeout=40s "
    "switchoverTimeout=60s preCopyPossibleFactor=1.50 patienceWindowDecayFactor=0.50 bandwidthEWMAAlpha=0.40 "
    "searchLocalMinima=true completionTimeoutFactor=2.00"
)
HANDLER = (
    'migration options matched for vmi web1: {"Bandwidth":"64Mi","ProgressTimeout":150,"CompletionTimeoutPerGiB":150,'
    '"MaxDowntimeMs":900,"UnsafeMigration":false,"AllowAutoConverge":true,"AllowPostCopy":true,'
    '"ParallelMigrationThreads":8,"AllowWorkloadDisruption":true,"StallDetectorOptions":{"StallMargin":4,'
    '"StallProgressTimeout":40,"SwitchoverTimeout":60,"EwmaAlpha":"400m","PrecopyPossibleFactor":"1500m",'
    '"PatienceWindowDecayFactor":"500m","SearchLocalMinima":true,"CompletionTimeoutFactor":"2"},"Compression":null}'
)


@pytest.mark.parametrize(
    ("message", "version", "option", "value"),
    [
        (V19, "1.9", "stall_margin", 4),
        (V19, "1.9", "ewma_alpha", "0.40"),
        (HANDLER, "main", "allow_post_copy", True),
        (HANDLER, "main", "stall_progress_timeout", 40),
        ("downtime tuning enabled: initial=150ms steps=7 startAfterIteration=3 cooldown=10s ceiling=900ms", "main",
         "cooldown_seconds", 10),
    ],
)  # fmt: skip
def test_effective_options_are_read_by_a_policys_names(message, version, option, value):
    found = kubevirt_lines.options(message)
    assert found[option] == value
    assert mk.kubevirt(version, **found).options[option] is not None


def test_a_replay_agrees_with_the_monitor_that_wrote_the_log(bundled, tmp_path):
    """The monitor is migkit's own here: its decisions are written as KubeVirt writes them, and found again."""
    recorded = bundled["nonconverging-long"]
    policy = mk.kubevirt("1.8", completion_timeout_per_gib=60, allow_post_copy=False)
    decided = mk.replay(recorded, policy).decisions.iloc[0]
    assert (decided.action, decided.reason) == ("abort", "timeout")
    reason = "Live migration is not completed after 120 seconds and has been aborted"
    aborted = rendering.envelope(
        f"Live migration abort detected with reason: {reason}",
        rendering.START_NS + int(decided.t_s * 1e9),
        level="error",
    )
    before = [line for line in rendering.kubevirt(recorded, "C") if "Live migration" not in line]
    before = [line for line in before if json.loads(line)["timestamp"] < json.loads(aborted)["timestamp"]]
    [trace] = imported([*before, aborted], tmp_path)
    run = mk.replay(trace, policy)
    assert run.decisions["action"].tolist() == ["abort"]
    assert run.divergence_s is None
    assert trace.meta.end.outcome == "cancelled"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (["Starting post copy mode for migration"], [("start_post_copy", None, True)]),
        (["Starting post copy mode for migration", "failed to start post migration"],
         [("start_post_copy", None, False)]),
        (["Pausing the guest to allow migration to complete", "Signaled pause for web1"], [("suspend", None, True)]),
        (["Pausing the guest to allow migration to complete", "Signalling suspension failed."],
         [("suspend", None, False)]),
        (["Setting large max downtime to trigger migration switchover", "Set max downtime to 600s for web1"],
         [("set_max_downtime", 600_000, True)]),
        (["max downtime set to 900ms: because", "setting max downtime failed"], [("set_max_downtime", 900, False)]),
        (["completion timeout reached: setting max downtime to 2000000ms to force switchover"],
         [("set_max_downtime", 2_000_000, True)]),
        (["completion timeout reached: starting post-copy mode to force convergence",
          "failed to start post-copy migration"], [("start_post_copy", None, False)]),
        (["downtime tuning: max_downtime 150ms -> 257ms (ceiling=900ms)"], [("set_max_downtime", 257, True)]),
        (["downtime tuning: failed to set max_downtime to 257ms"], [("set_max_downtime", 257, False)]),
        (["Aborting migration: stuck for 151 seconds", "Live migration abort succeeded"], [("abort", None, True)]),
        (["Aborting migration: stuck for 151 seconds", "failed to cancel migration"], [("abort", None, False)]),
        (["aborting migration due to completion timeout: elapsedSec=301 acceptableCompletionSec=300"],
         [("abort", None, True)]),
        (["Live migration stuck for 151 seconds", "failed to abort migration"], [("abort", None, False)]),
        (["Live migration abort succeeded"], [("abort", None, True)]),
    ],
)  # fmt: skip
def test_every_deed_of_a_monitor_is_read(messages, expected, bundled, tmp_path):
    lines = list(rendering.kubevirt(bundled["converge-late"], "C"))
    said = [rendering.envelope(text, rendering.START_NS + 10_000_000_000 + i) for i, text in enumerate(messages)]
    [trace] = imported([*lines, *said], tmp_path)
    done = trace.samples[trace.samples["source"] == "action"]
    found = [(r.action, None if pd.isna(r.argument) else r.argument, r.succeeded) for r in done.itertuples()]
    assert found == expected


def test_interleaved_migrations_of_two_guests_are_told_apart():
    traces = {trace.meta.domain.name: trace for trace in mk.read_log(LOGS / "two-guests-interleaved.log")}
    assert set(traces) == {"prod_web1", "prod_db2"}
    assert [int(trace.active.sum()) for trace in traces.values()] == [11, 11]
    assert traces["prod_db2"].samples["action"].dropna().tolist() == ["abort"]
    assert traces["prod_web1"].samples["action"].isna().all()
    assert traces["prod_db2"].meta.end.outcome == "cancelled"


def test_a_stepped_clock_and_a_cut_line_leave_libvirts_own_times():
    [trace] = mk.read_log(LOGS / "clock-step-and-cut-line.log")
    assert trace.samples["time_elapsed_ms"].tolist() == [4000 * k for k in range(1, 11) if k != 4]
    assert (trace.samples["mono_ns"] == trace.samples["time_elapsed_ms"] * 1_000_000).all()
    assert any("stepped by -30.0 s" in words for words in trace.meta.notes["said"])
    assert trace.meta.notes["skipped_lines"] == {"the same line again": 1}


def test_messages_without_json_and_without_times_are_enough(bundled, tmp_path):
    bare = [json.loads(line)["msg"] for line in rendering.kubevirt(bundled["converge-late"], "C")]
    [trace] = imported(bare, tmp_path)
    assert trace.samples["wall_ns"].isna().all()
    assert int(trace.active.sum()) == len(rendering.sampled(bundled["converge-late"]))
    assert trace.meta.end.outcome == "completed"


@pytest.mark.parametrize(
    "prefix", ["2024-05-06T10:11:10.123456789Z ", "2024-05-06T10:11:10.5Z stderr F ", "[pod/x/compute] "]
)
def test_lines_behind_a_prefix_are_read(prefix, bundled, tmp_path):
    lines = [prefix + line for line in rendering.kubevirt(bundled["converge-late"], "C")]
    [trace] = imported(lines, tmp_path)
    assert trace.meta.domain.name == "prod_web1"


def test_a_job_that_libvirt_began_again_is_a_migration_of_its_own(bundled, tmp_path):
    lines = list(rendering.kubevirt(bundled["converge-late"], "C"))[1:-1]
    later = [line.replace("T10:", "T11:") for line in lines]
    traces = imported([*lines, *later], tmp_path)
    assert [int(trace.active.sum()) for trace in traces] == [len(lines), len(lines)]


def test_a_log_cut_between_two_files_is_one_migration(bundled, tmp_path):
    lines = list(rendering.kubevirt(bundled["nonconverging-long"], "C"))
    (tmp_path / "current.log").write_text("\n".join(lines[20:]))
    (tmp_path / "previous.log").write_text("\n".join(lines[:20]))
    [trace] = mk.read_log(tmp_path)
    assert int(trace.active.sum()) == len(rendering.sampled(bundled["nonconverging-long"]))


def test_a_backups_statistics_are_no_migrations(bundled, tmp_path):
    lines = list(rendering.kubevirt(bundled["converge-late"], "C"))
    backup = [line.replace("Migration info for", "Backup info for") for line in lines]
    with pytest.raises(mk.MigkitError, match="tells of no migration"):
        imported(backup, tmp_path)


def test_lines_of_public_issues_are_read_and_tell_of_no_migration(bundled, tmp_path):
    shutil.copy(LOGS / "lines-of-public-issues.log", tmp_path / "a.log")
    with pytest.raises(mk.MigkitError, match="tells of no migration"):
        mk.read_log(tmp_path)
    lines = list(rendering.kubevirt(bundled["converge-late"], "C"))
    real = (LOGS / "lines-of-public-issues.log").read_text().splitlines()
    [trace] = imported([*real, *lines, *real], tmp_path)
    assert trace.meta.end.outcome == "completed"


NOISE = st.one_of(st.binary(max_size=40), st.sampled_from([b"\n", b'"', b"{", b"MiB", b"Migration info for ", b"\xff"]))


@given(cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), NOISE), max_size=8))
def test_a_mutated_log_never_breaks_the_reader(cuts, tmp_path_factory):
    data = (LOGS / "stall-gate-switchover.log").read_bytes()
    for place, length, noise in cuts:
        at = int(place * len(data))
        data = data[:at] + noise + data[at + length :]
    path = tmp_path_factory.mktemp("mutated") / "x.log"
    path.write_bytes(data)
    for trace in mk.import_logs(path):
        again = trace.save(path.with_suffix(".parquet"), force=True)
        assert mk.load(again).samples.equals(trace.samples)


@given(number=st.integers(0, 10**21), key=st.sampled_from(["TimeElapsed", "DataRemaining", "NormalPages", "Iteration"]))
def test_no_number_breaks_the_reader(number, key, tmp_path_factory):
    line = (LOGS / "stall-gate-switchover.log").read_text().splitlines()[5]
    unit = {"TimeElapsed": "ms", "DataRemaining": "MiB"}.get(key, "")
    before, _, after = line.partition(f"{key}:")
    path = tmp_path_factory.mktemp("numbers") / "x.log"
    path.write_text(f"{before}{key}:{number}{unit} {after.partition(' ')[2]}\n")
    for trace in mk.import_logs(path):
        assert mk.load(trace.save(path.with_suffix(".parquet"), force=True)).samples.equals(trace.samples)


def test_of_many_guests_the_one_silent_longest_is_written_out_first(bundled, tmp_path, monkeypatch):
    """More lines than are held at once: no migration whose guest still speaks is cut in two."""
    lines = list(rendering.kubevirt(bundled["nonconverging-long"], "C"))
    monkeypatch.setattr(kubevirt, "_MOST_HELD", 4 * len(lines))
    texts = []
    for number in range(12):
        new = {rendering.UID: f"uid-{number}", rendering.VMI_UID: f"vmi-{number}", "web1": f"web{number}"}
        texts.append([functools.reduce(lambda line, pair: line.replace(*pair), new.items(), line) for line in lines])
    # Three at a time speak in turns.
    groups = [zip(*texts[start : start + 3], strict=True) for start in range(0, 12, 3)]
    path = tmp_path / "x.log"
    path.write_text("\n".join(line for group in groups for several in group for line in several) + "\n")
    traces = list(mk.import_logs(path))
    assert sorted(trace.name.split("-")[1] for trace in traces) == sorted(f"web{number}" for number in range(12))
    assert {trace.meta.end.outcome for trace in traces} == {bundled["nonconverging-long"].meta.end.outcome}


def test_what_a_monitor_says_beyond_the_notes_is_counted_and_long_lines_are_cut(bundled, tmp_path):
    lines = [json.loads(line)["msg"] for line in rendering.kubevirt(bundled["converge-late"], "C")]
    more = ["stall detected: " + "x" * 2000, *[f"stall detected: {number}" for number in range(300)]]
    [trace] = imported([*lines, *more], tmp_path)
    kept = [words for _, words in trace.meta.notes["monitor_lines"]]
    assert any(len(words) == 1000 for words in kept)
    known = len(kept) + trace.meta.notes["skipped_lines"]["line of the monitor behind the first 200"]
    assert (len(kept), known) == (200, len(more) + sum("igration info for" not in line for line in lines))
