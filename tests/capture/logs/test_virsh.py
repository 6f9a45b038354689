"""What virsh printed becomes the migration that it was, as fine as it was printed."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import migkit as mk
from migkit.capture.logs.formats import Importer, as_trace
from migkit.schema import COLUMNS
from migkit.units import GIB, MIB
from tests.capture.logs import rendering_others as rendering

HERE = Path(__file__).parent
# Convergence, a dead link, post-copy, disks first, throttling, compression, an abort.
SAMPLE = ("converge-late", "link-dead", "post-copy", "block-then-ram", "auto-converge", "xbzrle", "nonconverging-long")
SAID = [c.name for c in COLUMNS if c.key is not None and c.dtype != "string" and c.name != "operation"]


def imported(lines, tmp_path: Path) -> tuple[list[mk.Trace], Importer]:
    path = tmp_path / "log"
    path.write_text("\n".join(lines) + "\n")
    importer = Importer([path])
    return [as_trace(found) for found in importer.imported()], importer


@pytest.mark.parametrize("name", SAMPLE)
def test_raw_statistics_come_back_to_the_byte(name, bundled, tmp_path):
    [trace], importer = imported(rendering.virsh(bundled[name], raw=True), tmp_path)
    said = rendering.sampled(bundled[name], 1000).reset_index(drop=True)
    got = trace.samples[trace.active].reset_index(drop=True)
    for column in SAID:
        assert got[column].equals(said[column]), column
    assert trace.meta.cadence.resolution_bytes is None
    assert importer.skipped.keys() <= {"answer without a job"}


@pytest.mark.parametrize("name", SAMPLE)
def test_scaled_statistics_come_back_within_half_of_the_last_digit(name, bundled, tmp_path):
    [trace], _ = imported(rendering.virsh(bundled[name], raw=False), tmp_path)
    said = rendering.sampled(bundled[name], 1000).reset_index(drop=True)
    got = trace.samples[trace.active].reset_index(drop=True)
    for column in SAID:
        exact = ("bytes" not in column and not column.endswith("bps")) or column == "memory_page_size_bytes"
        off = (got[column].astype("Float64") - said[column].astype("Float64")).abs()
        allowed = 0 if exact else said[column].astype("Float64").map(half_a_digit, na_action="ignore")
        assert (off <= allowed).fillna(True).all(), column
        assert got[column].isna().equals(said[column].isna()), column
    largest = int(said["data_remaining_bytes"].max())
    assert 2 * half_a_digit(largest) - 1 <= trace.meta.cadence.resolution_bytes <= 2 * half_a_digit(largest) + 1


def half_a_digit(value: int) -> float:
    unit = next(unit for unit in (GIB, MIB, 1024, 1) if value >= unit or unit == 1)
    return unit / 2000 + 0.5 if unit > 1 else 0


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("name", ["converge-late", "long-hot-set", "destination-killed", "long-link-one-percent"])
def test_outcomes_survive(name, raw, bundled, tmp_path):
    [trace], _ = imported(rendering.virsh(bundled[name], raw=raw), tmp_path)
    end, recorded = trace.meta.end, bundled[name].meta.end
    assert end.outcome == recorded.outcome
    if recorded.completed and raw:
        assert end.completed == {key: recorded.completed[key] for key in end.completed}
        assert end.completed["downtime"] == recorded.completed["downtime"]


@pytest.mark.parametrize("stamp", ["%s", "%a %b %e %H:%M:%S UTC %Y", "%Y-%m-%dT%H:%M:%S+0000", "%F %T", ""])
def test_times_say_when_it_began_and_their_lack_costs_nothing_else(stamp, bundled, tmp_path):
    form = "1714990270" if stamp == "%s" else stamp
    [trace], _ = imported(rendering.virsh(bundled["converge-slow"], raw=True, stamp=form or "..."), tmp_path)
    assert trace.samples["mono_ns"].tolist() == (trace.samples["time_elapsed_ms"] * 10**6).tolist()
    said = " ".join(trace.meta.notes.get("said", []))
    assert ("nothing has a time" in said) == (not stamp)
    assert ("UTC" in said) == (stamp == "%F %T")
    if stamp and stamp != "%s":
        assert abs(trace.meta.migration.started_wall_ns - rendering.START_NS) <= 10**9


def test_a_block_of_a_public_issue_is_read():
    """inovex/prometheus-libvirt-exporter#132"""
    [trace] = mk.read_log(HERE / "virsh" / "issue-132.txt")
    [row] = trace.samples.to_dict("records")
    assert trace.meta.domain.name == "instance-00002140"
    assert (row["time_elapsed_ms"], row["memory_iteration"], row["memory_page_size_bytes"]) == (294154, 2, 4096)
    assert row["memory_dirty_rate_pages_per_s"] == 31340
    assert row["data_remaining_bytes"] == round(26.287 * GIB)
    assert row["memory_bps"] == round(101.960 * MIB)
    assert trace.meta.cadence.resolution_bytes == 1_073_742
    assert trace.meta.end.outcome == "lost"
    assert mk.answers(trace, mk.policy("kubevirt-1.8", progress_timeout=150)).level != "exact"


def test_guests_polled_in_one_loop_are_told_apart(bundled, tmp_path):
    one, two = (list(rendering.virsh(bundled[name], raw=True)) for name in ("long-hot-set", "converge-late"))
    cut = [list(chunks(lines[1:])) for lines in (one, two)]
    mixed = []
    for a, b in itertools.zip_longest(*cut, fillvalue=[]):
        mixed += ["$ virsh -r domjobinfo web1 --rawstats", *a, "$ virsh domjobinfo --rawstats --domain web2", *b]
    traces, _ = imported(mixed, tmp_path)
    assert {trace.meta.domain.name for trace in traces} == {"web1", "web2"}
    assert sorted(int(trace.active.sum()) for trace in traces) == sorted(
        len(rendering.sampled(bundled[name], 1000)) for name in ("long-hot-set", "converge-late")
    )


def chunks(lines):
    """Blocks with the time before each."""
    starts = [i - 1 for i, line in enumerate(lines) if line.startswith("Job type")]
    for a, b in itertools.zip_longest(starts, starts[1:]):
        yield [line for line in lines[a:b] if "domjobinfo" not in line]


def test_the_next_migration_of_a_guest_is_one_of_its_own(bundled, tmp_path):
    lines = [*rendering.virsh(bundled["converge-late"], raw=False), "Mon May  6 11:00:00 UTC 2024",
             "Job type:         None        ", "",
             *rendering.virsh(bundled["converge-slow"], raw=False, later_ns=3600 * 10**9)]  # fmt: skip
    traces, importer = imported(lines, tmp_path)
    assert [trace.meta.end.outcome for trace in traces] == ["completed", "completed"]
    assert [trace.meta.end.completed["downtime"] for trace in traces] == [
        bundled[name].meta.end.completed["downtime"] for name in ("converge-late", "converge-slow")
    ]
    assert importer.skipped == {}


def test_a_dump_or_a_backup_is_no_migration(tmp_path):
    block = "Job type:         Unbounded\nOperation:        Backup\nTime elapsed:     10           ms\n"
    traces, importer = imported([block], tmp_path)
    assert traces == []
    assert importer.skipped["block of another job than an outgoing migration"] == 1


def test_final_statistics_of_the_destination_count(bundled, tmp_path):
    lines = [line.replace("Outgoing", "Incoming") if "Operation" in line and i > 400 else line
             for i, line in enumerate(rendering.virsh(bundled["converge-slow"], raw=False))]  # fmt: skip
    [trace], _ = imported(lines, tmp_path)
    assert (trace.meta.end.outcome, trace.meta.end.completed_from) == ("completed", "destination")


def test_what_virsh_says_when_the_guest_is_gone_is_kept_as_evidence_of_nothing(bundled, tmp_path):
    lines = list(rendering.virsh(bundled["converge-slow"], raw=True))
    cut = lines[: next(i for i, line in enumerate(lines) if "--completed" in line)]
    [trace], _ = imported([*cut, "error: failed to get domain 'web1'", ""], tmp_path)
    assert trace.meta.end.outcome == "lost"
    assert "failed to get domain 'web1'" in trace.meta.end.evidence


@pytest.mark.parametrize(
    ("line", "broken"),
    [
        ("Data remaining:   26.287 GiB", "Data remaining:   26.28"),
        ("Data remaining:   26.287 GiB", "Data remaining:   26.287 GiB/s"),
        ("Memory bandwidth: 101.960 MiB/s", "Memory bandwidth: 101.960 MiB"),
        ("Iteration:        2", "Iteration:        2 ms ms"),
        ("Time elapsed:     294154       ms", "Time elapsed:     294154"),
    ],
)
def test_a_value_in_another_form_is_left_out_and_counted(line, broken, tmp_path):
    text = (HERE / "virsh" / "issue-132.txt").read_text().replace(line, broken)
    assert broken in text
    traces, importer = imported([text], tmp_path)
    if line.startswith("Time"):  # digits alone are a form that raw values have, too
        return
    known = [trace.samples.notna().sum(axis=1).iloc[0] for trace in traces]
    whole = mk.read_log(HERE / "virsh" / "issue-132.txt")[0].samples.notna().sum(axis=1).iloc[0]
    assert known == [whole - 1]
    assert importer.skipped["value that is cut short or of an unknown form"] == 1


def test_a_number_at_the_very_end_may_be_cut_and_is_not_believed(tmp_path):
    text = (HERE / "virsh" / "issue-132.txt").read_text().rstrip()
    path = tmp_path / "cut"
    path.write_text(text)
    importer = Importer([path])
    [trace] = [as_trace(found) for found in importer.imported()]
    assert trace.samples["memory_iteration"].isna().all()
    assert importer.skipped["number at the very end, which may be cut short"] == 1


def raw(elapsed_ms: int, processed: int, *, at_s: float | None = None, iteration: int = 1) -> list[str]:
    stamp = [] if at_s is None else [f"{1714990270 + at_s:.3f}"]
    return [*stamp, "Job type: 2", "", "operation: 5", f"time_elapsed: {elapsed_ms}", f"data_processed: {processed}",
            f"data_remaining: {10**9}", f"memory_iteration: {iteration}", ""]  # fmt: skip


def idle(at_s: float | None = None, kind: int = 0) -> list[str]:
    return [*([] if at_s is None else [f"{1714990270 + at_s:.3f}"]), f"Job type: {kind}", ""]


def counts(traces: list[mk.Trace]) -> list[int]:
    return [int(trace.active.sum()) for trace in traces]


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("kind", [0, 4, 5])
def test_an_answer_without_a_job_ends_one(kind, timed, tmp_path):
    """The next one was first seen when it had run for longer than the one before."""
    first = [raw(1000 * k, 10**7 * k, at_s=k if timed else None) for k in (1, 2, 3)]
    second = [raw(1000 * k, 10**7 * k, at_s=60 + k if timed else None) for k in (9, 10)]
    traces, _ = imported(itertools.chain(*first, idle(4 if timed else None, kind), *second), tmp_path)
    assert counts(traces) == [3, 2]


def test_a_job_that_begins_as_another_fails_is_of_its_own(tmp_path):
    lines = [*raw(100, 10**6, at_s=0.1), *raw(600, 10**7, at_s=0.6), *idle(0.8, 4), *raw(100, 10**6, at_s=1.1)]
    traces, _ = imported(lines, tmp_path)
    assert counts(traces) == [2, 1]
    assert [trace.meta.end.outcome for trace in traces] == ["failed", "lost"]


@pytest.mark.parametrize("timed", [True, False])
def test_a_host_that_has_no_job_asked_in_turn_with_the_one_that_has_ends_none(timed, tmp_path):
    lines = [text for k in range(1, 8) for text in
             (*raw(1000 * k, 10**7 * k, at_s=k if timed else None), *idle(k + 0.2 if timed else None))]  # fmt: skip
    traces, _ = imported(lines, tmp_path)
    assert counts(traces) == [7]


def test_an_iteration_that_begins_anew_is_of_another_job(tmp_path):
    traces, _ = imported([*raw(1000, 10**7, iteration=5), *raw(2000, 10**8, iteration=1)], tmp_path)
    assert counts(traces) == [1, 1]
