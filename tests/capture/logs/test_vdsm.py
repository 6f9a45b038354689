"""vdsm's log becomes the migrations that it tells of, its units taken for what they are."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import migkit as mk
from migkit.capture.logs.formats import Importer, as_trace
from migkit.units import MIB
from tests.capture.logs import rendering_others as rendering

HERE = Path(__file__).parent
SAMPLE = ("converge-late", "long-link-one-percent", "block-then-ram", "auto-converge", "xbzrle", "long-hot-set")
AMOUNTS = ("data_processed_bytes", "data_remaining_bytes", "data_total_bytes")
OTHER = "88084fdd-51dc-4967-8493-c1169e4533ec"


def imported(lines, tmp_path: Path) -> tuple[list[mk.Trace], Importer]:
    path = tmp_path / "vdsm.log"
    path.write_text("\n".join(lines) + "\n")
    importer = Importer([path])
    return [as_trace(found) for found in importer.imported()], importer


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize(("old", "rate_step"), [(False, MIB // 8), (True, MIB)])
def test_a_recorded_migration_comes_back_within_the_resolution_of_its_log(name, old, rate_step, bundled, tmp_path):
    recorded = bundled[name]
    said = rendering.sampled(recorded, 3000).reset_index(drop=True)
    [trace], importer = imported(rendering.vdsm(recorded, every_ms=3000, old=old), tmp_path)
    got = trace.samples[trace.active].reset_index(drop=True)
    for column in AMOUNTS:
        lost = said[column].astype("int64") - got[column].astype("int64")
        assert lost.between(0, MIB - 1).all(), column
    lost = (said["memory_bps"] - got["memory_bps"]).dropna()
    assert ((lost >= 0) & (lost < rate_step)).all()
    for column in ("memory_iteration", "memory_dirty_rate_pages_per_s"):
        assert got[column].equals(said[column]), column
    known = got["memory_constant_pages"].notna()
    assert got["memory_constant_pages"][known].tolist() == said["memory_constant_pages"][known].tolist()
    elapsed = said["time_elapsed_ms"] // 1000 * 1000 if old else said["time_elapsed_ms"]
    assert got["time_elapsed_ms"].tolist() == elapsed.tolist()
    cadence = trace.meta.cadence
    assert (cadence.resolution_bytes, cadence.resolution_bps) == (MIB, rate_step)
    assert cadence.start_uncertain_ms == (1000 if old else None)
    assert importer.skipped == {}


@pytest.mark.parametrize("name", ["converge-late", "long-hot-set", "long-drop-nonconverging"])
def test_outcomes_survive(name, bundled, tmp_path):
    [trace], _ = imported(rendering.vdsm(bundled[name]), tmp_path)
    end, recorded = trace.meta.end, bundled[name].meta.end
    assert (end.outcome, end.error_text) == (recorded.outcome, recorded.error_text)


def test_what_vdsms_code_prints_for_its_own_tests_statistics_is_read():
    """oVirt/vdsm tests/virt/vmmigration_test.py; the second line without what older libvirt does not give."""
    new, old = mk.read_log(HERE / "vdsm" / "lines-of-its-own-test.log")
    [row], [lacking] = new.samples.to_dict("records"), old.samples.to_dict("records")
    assert (row["time_elapsed_ms"], row["memory_dirty_rate_pages_per_s"], row["memory_iteration"]) == (42, 2, 0)
    columns = ["memory_dirty_rate_pages_per_s", "memory_iteration", "memory_bps", "memory_constant_pages"]
    assert old.samples[columns].isna().all().all()
    assert lacking["time_elapsed_ms"] == 42
    assert (new.meta.cadence.resolution_bps, old.meta.cadence.resolution_bps) == (MIB // 8, MIB)


def test_a_post_copy_that_fails_is_read_with_all_that_was_done():
    [trace] = mk.read_log(HERE / "vdsm" / "post-copy-then-failed.log")
    done = trace.samples[trace.samples["source"] == "action"]
    got = done[["action", "argument", "succeeded"]].astype(object)
    assert got.where(got.notna(), None).values.tolist() == [
        ["set_max_downtime", 100, True], ["set_max_downtime", 150, True], ["start_post_copy", None, True],
    ]  # fmt: skip
    assert trace.meta.end.outcome == "postcopy-failed"
    assert trace.meta.end.error_text == "job 'migration out' failed in post-copy phase"
    assert trace.meta.migration.flags == 73747
    assert trace.meta.migration.parameters == {"bandwidth": 52}
    assert trace.meta.migration.started_wall_ns == 1_785_571_200_010_000_000  # 08:00:00.010 UTC
    polls = trace.samples[trace.active]
    assert polls["memory_bps"].tolist() == [416 * MIB // 8, 415 * MIB // 8, 416 * MIB // 8, 416 * MIB // 8]
    assert polls["memory_constant_pages"].tolist() == [6120, 9004, 9011, 9018]
    assert polls["memory_dirty_rate_pages_per_s"].tolist() == [0, 14210, 14301, 14333]
    assert polls["memory_total_bytes"].tolist() == [1041 * MIB] * 4, "its flags copy no disks: all data is memory"
    run = mk.replay(trace, mk.kubevirt("1.8", completion_timeout_per_gib=5))
    assert run.decisions["reason"].tolist() == ["timeout"]
    lines = [text for _, text in trace.meta.notes["monitor_lines"]]
    assert "Migration stalling: remaining (310MiB) > lowmark (3MiB)." in lines


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Setting downtime to 200"], [["set_max_downtime", 200, True]]),
        (["setting migration downtime to 200"], [["set_max_downtime", 200, True]]),
        (["Switching to post-copy migration"], [["start_post_copy", None, True]]),
        (["Switching to post-copy migration", "Failed to switch to post-copy migration"],
         [["start_post_copy", None, False]]),
        (["Aborting migration"], [["abort", None, True]]),
    ],
)  # fmt: skip
def test_every_deed_of_the_monitor_is_read(lines, expected, bundled, tmp_path):
    log = list(rendering.vdsm(bundled["converge-late"]))
    said = [rendering.vdsm_line(line, rendering.START_NS + 20 * 10**9, "DEBUG") for line in lines]
    [trace], _ = imported([*log[:4], *said, *log[4:]], tmp_path)
    done = trace.samples[trace.samples["source"] == "action"].iloc[1:]
    got = done[["action", "argument", "succeeded"]].astype(object)
    assert got.where(got.notna(), None).values.tolist() == expected


def test_interleaved_and_repeated_migrations_are_told_apart(bundled, tmp_path):
    one, two = (list(rendering.vdsm(bundled[name], vm=vm))
                for name, vm in (("converge-late", rendering.VM), ("long-hot-set", OTHER)))  # fmt: skip
    mixed = [line for pair in itertools.zip_longest(one, two) for line in pair if line is not None]
    traces, importer = imported([*mixed, *one], tmp_path)
    assert [(trace.meta.domain.uuid, trace.meta.end.outcome) for trace in traces] == [
        (rendering.VM, "completed"), (OTHER, "cancelled"), (rendering.VM, "completed"),
    ]  # fmt: skip
    assert importer.skipped == {}


def test_an_older_prefix_is_read(bundled, tmp_path):
    rows = rendering.sampled(bundled["converge-late"], 10_000)
    said = [rendering.vdsm_statistics(row, old=True) for _, row in rows.iterrows()]
    lines = [f"Thread-597::INFO::2016-05-12 10:01:{i:02d},123::migration::516::virt.vm::(monitor_migration) "
             f"vmId=`{OTHER}`::{message}" for i, message in enumerate(said)]  # fmt: skip
    [trace], _ = imported(lines, tmp_path)
    assert int(trace.active.sum()) == len(rows)
    assert trace.meta.domain.uuid == OTHER


@pytest.mark.parametrize("flags", [1 << 6, 1 << 7])
def test_what_is_sent_with_disks_is_not_taken_for_memory(flags, bundled, tmp_path):
    log = (HERE / "vdsm" / "post-copy-then-failed.log").read_text()
    [trace], _ = imported([log.replace("flags 73747", f"flags {73747 | flags}")], tmp_path)
    assert trace.samples["memory_total_bytes"].isna().all()


def test_a_cut_line_is_left_out_and_counted(bundled, tmp_path):
    lines = list(rendering.vdsm(bundled["converge-late"]))
    lines[4] = lines[4][: lines[4].index("transfer")]
    [trace], importer = imported(lines, tmp_path)
    assert int(trace.active.sum()) == len(rendering.sampled(bundled["converge-late"], 10_000)) - 1
    assert importer.skipped == {"statistics that are cut short or of an unknown form": 1}


def test_traces_answer_what_their_log_can_tell(bundled, tmp_path):
    """Deadlines need the clock only; stall detection needs events that no line has."""
    [trace], _ = imported(rendering.vdsm(bundled["long-hot-set"]), tmp_path)
    assert mk.answers(trace, mk.policy("kubevirt-1.8")).level == "no", "nobody says how large the guest is"
    assert mk.answers(trace, mk.policy("kubevirt-1.8"), data_size_gb=1).level in ("exact", "approximate")
    assert mk.answers(trace, mk.policy("kubevirt-1.8", progress_timeout=0), data_size_gb=1).level == "exact"
    assert mk.answers(trace, mk.policy("kubevirt-1.9-stall")).level == "no"


def test_what_is_said_after_the_end_is_not_carried_to_the_next_migration(bundled, tmp_path):
    """The next one's start is not in the log."""
    first, second = list(rendering.vdsm(bundled["long-hot-set"])), list(rendering.vdsm(bundled["long-hot-set"]))
    after = bundled["long-hot-set"].end_ns - bundled["long-hot-set"].t0_ns + rendering.START_NS + 10**9
    late = [rendering.vdsm_line("Aborting migration", after),
            rendering.vdsm_line("an error of another thing", after, "ERROR", thread="migsrc")]  # fmt: skip
    one, two = imported([*first, *late, *second[2:-2], *second[-1:]], tmp_path)[0]
    assert two.samples["action"].isna().all()
    assert (one.meta.end.outcome, two.meta.end.outcome) == ("cancelled", "failed")
    assert two.meta.end.error_text == ""
