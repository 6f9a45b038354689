"""Prometheus' answers become the migrations that were sampled, with the metrics' misnomers put right."""

from __future__ import annotations

import copy
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import migkit as mk
from migkit.capture.logs.formats import Importer
from tests.capture.logs import rendering

MEMORY, DISK = (f"kubevirt_vmi_migration_{what}_transfer_rate_bytes" for what in ("memory", "disk"))


def imported(answer: object, tmp_path: Path, **options) -> list[mk.Trace]:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(answer))
    return mk.read_log(path, **options)


def series(answer: dict, name: str) -> dict:
    return next(one for one in answer["data"]["result"] if one["metric"]["__name__"] == name)


def renamed(answer: dict, old: str, new: str) -> dict:
    text = json.dumps(answer)
    return json.loads(text.replace(f'"{old}"', f'"{new}"'))


@pytest.fixture
def answer(bundled) -> dict:
    return rendering.prometheus(bundled["nonconverging-long"])


@pytest.mark.parametrize("name", ["nonconverging-long", "post-copy-late", "long-hot-set", "block-then-ram"])
def test_a_recorded_migration_comes_back_to_the_byte(name, bundled, tmp_path):
    [trace] = imported(rendering.prometheus(bundled[name]), tmp_path)
    said = rendering.sampled(bundled[name], 5000).reset_index(drop=True)
    got = trace.samples
    assert len(got) == len(said)
    for column in ("data_remaining_bytes", "data_processed_bytes", "data_total_bytes", "memory_bps"):
        assert got[column].equals(said[column]), column
    assert ((got["time_elapsed_ms"] - said["time_elapsed_ms"]).abs() < 1000).all()
    assert trace.meta.cadence.interval_ms == pytest.approx(5000, abs=100)


def test_it_says_what_it_cannot_answer(answer, tmp_path):
    [trace] = imported(answer, tmp_path)
    assert mk.answers(trace, mk.policy("kubevirt-1.9-stall")).level == "no"
    assert mk.answers(trace, mk.policy("kubevirt-main-tuning")).level == "no"
    assert mk.answers(trace, mk.policy("kubevirt-1.8"), data_size_gb=1).level == "approximate"


def test_the_memorys_bandwidth_under_the_disks_name_is_put_right(answer, tmp_path):
    [right] = imported(answer, tmp_path)
    [wrong] = imported(renamed(answer, MEMORY, DISK), tmp_path)
    assert wrong.samples["memory_bps"].equals(right.samples["memory_bps"])
    assert wrong.samples["disk_bps"].isna().all()
    assert any("under the disk's name" in words for words in wrong.meta.notes["said"])


def test_v1_1_has_the_two_bandwidths_the_wrong_way_round(answer, tmp_path):
    swapped = renamed(answer, MEMORY, DISK)
    disk = copy.deepcopy(series(swapped, DISK))
    disk["metric"]["__name__"] = MEMORY
    disk["values"] = [[moment, "7"] for moment, _ in disk["values"]]
    swapped["data"]["result"].append(disk)
    [right] = imported(answer, tmp_path)
    [trace] = imported(swapped, tmp_path)
    assert trace.samples["memory_bps"].equals(right.samples["memory_bps"])
    assert set(trace.samples["disk_bps"].dropna()) == {7}


def old_names(answer: dict) -> dict:
    return json.loads(json.dumps(answer).replace("kubevirt_vmi_migration_", "kubevirt_migrate_vmi_"))


def test_the_first_versions_dirty_rate_is_in_pages(answer, tmp_path):
    old = old_names(answer)
    old["data"]["result"] = [one for one in old["data"]["result"] if "transfer_rate" not in one["metric"]["__name__"]]
    [trace] = imported(old, tmp_path)
    said = [int(value) for _, value in series(old, "kubevirt_migrate_vmi_dirty_memory_rate_bytes")["values"]]
    assert trace.samples["memory_dirty_rate_pages_per_s"].tolist() == said
    assert trace.samples["memory_page_size_bytes"].isna().all()


def test_old_names_with_a_transfer_rate_have_it_in_bytes(answer, tmp_path):
    [trace] = imported(old_names(answer), tmp_path)
    [told] = imported(old_names(answer), tmp_path, version="0.55")
    said = [int(v) for _, v in series(answer, "kubevirt_vmi_migration_dirty_memory_rate_bytes")["values"]]
    got = trace.samples["memory_dirty_rate_pages_per_s"] * trace.samples["memory_page_size_bytes"]
    assert [a - b < 4096 for a, b in zip(said, got, strict=True)] == [True] * len(said)
    assert told.samples.equals(trace.samples)


def test_samples_handed_out_again_are_one(answer, tmp_path):
    """virt-handler hands out its last ten samples at every scrape; two replicas of Prometheus answer twice."""
    twice = copy.deepcopy(answer)
    for one in list(twice["data"]["result"]):
        twice["data"]["result"].append({**one, "metric": {**one["metric"], "prometheus_replica": "b"}})
    for one in twice["data"]["result"]:
        one["values"] = [value for value in one["values"] for _ in (0, 1)]
    [once] = imported(answer, tmp_path)
    [trace] = imported(twice, tmp_path)
    assert trace.samples.equals(once.samples)


def test_values_that_the_query_repeats_are_left_out(answer, tmp_path):
    """A query with a step of 1 s shows each sample five times, and the last one for five minutes."""
    stepped = copy.deepcopy(answer)
    for one in stepped["data"]["result"]:
        if "start_time" in one["metric"]["__name__"]:
            continue
        last = one["values"][-1]
        one["values"] = [[t + k, v] for t, v in one["values"] for k in range(5)]
        one["values"] += [[last[0] + k, last[1]] for k in range(5, 300)]
    [once] = imported(answer, tmp_path)
    [trace] = imported(stepped, tmp_path)
    assert trace.samples.equals(once.samples)
    assert any("the last values repeat" in words for words in trace.meta.notes["said"])
    assert trace.meta.notes["skipped_lines"]["last values repeated by the query"] == 299


def test_several_guests_and_migrations_in_one_answer_are_told_apart(answer, bundled, tmp_path):
    other = rendering.prometheus(bundled["long-hot-set"], name="db2", namespace="test")
    again = copy.deepcopy(answer)
    for one in again["data"]["result"]:
        one["values"] = [[t + 3600, str(int(v) + 3600) if "start_time" in one["metric"]["__name__"] else v]
                         for t, v in one["values"]]  # fmt: skip
    for part in (other, again):
        answer["data"]["result"] += part["data"]["result"]
    traces = imported(answer, tmp_path)
    names = [trace.name for trace in traces]
    assert len(names) == 3
    assert names[0].startswith("prod-web1-20240506T1011")
    assert names[1].startswith("prod-web1-20240506T1111")
    assert names[2].startswith("test-db2-20240506T1011")
    assert [int(t.samples["time_elapsed_ms"].min()) < 10_000 for t in traces] == [True] * 3


def test_one_metric_a_file_is_as_good_as_all_in_one(answer, tmp_path):
    [together] = imported(answer, tmp_path)
    (tmp_path / "answer.json").unlink()
    for number, one in enumerate(answer["data"]["result"]):
        part = {"status": "success", "data": {"resultType": "matrix", "result": [one]}}
        (tmp_path / f"{number}.json").write_text(json.dumps(part, indent=2))
    [trace] = mk.read_log(tmp_path)
    assert trace.samples.equals(together.samples)


def test_how_it_ended_stands_in_the_metric_of_its_end(answer, tmp_path):
    end = copy.deepcopy(series(answer, "kubevirt_vmi_migration_start_time_seconds"))
    end["metric"] |= {"__name__": "kubevirt_vmi_migration_end_time_seconds", "status": "failed"}
    last = series(answer, MEMORY)["values"][-1][0]
    end["values"] = [[last + 30, str(int(last) + 3)]]
    answer["data"]["result"].append(end)
    [trace] = imported(answer, tmp_path)
    assert trace.meta.end.outcome == "failed"


def test_without_a_start_the_deadline_is_uncertain(answer, tmp_path):
    answer["data"]["result"] = [
        one for one in answer["data"]["result"] if "start_time" not in one["metric"]["__name__"]
    ]
    [trace] = imported(answer, tmp_path)
    assert trace.samples["time_elapsed_ms"].isna().all()
    found = mk.answers(trace, mk.kubevirt("1.8", progress_timeout=0), data_size_gb=1)
    assert found.level == "approximate"
    assert "when the migration began" in found.why


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "x", None, "1e300"])
def test_what_is_no_amount_is_unknown(value, answer, tmp_path):
    series(answer, MEMORY)["values"][3][1] = value
    [trace] = imported(answer, tmp_path)
    assert trace.samples["memory_bps"].isna()[3]


@given(place=st.floats(0, 1), noise=st.text(max_size=12), length=st.integers(0, 20))
def test_a_mutated_answer_never_breaks_the_reader(place, noise, length, tmp_path_factory):
    text = (Path(__file__).parent / "prometheus" / "recorded-nonconverging.json").read_text()
    at = 60 + int(place * (len(text) - 60))
    path = tmp_path_factory.mktemp("mutated") / "x.json"
    path.write_text(text[:at] + noise + text[at + length :])
    for trace in mk.import_logs(path):
        assert mk.load(trace.save(path.with_suffix(".parquet"), force=True)).samples.equals(trace.samples)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["metric", "values", "value", "data", "result", "__name__", "name", "status"]), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(body=JSON)
def test_no_json_breaks_the_reader(body, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps({"resultType": "matrix", "data": body}))
    assert list(mk.import_logs(path)) == []


def test_the_values_of_kubevirts_own_test_are_read_by_their_names(tmp_path):
    """kubevirt/kubevirt pkg/monitoring/metrics/virt-handler/migrationdomainstats/migrationstats_collector_test.go at
    d923fdb815: the names, guest and values of its metrics. The envelope, the namespace and a second sample are ours."""
    collected = {"data_bytes_total": 3, "data_remaining_bytes": 1, "data_processed_bytes": 2,
                 "memory_transfer_rate_bytes": 4}  # fmt: skip
    series = [
        {"metric": {"__name__": f"kubevirt_vmi_migration_{name}", "name": "test-vmi-1", "namespace": "default"},
         "values": [[1755858894.0, str(value)], [1755858899.0, str(value + 1)]]}
        for name, value in collected.items()
    ]  # fmt: skip
    path = tmp_path / "answer.json"
    path.write_text(json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}}))
    (trace,) = mk.read_log(path)
    first = trace.samples.iloc[0]
    columns = ("data_total_bytes", "data_remaining_bytes", "data_processed_bytes", "memory_bps")
    assert [first[name] for name in columns] == [3, 1, 2, 4]
    assert trace.meta.domain.name == "default_test-vmi-1"


@pytest.mark.parametrize("stamped", [True, False])
def test_what_metrics_itself_said_is_as_good_as_prometheus_answer(stamped, answer, tmp_path):
    [asked] = imported(answer, tmp_path)
    path = tmp_path / "scrapes.txt"
    path.write_text("\n".join(rendering.scrapes(answer, stamped=stamped)) + "\n")
    [trace] = mk.read_log(path)
    assert trace.samples.equals(asked.samples)
    assert trace.meta.end == asked.meta.end
    skipped = trace.meta.notes.get("skipped_lines", {})
    assert skipped == asked.meta.notes.get("skipped_lines", {})


def test_a_real_scrape_tells_of_two_guests():
    """harvester/harvester pkg/controller/master/migration/vmim_metrics_controller_test.go at a3b6d3c2d3; the line with
    the date is ours."""
    one, two = mk.read_log(Path(__file__).parent / "prometheus" / "two-guests-of-a-scrape.txt")
    columns = ["data_processed_bytes", "data_remaining_bytes", "memory_bps", "memory_dirty_rate_pages_per_s"]
    assert one.samples[columns].to_numpy().tolist() == [[339098348, 764030976, 1067220, 0]]
    assert two.samples[columns].to_numpy().tolist() == [[328214507, 783855616, 1067220, 0]]
    assert [trace.meta.domain.name for trace in (one, two)] == ["default_test", "default_test2"]
    assert any("under the disk's name" in words for words in one.meta.notes["said"])
    # It had sent 339 MB at 1.07 MB/s: nobody saw the first five minutes.
    assert one.meta.cadence.start_uncertain_ms == pytest.approx(317_739, abs=1)


def test_a_scrape_without_any_time_is_left_out(tmp_path):
    path = tmp_path / "scrape.txt"
    path.write_text('kubevirt_vmi_migration_data_remaining_bytes{name="web1",namespace="prod"} 7.64030976e+08\n')
    skipped = Importer([path])
    assert list(skipped.imported()) == []
    assert [*skipped.skipped] == ["metric without a time: none behind it, and no line with the date before it"]


def test_labels_of_a_scrape_may_hold_what_marks_their_end(tmp_path):
    path = tmp_path / "scrape.txt"
    labels = r'a="x\"} 5 {",b="c\\",name="web1"'
    path.write_text(f"kubevirt_vmi_migration_data_remaining_bytes{{{labels}}} 7 1755858894000\n")
    [trace] = mk.read_log(path)
    assert (trace.meta.domain.name, int(trace.samples["data_remaining_bytes"][0])) == ("web1", 7)


@given(place=st.floats(0, 1), noise=st.text(max_size=12), length=st.integers(0, 40))
def test_a_mutated_scrape_never_breaks_the_reader(place, noise, length, tmp_path_factory):
    text = (Path(__file__).parent / "prometheus" / "two-guests-of-a-scrape.txt").read_text()
    at = int(place * len(text))
    path = tmp_path_factory.mktemp("mutated") / "x.txt"
    path.write_text(text[:at] + noise + text[at + length :])
    for trace in mk.import_logs(path):
        assert mk.load(trace.save(path.with_suffix(".parquet"), force=True)).samples.equals(trace.samples)


def told(answer: dict, metric: str, values: list[tuple[float, int]], **labels: str) -> None:
    """Adds a metric of virt-controller's; times in s since the migration's start."""
    start = series(answer, MEMORY)["metric"]
    began = rendering.START_NS // 10**9
    answer["data"]["result"].append({
        "metric": {"__name__": f"kubevirt_vmi_migration_{metric}", "namespace": start["namespace"],
                   "name": start["name"], **labels},
        "values": [[began + moment, str(began + value if "time" in metric else value)] for moment, value in values],
    })  # fmt: skip


def twice(answer: dict, later_s: int = 3600) -> dict:
    """The same migration once more, without its start."""
    for one in list(answer["data"]["result"]):
        if "transfer" in one["metric"]["__name__"] or "data_" in one["metric"]["__name__"]:
            one["values"] += [[t + later_s, v] for t, v in one["values"]]
    return answer


DAY = 24 * 3600


@pytest.mark.parametrize("at_s", [7 * DAY, -7 * DAY, 100])
def test_an_end_that_does_not_fit_its_samples_is_of_another_migration(at_s, answer, tmp_path):
    told(answer, "end_time_seconds", [(at_s, at_s)], status="failed")
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(answer))
    importer = Importer([path])
    [found] = importer.imported()
    assert found.meta.end.outcome == "lost"
    assert importer.skipped == {"end of a migration none of whose samples are near": 1}


def test_a_start_of_long_ago_is_of_another_migration(answer, tmp_path):
    answer["data"]["result"] = [one for one in answer["data"]["result"] if "start_time" not in str(one["metric"])]
    told(answer, "start_time_seconds", [(10, -40 * DAY), (20, -600)])
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(answer))
    importer = Importer([path])
    [found] = importer.imported()
    assert found.meta.migration.started_wall_ns is None
    assert all(row["time_elapsed_ms"] is None for row in found.rows)
    assert importer.skipped == {"start of a migration none of whose samples are near": 2}


def test_a_start_of_a_migration_that_ended_before_the_samples_is_not_theirs(answer, tmp_path):
    answer["data"]["result"] = [one for one in answer["data"]["result"] if "start_time" not in str(one["metric"])]
    told(answer, "start_time_seconds", [(-50, -60)])
    told(answer, "end_time_seconds", [(-20, -30)], status="failed")
    [trace] = imported(answer, tmp_path)
    assert trace.samples["time_elapsed_ms"].isna().all()
    assert trace.meta.end.outcome == "lost"


def test_a_start_that_what_was_sent_explains_is_taken_however_late_the_first_sample_is(answer, bundled, tmp_path):
    """Nobody scraped for the first minutes."""
    late = rendering.prometheus(bundled["long-hot-set"])
    first = [value[0] for value in series(late, MEMORY)["values"]][-4]
    for one in late["data"]["result"]:
        if "start_time" not in one["metric"]["__name__"]:
            one["values"] = [pair for pair in one["values"] if pair[0] >= first]
    assert first - rendering.START_NS / 1e9 > 120
    [trace] = imported(late, tmp_path)
    assert trace.meta.migration.started_wall_ns == rendering.START_NS


@pytest.mark.parametrize("seen_s", [-3600, 7 * DAY])
def test_a_success_of_another_time_is_given_to_no_migration(seen_s, answer, tmp_path):
    told(answer, "succeeded", [(seen_s, 1), (seen_s + 30, 1)], vmim="m1")
    traces = imported(twice(answer), tmp_path)
    assert [trace.meta.end.outcome for trace in traces] == ["lost", "lost"]


def test_a_success_is_given_to_the_one_migration_after_which_it_came_up(answer, tmp_path):
    last = series(answer, MEMORY)["values"][-1][0] - rendering.START_NS / 1e9
    told(answer, "succeeded", [(last + k, 1) for k in range(10, 7200, 30)], vmim="m1")
    told(answer, "failed", [(3600 + last + k, 1) for k in range(10, 600, 30)], vmim="m2")
    traces = imported(twice(answer), tmp_path)
    assert [trace.meta.end.outcome for trace in traces] == ["completed", "failed"]


def test_ends_are_told_apart_by_when_they_were_and_by_the_migrations_name(answer, tmp_path):
    answer["data"]["result"] = [one for one in answer["data"]["result"] if "start_time" not in str(one["metric"])]
    last = int(series(answer, MEMORY)["values"][-1][0] - rendering.START_NS / 1e9)
    for later_s, name, status in ((0, "m1", "failed"), (3600, "m2", "succeeded")):
        told(answer, "start_time_seconds", [(later_s + 30, later_s)], migration_name=name)
        told(answer, "end_time_seconds", [(later_s + last + 9, later_s + last + 3)], migration_name=name, status=status)
    told(answer, "end_time_seconds", [(last + 9, last + 2)], migration_name="m0", status="succeeded")
    traces = imported(twice(answer), tmp_path)
    assert [trace.meta.end.outcome for trace in traces] == ["failed", "completed"]
    assert [trace.meta.migration.started_wall_ns - rendering.START_NS for trace in traces] == [0, 3600 * 10**9]


def test_migrations_of_one_guest_from_several_nodes_bound_each_other(answer, bundled, tmp_path):
    other = rendering.prometheus(bundled["nonconverging-long"], node="node02")
    for one in other["data"]["result"]:
        one["values"] = [[t + 400, v] for t, v in one["values"] if "start_time" not in one["metric"]["__name__"]]
    answer["data"]["result"] += other["data"]["result"]
    traces = imported(answer, tmp_path)
    assert [trace.samples["time_elapsed_ms"].isna().all() for trace in traces] == [False, True]


def test_a_version_that_exported_no_transfer_rate_is_not_believed_where_there_is_one(answer, tmp_path):
    [right] = imported(old_names(answer), tmp_path)
    [trace] = imported(old_names(answer), tmp_path, version="0.53")
    assert trace.samples.equals(right.samples)
    assert any("cannot have exported" in words for words in trace.meta.notes["said"])


@pytest.mark.parametrize("gap_s", [0, 5, 100])
def test_a_start_parts_a_migration_from_one_that_had_sent_less(gap_s, bundled, tmp_path):
    """The link was dead: the next one had sent more when it was first seen."""
    dead, alive = (rendering.prometheus(bundled[name]) for name in ("link-dead", "nonconverging-long"))
    took_s = int((bundled["link-dead"].end_ns - bundled["link-dead"].t0_ns) / 1e9) + 1 + gap_s
    for one in alive["data"]["result"]:
        is_start = "start_time" in one["metric"]["__name__"]
        one["values"] = [[t + took_s, str(int(v) + took_s) if is_start else v] for t, v in one["values"]]
    alone = [imported(one, tmp_path)[0] for one in (dead, alive)]
    dead["data"]["result"] += alive["data"]["result"]
    traces = imported(dead, tmp_path)
    assert [len(trace.samples) for trace in traces] == [len(trace.samples) for trace in alone]
    starts = [trace.meta.migration.started_wall_ns - rendering.START_NS for trace in traces]
    assert starts == [0, took_s * 10**9]


def test_a_large_answer_is_read_in_little_more_memory_than_its_text(tmp_path):
    values = [[1_700_000_000 + 5 * number, str(10**9 + number)] for number in range(20_000)]
    series = [
        {"metric": {"__name__": "kubevirt_vmi_migration_data_remaining_bytes", "name": f"web{guest}"}, "values": values}
        for guest in range(5)
    ]
    path = tmp_path / "answer.json"
    path.write_text(json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}}))
    tracemalloc.start()
    found = Importer([path]).imported()
    next(found)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found.close()
    assert peak_bytes < 9 * path.stat().st_size
