"""Launcher logs of every form become the migrations that they were, no finer than they were printed."""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import migkit as mk
from migkit.capture.logs import kubevirt, kubevirt_jobs, kubevirt_lines
from migkit.capture.logs.formats import Importer, as_trace
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


def stripped(line: str, *kept: str) -> str:
    said = json.loads(line)
    return json.dumps({key: said[key] for key in ("timestamp", "msg", *kept)})


@pytest.mark.parametrize("kept", [(), ("level",), ("level", "pos", "component")])
@pytest.mark.parametrize("form", "CD")
@pytest.mark.parametrize("name", ["converge-late", "long-destination-stopped"])
def test_a_log_stripped_of_its_guest_is_read_as_a_bare_log_is(name, form, kept, bundled, tmp_path):
    whole = list(rendering.kubevirt(bundled[name], form))
    [trace] = imported([stripped(line, *kept) for line in whole], tmp_path)
    [bare] = imported([f"{json.loads(line)['timestamp']} {json.loads(line)['msg']}" for line in whole], tmp_path)
    assert trace.samples.equals(bare.samples)
    assert trace.meta.end.outcome == bare.meta.end.outcome == bundled[name].meta.end.outcome
    assert any("without the guest's name" in words for words in trace.meta.notes["said"])


def test_a_stripped_log_that_breaks_off_invents_no_end(bundled, tmp_path):
    lines = [stripped(line) for line in rendering.kubevirt(bundled["converge-late"], "C")][1:-1]
    [trace] = imported(lines, tmp_path)
    assert int(trace.active.sum()) == len(lines)
    assert trace.meta.end.outcome == "lost"
    whole = list(rendering.kubevirt(bundled["converge-late"], "C"))[1:-1]
    (tmp_path / "copy.log").write_text("\n".join(whole))
    [again] = mk.read_log(tmp_path)
    assert (int(again.active.sum()), again.meta.end.outcome) == (len(lines), "lost")


def test_final_statistics_without_a_downtime_are_told_by_their_logger(bundled, tmp_path):
    """A job without a switchover to speak of prints no downtime at its end; its logger names no guest."""
    lines = list(rendering.kubevirt(bundled["converge-late"], "D"))[:-1]
    final = json.loads(lines[-1])
    final["msg"] = re.sub(r"Downtime:(\d+)ms DowntimeNet:\d+ms", r"ExpectedDowntime:\1ms", final["msg"])
    [trace] = imported([*lines[:-1], json.dumps(final)], tmp_path)
    assert trace.meta.end.outcome == "completed"
    assert trace.samples["source"].tolist()[-1] == "job"
    [lost] = imported([stripped(line) for line in [*lines[:-1], json.dumps(final)]], tmp_path)
    assert lost.meta.end.outcome == "lost"


def test_final_statistics_in_the_file_that_is_read_first_find_their_migration(bundled, tmp_path):
    lines = list(rendering.kubevirt(bundled["converge-late"], "D"))
    (tmp_path / "current.log").write_text("\n".join(lines[-2:]))
    (tmp_path / "previous.log").write_text("\n".join(lines[:-2]))
    [trace] = mk.read_log(tmp_path)
    assert trace.meta.end.outcome == "completed"


OTHER = {**rendering.GUEST, "name": "db2", "uid": "11111111-2222-3333-4444-555555555555"}
OTHER_UID = "22222222-0000-0000-0000-000000000002"


def later(line: str, seconds: float) -> str:
    said = json.loads(line)
    moment = datetime.datetime.fromisoformat(said["timestamp"]) + datetime.timedelta(seconds=seconds)
    return json.dumps(said | {"timestamp": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")})


def by_time(*logs: list[str]) -> list[str]:
    return sorted(itertools.chain(*logs), key=lambda line: json.loads(line)["timestamp"])


def abort(seconds: float) -> str:
    text = "Aborting migration: stuck for 151 seconds"
    return stripped(rendering.envelope(text, rendering.START_NS + int(seconds * 1e9)))


def actions(traces: list[mk.Trace]) -> list[list[str]]:
    return [trace.samples["action"].dropna().tolist() for trace in traces]


@pytest.mark.parametrize("named", [True, False])
def test_an_abort_that_names_no_guest_is_of_the_one_that_runs(named, bundled, tmp_path):
    """Two guests' logs in one; web1 runs for longer than db2."""
    recorded = bundled["nonconverging-long"]
    one = [line for line in rendering.kubevirt(recorded, "C") if "Migration info" in line]
    two = list(rendering.kubevirt(recorded, "C", uid=OTHER_UID, guest=OTHER))[1:11]
    form = (lambda line: line) if named else stripped
    lasts_s = json.loads(one[-1])["msg"].split("TimeElapsed:")[1].split("ms")[0]
    assert int(lasts_s) > 100_000
    both = [form(line) for line in by_time(one, [later(line, 0.5) for line in two])]
    alone = imported([*both, abort(80)], tmp_path)
    assert sorted(actions(alone)) == [[], ["abort"]]
    longest = max(alone, key=lambda trace: len(trace.samples))
    assert longest.samples["action"].dropna().tolist() == ["abort"]
    together = Importer([tmp_path / "launcher.log"])
    (tmp_path / "launcher.log").write_text("\n".join([*both, abort(20)]))
    assert actions([as_trace(found) for found in together.imported()]) == [[], []]
    assert "while not exactly one of several migrations ran" in next(iter(together.skipped))


def test_a_result_that_names_its_migration_alone_finds_it_among_others(bundled, tmp_path):
    one = list(rendering.kubevirt(bundled["nonconverging-long"], "C"))[:20]
    two = list(rendering.kubevirt(bundled["nonconverging-long"], "C", uid=OTHER_UID, guest=OTHER))[:20]
    result = f"set migration result in metadata: {{{OTHER_UID} 2024-05-06 10:12:00 true stuck Failed PreCopy}}"
    said = stripped(rendering.envelope(result, rendering.START_NS + 78 * 10**9))
    traces = imported([*by_time(one, two), said], tmp_path)
    outcomes = {trace.meta.domain.name: trace.meta.end.outcome for trace in traces}
    assert outcomes == {"prod_web1": "lost", "prod_db2": "failed"}


def test_a_migration_that_begins_in_the_second_in_which_another_failed_has_its_own_lines(bundled, tmp_path):
    first = list(rendering.kubevirt(bundled["nonconverging-long"], "C"))[:20]
    failed = later(first[-1], 0.3)
    failed = json.dumps(json.loads(failed) | {"msg": "Live migration failed.", "reason": "stuck"})
    begun = datetime.datetime.fromisoformat(json.loads(failed)["timestamp"]).timestamp() - rendering.START_NS / 1e9
    second = [later(line, begun + 0.1) for line in rendering.kubevirt(bundled["converge-late"], "C", uid=OTHER_UID)]
    one, two = imported([*first, failed, *second], tmp_path)
    assert (one.meta.end.outcome, two.meta.end.outcome) == ("failed", "completed")
    said = [[text for _, text in trace.meta.notes["monitor_lines"]] for trace in (one, two)]
    assert [text.count("Initiating live migration.") for text in said] == [1, 1]


@pytest.mark.parametrize("apart_s", [0, 0.4, 40])
@pytest.mark.parametrize("first", [True, False])
def test_a_migration_that_ended_before_its_first_statistics_leaves_its_lines_to_none(first, apart_s, bundled, tmp_path):
    log = list(rendering.kubevirt(bundled["long-hot-set"], "C"))
    begun, over = rendering.envelope("Initiating live migration.", rendering.START_NS), "Live migration succeeded."
    short = [begun, later(json.dumps(json.loads(begun) | {"msg": over}), 2)]
    took_s = datetime.datetime.fromisoformat(json.loads(log[-1])["timestamp"]).timestamp() - rendering.START_NS / 1e9
    both = [*short, *(later(line, 2 + apart_s) for line in log)] if first else [
        *log, *(later(line, took_s + apart_s) for line in short)]  # fmt: skip
    importer = Importer([tmp_path / "launcher.log"])
    (tmp_path / "launcher.log").write_text("\n".join(both))
    [trace] = [as_trace(found) for found in importer.imported()]
    assert trace.meta.end.outcome == "cancelled"
    assert sum(importer.skipped.values()) == 2


@pytest.mark.parametrize(
    "message",
    ["reconciling VM pause state", "Pausing the guest to allow migration to complete", "Signaled pause for web1",
     "Signalling suspension failed.", "convergence action is nothing because: x", "failed to get domain job info",
     "downtime tuning enabled: initial=150ms", "Aborting migration: stuck for 151 seconds",
     "setting max downtime failed", "max downtime set to 900ms: x", "stall detected: x",
     "relaxed best remaining bytes: x", "failed to start post-copy migration"],
)  # fmt: skip
def test_what_a_monitor_says_is_found_without_its_json(message):
    assert any(needle in message.encode() for needle in kubevirt.NEEDLES)


def test_a_bare_line_of_a_pause_is_a_pause(bundled, tmp_path):
    bare = [json.loads(line)["msg"] for line in rendering.kubevirt(bundled["converge-late"], "D")]
    [trace] = imported([*bare[:5], "reconciling VM pause state", *bare[5:]], tmp_path)
    assert trace.samples["domain_state"].dropna().tolist() == [3]


def test_a_pause_that_the_monitor_did_not_announce_is_not_its_doing(bundled, tmp_path):
    """virtctl pause makes the launcher say the same."""
    lines = list(rendering.kubevirt(bundled["converge-late"], "C"))
    said = rendering.envelope("Signaled pause for web1", rendering.START_NS + 10_000_000_000)
    [trace] = imported([*lines, said], tmp_path)
    assert trace.samples["action"].isna().all()


@pytest.mark.parametrize("version", ["1.1", "1.2.0", "0.59", "1.8"])
@pytest.mark.parametrize("stall", [True, False])
def test_fields_that_v1_9_alone_prints_beat_a_version_that_was_told(version, stall, bundled, tmp_path):
    lines = list(rendering.kubevirt(bundled["converge-late"], "D", stall=stall))
    [right] = imported(lines, tmp_path)
    [trace] = imported(lines, tmp_path, version=version)
    assert trace.samples.equals(right.samples)
    assert trace.samples["memory_bps"].max() > 10**7
    assert [words for words in trace.meta.notes["said"] if f"--kubevirt-version {version} cannot" in words]
    [same] = imported(lines, tmp_path, version="1.9")
    assert not any("cannot have written" in words for words in same.meta.notes.get("said", []))


@pytest.mark.parametrize(
    ("form", "version", "words"),
    [("A", "1.8", "in bytes"), ("C", "1.0.0", "in MiB"), ("C", "0.59", "in MiB"), ("C", "1.1", "look at"),
     ("A", "1.0", ""), ("C", "1.8", ""), ("A", "0.55", ""), ("B", "1.1", ""), ("B", "1.0", ""),
     ("B", "1.8", "look at")],
)  # fmt: skip
def test_a_version_that_contradicts_the_lines_is_said(form, version, words, bundled, tmp_path):
    [trace] = imported(rendering.kubevirt(bundled["converge-late"], form), tmp_path, version=version)
    said = [each for each in trace.meta.notes.get("said", []) if "--kubevirt-version" in each]
    assert [words in each for each in said] == ([True] if words else [])


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


def test_a_second_job_that_had_run_as_long_when_first_seen_is_of_its_own(bundled, tmp_path):
    first = list(rendering.kubevirt(bundled["converge-late"], "C"))[1]
    again = [later(line, 600) for line in list(rendering.kubevirt(bundled["converge-late"], "C"))[1:4]]
    traces = imported([first, *again], tmp_path)
    assert [int(trace.active.sum()) for trace in traces] == [1, 3]


def test_a_copy_of_a_log_beside_it_repeats_no_action(bundled, tmp_path):
    lines = list(rendering.kubevirt(bundled["converge-late"], "C"))
    said = rendering.envelope("Starting post copy mode for migration", rendering.START_NS + 10_000_000_000)
    [alone] = imported([*lines, said], tmp_path)
    (tmp_path / "copy.log").write_text("\n".join([*lines, said]))
    [trace] = mk.read_log(tmp_path)
    assert trace.samples.equals(alone.samples)
    assert trace.samples["action"].dropna().tolist() == ["start_post_copy"]


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("uid", ["xxxx", "<uid>", ""])
def test_migrations_without_guest_and_uid_are_told_apart_by_their_numbers(uid, bare, bundled, tmp_path):
    """Two launchers' logs in one, with all names masked; memory differs in size."""
    one = list(rendering.kubevirt(bundled["nonconverging-long"], "C", uid=uid))[1:-1]
    two = [
        later(line, 2).replace("DataTotal:2", "DataTotal:9").replace("MemoryTotal:2", "MemoryTotal:9") for line in one
    ]
    assert two[0] != later(one[0], 2)
    form = (lambda line: json.loads(line)["msg"]) if bare else stripped
    traces = imported([form(line) for line in by_time(one, two)], tmp_path)
    assert [int(trace.active.sum()) for trace in traces] == [len(one), len(two)]
    assert all(any("by its numbers alone" in words for words in trace.meta.notes["said"]) for trace in traces)


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


@given(
    spans=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), min_size=1, max_size=12),
    order=st.integers(0, 90),
    kind=st.sampled_from(["opening", "closing", "deed", ""]),
)
def test_of_migrations_without_times_only_a_few_need_to_be_compared(spans, order, kind):
    jobs = [kubevirt_jobs.Job(key="a", named=False, samples=[], span_ns=None, orders=(first, first + long),
                              places={"x"}) for first, long in spans]  # fmt: skip
    item = kubevirt_lines.entry(b"Live migration failed.")
    event = kubevirt_lines.Event(order, item, "x")

    def nearest(among):
        far = [(kubevirt_jobs._distance(event, kind, job), job) for job in among]
        return min((kubevirt_jobs._apart(event, kind, job, d) for d, job in far if d is not None), default=None)

    assert nearest([job for _, job in kubevirt_jobs.Timeline(jobs).about(event)]) == nearest(jobs)
