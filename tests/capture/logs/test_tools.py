"""What the real virsh and QEMU said during migrations of the lab agrees with what migkit recorded of them meanwhile.

Two watchers of one migration look at different moments. What both saw is compared where one look lies between two of
the other's: counters lie between theirs, and so does what remains while no pass ends.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import migkit as mk

TOOLS = Path(__file__).parent / "tools"
NAMES = sorted(path.name for path in TOOLS.iterdir())
COUNTERS = ("memory_normal_pages", "memory_constant_pages", "memory_iteration", "memory_postcopy_requests")


def watched(folder: Path, name: str) -> mk.Trace:
    """The trace of one of the tools' outputs."""
    [trace] = mk.read_log(folder / name)
    return trace


def with_events(folder: Path, into: Path) -> mk.Trace:
    """QMP's answers and events in one file, as somebody has them who wrote both into it."""
    return _joined(folder, ("qmp.txt.gz", "events.txt.gz"), into)


def _joined(folder: Path, names: tuple[str, ...], into: Path) -> mk.Trace:
    path = into / "joined.txt"
    path.write_bytes(b"".join(gzip.decompress((folder / name).read_bytes()) for name in names))
    return watched(into, path.name)


def polls(trace: mk.Trace) -> pd.DataFrame:
    """Samples with statistics of memory, in the order of what was sent."""
    rows = trace.samples[trace.active & (trace.samples["memory_total_bytes"] > 0).fillna(False).to_numpy(dtype=bool)]
    return rows.reset_index(drop=True)


def assert_agrees(trace: mk.Trace, recorded: mk.Trace, *, own_clock: bool) -> None:
    """Every sample lies between the recorded ones before and after it, within the resolution of its format."""
    got, said = polls(trace), polls(recorded)
    job = recorded.samples[recorded.samples["source"] == "job"]
    said = pd.concat([said, job]).sort_values("memory_processed_bytes", kind="stable", ignore_index=True)
    assert len(got) >= 20
    sent = said["memory_processed_bytes"].to_numpy(dtype=np.float64)
    step = trace.meta.cadence.resolution_bytes or 0
    offsets = []
    for _, row in got.iterrows():
        low, high = _between(sent, float(row["memory_processed_bytes"]), max(step, _digits(row)))
        before, after = said.iloc[low], said.iloc[high]
        for column in COUNTERS:
            assert before[column] <= row[column] <= after[column], column
        if own_clock:
            offsets.append([int(each["time_elapsed_ms"]) - int(row["time_elapsed_ms"]) for each in (before, after)])
        else:
            assert before["time_elapsed_ms"] <= row["time_elapsed_ms"] <= after["time_elapsed_ms"]
        if before["memory_iteration"] == after["memory_iteration"]:
            bounds = sorted([before["memory_remaining_bytes"], after["memory_remaining_bytes"]])
            assert bounds[0] - _digits(row) <= row["memory_remaining_bytes"] <= bounds[1] + _digits(row)
    if own_clock:  # QEMU's clock begins later than libvirt's, by the same at every sample
        assert max(low for low, _ in offsets) <= min(high for _, high in offsets)
        assert 0 <= min(high for _, high in offsets) <= trace.meta.cadence.start_uncertain_ms


def _between(sent: np.ndarray, value: float, step: float) -> tuple[int, int]:
    low = max(int(np.searchsorted(sent, value - step, side="left")) - 1, 0)
    return low, min(int(np.searchsorted(sent, value + step, side="right")), len(sent) - 1)


def _digits(row: pd.Series) -> float:
    """What three digits after the point leave of an amount such as this."""
    return float(2**30 if row["memory_processed_bytes"] >= 2**30 else 2**20) / 1000


def assert_all_agree(folder: Path, into: Path) -> None:
    """All of the tools that ran beside a recording."""
    recorded = mk.load(folder / "recorded.parquet")
    assert_agrees(watched(folder, "scaled.txt.gz"), recorded, own_clock=False)
    assert_agrees(watched(folder, "raw.txt.gz"), recorded, own_clock=False)
    trace = with_events(folder, into)
    assert_agrees(trace, recorded, own_clock=True)
    told = [each.samples["event_iteration"].dropna().tolist() for each in (trace, recorded)]
    assert set(told[1]) <= set(told[0])
    assert trace.meta.end.outcome == recorded.meta.end.outcome


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest) -> Path:
    return TOOLS / request.param


def test_scaled_answers_of_virsh_agree_with_the_recording(folder):
    trace = watched(folder, "scaled.txt.gz")
    assert_agrees(trace, mk.load(folder / "recorded.parquet"), own_clock=False)
    assert trace.meta.cadence.resolution_bytes in (1049, 1_073_742)


def test_raw_answers_of_virsh_agree_with_the_recording_to_the_byte(folder):
    trace, recorded = watched(folder, "raw.txt.gz"), mk.load(folder / "recorded.parquet")
    assert_agrees(trace, recorded, own_clock=False)
    both = ["memory_processed_bytes", "memory_remaining_bytes", "memory_normal_pages", "memory_iteration"]
    same = polls(trace)[both].merge(polls(recorded)[both].drop_duplicates(), how="inner")
    assert len(same) > len(polls(trace)) / 3, "QEMU counts every 100 ms: many looks see the same numbers"


def test_answers_of_qemu_agree_with_the_recording(folder):
    assert_agrees(watched(folder, "qmp.txt.gz"), mk.load(folder / "recorded.parquet"), own_clock=True)


def test_events_of_qemu_are_the_iterations_that_libvirt_told(folder, tmp_path):
    trace, recorded = with_events(folder, tmp_path), mk.load(folder / "recorded.parquet")
    got, said = (
        each.samples[each.samples["event_iteration"].notna()].set_index("event_iteration")["wall_ns"]
        for each in (trace, recorded)
    )
    assert set(said.index) <= set(got.index)
    late_s = (said - got[said.index]).astype("int64") / 1e9
    assert late_s.between(-0.01, 1).all(), "libvirt's event reaches its client soon after QEMU's stamp"
    assert trace.meta.end.outcome == recorded.meta.end.outcome == "completed"
    assert trace.meta.domain.name == recorded.meta.domain.name


def test_a_switch_to_post_copy_stands_where_libvirt_told_it(tmp_path):
    folder = TOOLS / "post-copy"
    trace, recorded = with_events(folder, tmp_path), mk.load(folder / "recorded.parquet")
    rows = [each.samples[each.samples["lifecycle_detail"].eq(7)] for each in (trace, recorded)]
    assert [len(each) for each in rows] == [1, 1]
    assert abs(int(rows[0]["wall_ns"].iloc[0]) - int(rows[1]["wall_ns"].iloc[0])) < 10**9


def test_the_destinations_final_statistics_are_those_of_the_recording(tmp_path):
    folder = TOOLS / "converge-slow"
    trace = _joined(folder, ("scaled.txt.gz", "completed.txt.gz"), tmp_path)
    final, said = trace.meta.end.completed, mk.load(folder / "recorded.parquet").meta.end.completed
    assert trace.meta.end.completed_from == "destination"
    for key in ("downtime", "downtime_net", "memory_iteration", "memory_normal", "memory_constant", "setup_time"):
        assert final[key] == said[key], key
    assert abs(final["time_elapsed"] - said["time_elapsed"]) < 1000, "each host ends the job when it hears of its end"
    assert abs(final["memory_processed"] - said["memory_processed"]) <= 525


@pytest.mark.parametrize(("name", "level"), [("raw.txt.gz", "exact"), ("scaled.txt.gz", "exact")])
def test_a_rule_decides_the_same_on_either_watchers_trace(name, level):
    """Progress and deadlines of a rule with short limits, of which both hold."""
    recorded = mk.load(TOOLS / "converge-slow" / "recorded.parquet")
    policy = mk.kubevirt("1.8", completion_timeout_per_gib=20)
    trace = watched(TOOLS / "converge-slow", name).replace_meta(domain=recorded.meta.domain)
    told = [mk.replay(each, policy) for each in (recorded, trace)]
    kinds = [[str(kind) for kind in run.decisions["action"]] for run in told]
    assert kinds[0] == kinds[1] != []
    off_s = np.abs(told[0].decisions["t_s"].to_numpy() - told[1].decisions["t_s"].to_numpy())
    assert off_s.max() <= 0.9
    assert mk.answers(trace, policy).level == level
