"""nova-compute's log becomes the migrations that it tells of."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import migkit as mk
from migkit.capture.logs.formats import Importer, as_trace
from tests.capture.logs import rendering_others as rendering

HERE = Path(__file__).parent
SAMPLE = ("converge-late", "long-link-one-percent", "block-then-ram", "auto-converge", "long-hot-set")
AMOUNTS = tuple(f"{part}_{what}_bytes" for part in ("memory", "data") for what in ("processed", "remaining", "total"))
OTHER = "88084fdd-51dc-4967-8493-c1169e4533ec"


def imported(lines, tmp_path: Path) -> tuple[list[mk.Trace], Importer]:
    path = tmp_path / "nova-compute.log"
    path.write_text("\n".join(lines) + "\n")
    importer = Importer([path])
    return [as_trace(found) for found in importer.imported()], importer


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("every_ms", [5000, 30_000])
def test_a_recorded_migration_comes_back_to_the_byte_at_times_known_to_half_a_second(name, every_ms, bundled, tmp_path):
    recorded = bundled[name]
    said = rendering.sampled(recorded, every_ms).reset_index(drop=True)
    if not len(said):
        return
    [trace], importer = imported(rendering.nova(recorded, every_ms=every_ms), tmp_path)
    got = trace.samples[trace.active].reset_index(drop=True)
    for column in AMOUNTS:
        # nova prints 0 for what libvirt did not say yet.
        known = got[column].notna().to_numpy()
        assert got[column][known].tolist() == said[column][known].tolist(), column
        assert (said[column][~known] == 0).all(), column
    uncertain_ms = trace.meta.cadence.start_uncertain_ms
    off_ms = got["time_elapsed_ms"].astype("int64") - said["time_elapsed_ms"].astype("int64")
    assert uncertain_ms <= 500
    assert off_ms.abs().max() <= uncertain_ms + 1
    assert np.ptp(off_ms) <= 1, "between lines, times are those of the log"
    assert {"memory_bps", "memory_iteration"} <= set(trace.meta.cadence.lacks)
    assert got["memory_bps"].isna().all()
    assert importer.skipped == {}


@pytest.mark.parametrize("name", ["converge-late", "long-hot-set", "long-drop-nonconverging"])
def test_outcomes_survive(name, bundled, tmp_path):
    [trace], _ = imported(rendering.nova(bundled[name]), tmp_path)
    assert (trace.meta.end.outcome, trace.meta.end.evidence) == (bundled[name].meta.end.outcome, "nova's log")


def test_a_log_of_a_container_with_a_timeout_is_read():
    [trace] = mk.read_log(HERE / "nova" / "failed-after-timeout.log")
    assert trace.meta.domain.uuid == "7b7edae6-f878-4756-a858-86f836d02c33"
    polls = trace.samples[trace.active]
    assert polls["data_remaining_bytes"].tolist()[1:] == [656408576 + 536870912, 429916160]
    assert polls["disk_remaining_bytes"].tolist()[1:] == [536870912, 0]
    assert polls.iloc[0][["data_remaining_bytes", "memory_total_bytes", "disk_total_bytes"]].isna().all()
    done = trace.samples[trace.samples["source"] == "action"]
    assert done[["action", "argument"]].astype(object).where(done.notna(), None).values.tolist() == [
        ["set_max_downtime", 50], ["abort", None],
    ]  # fmt: skip
    assert trace.meta.end.outcome == "cancelled"
    assert "canceled by client" in trace.meta.end.error_text
    lines = [text for _, text in trace.meta.notes["monitor_lines"]]
    assert "Live migration not completed after 40 sec" in lines
    assert "the times do not tell their zone: taken as UTC" in trace.meta.notes["said"]
    assert abs(float(trace.t_s[trace.active][-1]) - 30.5) <= 0.6


def test_lines_of_public_issues_are_read_and_tell_of_no_migration(bundled, tmp_path):
    """openstack-k8s-operators/nova-operator#777 and #621, a public paste"""
    public = (HERE / "nova" / "lines-of-public-issues.log").read_text().splitlines()
    [trace], importer = imported([*public, *rendering.nova(bundled["converge-late"], instance=OTHER)], tmp_path)
    assert trace.meta.domain.uuid == OTHER
    assert trace.meta.end.outcome == "completed"
    # Two of the four are about a migration's end.
    assert importer.skipped == {"foreign line": 2, "line about a migration without statistics": 2}


def test_a_migration_of_three_hours_on_a_public_page_is_read():
    """Real statistics, with the guest masked and the times taken off."""
    [trace] = mk.read_log(HERE / "nova" / "three-hours-of-a-public-page.log")
    polls = trace.samples[trace.active]
    assert polls["time_elapsed_ms"].tolist() == [60_000, 12_180_000]
    assert polls["memory_processed_bytes"].tolist() == [7190652899, 1463919506985]
    assert polls["memory_remaining_bytes"].tolist() == [9001529344, 831111168]
    assert set(polls["memory_total_bytes"]) == {17184923648}
    assert trace.samples["argument"].dropna().tolist() == [50]
    assert trace.meta.domain.uuid == "abcdefgh-1ba4-4403-bf72-a86907034a14"
    assert [text for _, text in trace.meta.notes["monitor_lines"]] == ["Live migration not completed after 12800 sec"]
    assert mk.answers(trace, mk.policy("kubevirt-1.8")).level == "no"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Increasing downtime to 95 ms after 150 sec elapsed time"], [["set_max_downtime", 95, True]]),
        (["Increasing downtime to 95 ms after 150 sec elapsed time", "Unable to increase max downtime to 95 ms: nope"],
         [["set_max_downtime", 95, False]]),
        (["Unable to increase max downtime to 95 ms: nope"], [["set_max_downtime", 95, False]]),
        (["Switching to post-copy migration mode"], [["start_post_copy", None, True]]),
        (["Failed to switch to post-copy live migration: nope"], [["start_post_copy", None, False]]),
        (["Failed to abort migration nope"], [["abort", None, False]]),
    ],
)  # fmt: skip
def test_every_deed_of_the_monitor_is_read(lines, expected, bundled, tmp_path):
    log = list(rendering.nova(bundled["converge-late"]))
    said = [rendering.nova_line(line, rendering.START_NS + 20 * 10**9, "WARNING") for line in lines]
    [trace], _ = imported([*log[:5], *said, *log[5:]], tmp_path)
    done = trace.samples[trace.samples["source"] == "action"].iloc[1:]
    got = done[["action", "argument", "succeeded"]].astype(object)
    assert got.where(got.notna(), None).values.tolist() == expected
    assert abs(done["mono_ns"].iloc[0] / 1e9 - 20) <= 0.6


def test_a_failed_post_copy_is_told_from_a_failed_migration(bundled, tmp_path):
    log = [line for line in rendering.nova(bundled["long-hot-set"]) if "Live Migration failure" not in line]
    switched = rendering.nova_line("Switching to post-copy migration mode", rendering.START_NS + 10**10)
    [trace], _ = imported([*log[:-1], switched, log[-1]], tmp_path)
    assert trace.meta.end.outcome == "postcopy-failed"


def test_interleaved_and_repeated_migrations_are_told_apart(bundled, tmp_path):
    one, two = (list(rendering.nova(bundled[name], instance=uuid))
                for name, uuid in (("converge-late", rendering.INSTANCE), ("long-hot-set", OTHER)))  # fmt: skip
    mixed = [line for pair in itertools.zip_longest(one, two) for line in pair if line is not None]
    traces, importer = imported([*mixed, *one], tmp_path)
    assert [(trace.meta.domain.uuid, trace.meta.end.outcome) for trace in traces] == [
        (rendering.INSTANCE, "completed"), (OTHER, "cancelled"), (rendering.INSTANCE, "completed"),
    ]  # fmt: skip
    assert importer.skipped == {}


def test_a_log_of_before_disks_were_told_and_without_times_is_read(tmp_path):
    """Kilo to Mitaka wrote a shorter line."""
    lines = [f"[instance: {OTHER}] Migration running for {s} secs, memory {100 - s}% remaining; (bytes processed="
             f"{s * 10**6}, remaining={(100 - s) * 10**6}, total={10**8})" for s in (0, 30, 60)]  # fmt: skip
    [trace], _ = imported(lines, tmp_path)
    assert trace.samples["time_elapsed_ms"].tolist() == [0, 30_000, 60_000]
    assert trace.samples["data_remaining_bytes"].tolist() == [100 * 10**6, 70 * 10**6, 40 * 10**6]
    assert trace.meta.end.outcome == "lost"
    assert trace.meta.cadence.start_uncertain_ms == 1000
    assert trace.samples["wall_ns"].isna().all()


def test_a_cut_line_is_left_out_and_counted(bundled, tmp_path):
    lines = list(rendering.nova(bundled["converge-late"]))
    at = next(i for i, line in enumerate(lines) if "running for 30 " in line)
    lines[at] = lines[at][: lines[at].index("remaining=") + 14]
    [trace], importer = imported(lines, tmp_path)
    assert int(trace.active.sum()) == len(rendering.sampled(bundled["converge-late"], 5000)) - 1
    assert importer.skipped == {"statistics that are cut short or of an unknown form": 1}


def test_a_clock_that_was_set_leaves_novas_own_seconds(bundled, tmp_path):
    lines = list(rendering.nova(bundled["converge-late"]))
    moved = [line.replace("2024-05-06 10:12", "2024-05-06 13:12") for line in lines]
    assert moved != lines
    [trace], _ = imported(moved, tmp_path)
    said = rendering.sampled(bundled["converge-late"], 5000)["time_elapsed_ms"] // 1000 * 1000
    assert trace.samples["time_elapsed_ms"][trace.active].tolist() == said.tolist()
    assert any("stepped" in words for words in trace.meta.notes["said"])


def statistics(seconds: int, processed: int, total: int = 8 * 10**9) -> str:
    left = max(total - processed, 0)
    return (
        f"Migration running for {seconds} secs, memory {round(left * 100 / total)}% remaining (bytes processed="
        f"{processed}, remaining={left}, total={total}); disk 100% remaining (bytes processed=0, remaining=0, total=0)."
    )


def line(message: str, after_s: float, instance: str = rendering.INSTANCE) -> str:
    return rendering.nova_line(message, rendering.START_NS + int(after_s * 1e9), instance=instance)


def counts(traces: list[mk.Trace]) -> list[int]:
    return [int(trace.active.sum()) for trace in traces]


def test_a_migration_that_begins_at_the_elapsed_time_of_the_last_line_is_of_its_own(tmp_path):
    """The first one was given up in its first seconds, and nothing says so."""
    lines = [line(statistics(0, 0), 0), line(statistics(0, 0), 600), line(statistics(30, 10**9), 630)]
    traces, importer = imported(lines, tmp_path)
    assert counts(traces) == [1, 2]
    assert importer.skipped == {}


@pytest.mark.parametrize("second", [(30, 10**9, 8 * 10**9), (60, 5 * 10**9, 16 * 10**9)])
def test_what_only_grows_and_what_never_changes_tell_migrations_apart(second, tmp_path):
    untimed = [f"[instance: {OTHER}] {statistics(*each)}" for each in ((0, 1), (30, 4 * 10**9), second)]
    traces, _ = imported(untimed, tmp_path)
    assert counts(traces) == [2, 1]


@pytest.mark.parametrize(
    "message",
    ["Switching to post-copy migration mode", "Failed to abort migration nope",
     "Increasing downtime to 500 ms after 150 sec elapsed time", "Live migration not completed after 800 sec"],
)  # fmt: skip
@pytest.mark.parametrize("later_s", [0.2, 300])
def test_what_is_said_after_the_end_is_not_carried_to_the_next_migration(message, later_s, tmp_path):
    first = [line(statistics(0, 0), 0), line(statistics(30, 10**9), 30), line("Migration operation has aborted", 40)]
    # The next one begins in the same second.
    second = [line("Increasing downtime to 50 ms after 0 sec elapsed time", 40 + later_s + 0.1),
              line(statistics(0, 0), 40 + later_s + 0.1), line(statistics(30, 10**9), 70 + later_s + 0.1),
              line("Migration operation has aborted", 80 + later_s)]  # fmt: skip
    traces, importer = imported([*first, line(message, 40 + later_s), *second], tmp_path)
    assert [trace.meta.end.outcome for trace in traces] == ["failed", "failed"]
    assert [trace.samples["argument"].dropna().tolist() for trace in traces] == [[], [50]]
    assert [len(trace.meta.notes.get("monitor_lines", [])) for trace in traces] == [0, 0]
    assert importer.skipped == {"line about a migration that had ended": 1}


def test_what_was_done_in_a_migration_whose_beginning_is_cut_off_is_its(tmp_path):
    lines = [line("Increasing downtime to 95 ms after 150 sec elapsed time", 150), line(statistics(160, 10**9), 160)]
    [trace], _ = imported(lines, tmp_path)
    assert trace.samples["argument"].dropna().tolist() == [95]


MASKS = ("<uuid>", "****", "xxxxxxxx", "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "00000000-0000-0000-0000-000000000000")


@pytest.mark.parametrize("mask", MASKS)
def test_two_instances_under_one_mask_are_told_apart_by_their_numbers(mask, bundled, tmp_path):
    log = list(rendering.nova(bundled["long-hot-set"], instance=mask))
    other = [line(statistics(s, s * 10**8, 32 * 10**9), 20 + s, mask) for s in range(0, 400, 5)]
    other.append(line("Migration operation has completed", 1500, mask))
    mixed = sorted([*log, *other], key=lambda text: text[:23])
    traces, _ = imported(mixed, tmp_path)
    [alone], _ = imported(log, tmp_path)
    assert sorted(counts(traces)) == sorted([int(alone.active.sum()), len(other) - 1])
    assert all(any("masked" in words for words in trace.meta.notes["said"]) for trace in traces)
    one = next(trace for trace in traces if len(trace.samples["memory_total_bytes"].dropna().unique()) == 1
               and trace.samples["memory_total_bytes"].max() == 32 * 10**9)  # fmt: skip
    assert one.samples["action"].isna().all()


def test_a_line_that_may_be_of_two_masked_instances_is_of_none(tmp_path):
    both = [line(statistics(s, s * 10**8 + n, (8 + n) * 10**9), s, "****") for s in range(0, 60, 5) for n in (0, 1)]
    traces, importer = imported([*both, line("Switching to post-copy migration mode", 57, "****")], tmp_path)
    assert counts(traces) == [12, 12]
    assert all(trace.samples["action"].isna().all() for trace in traces)
    assert importer.skipped == {"line under a masked UUID that may be of several migrations": 1}


def test_masked_instances_that_are_as_large_and_begin_together_are_never_made_one(tmp_path):
    """Their later lines may be of either: they are of none."""
    both = [line(statistics(s, s * 10**8 + n), s + n / 10, "****") for s in (5, 10) for n in (0, 1)]
    traces, importer = imported(both, tmp_path)
    assert counts(traces) == [1, 1]
    assert importer.skipped == {"line under a masked UUID that may be of several migrations": 2}


def test_one_masked_instance_is_read_as_any_other_is(bundled, tmp_path):
    plain, _ = imported(rendering.nova(bundled["long-hot-set"]), tmp_path)
    masked, importer = imported(rendering.nova(bundled["long-hot-set"], instance="<uuid>"), tmp_path)
    assert [trace.samples.equals(masked[0].samples) for trace in plain] == [True]
    assert masked[0].meta.end == plain[0].meta.end
    assert importer.skipped == {}
