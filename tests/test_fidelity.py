"""What a trace can answer of a policy: where it says exactly, the coarse trace decides what the fine one did."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

import migkit as mk
from migkit.meta import Cadence, End
from migkit.units import MIB
from tests.capture.logs import rendering, rendering_others
from tests.capture.logs.rendering import sampled

FORMS = {
    "C": lambda trace: rendering.kubevirt(trace, "C"),
    "D": lambda trace: rendering.kubevirt(trace, "D", stall=True),
    "C cut": lambda trace: [line for line in rendering.kubevirt(trace, "C") if "Live migration" not in line],
    "virsh": lambda trace: rendering_others.virsh(trace, raw=True, every_ms=4000),
    "vdsm": lambda trace: rendering_others.vdsm(trace, every_ms=4000),
    "nova": lambda trace: rendering_others.nova(trace),
}


def policies(trace: mk.Trace) -> list[mk.Policy]:
    """Of the clock alone and of progress, with deadlines all along the record and above all near its end."""
    last_s, gb = float(trace.t_s[trace.active][-1]), mk.replay(trace, mk.kubevirt("1.8")).data_size_gb
    near = {int(last_s / gb) + more for more in (-4, -2, -1, 0, 1, 3)}
    deadlines = [0, 1, *sorted(value for value in near if value > 1), int(last_s / gb) + 20]
    return [
        mk.kubevirt("1.8", progress_timeout=progress, completion_timeout_per_gib=deadline, **more)
        for progress, more in ((0, {}), (20, {"allow_post_copy": True}))
        for deadline in deadlines
    ]


def coarse(trace: mk.Trace, form: str, tmp_path: Path) -> mk.Trace:
    path = tmp_path / "some.log"
    path.write_text("\n".join(FORMS[form](trace)))
    [found] = mk.read_log(path)
    return found.replace_meta(domain=trace.meta.domain)


def first_decision(run: mk.Replay) -> list[tuple]:
    return [(d.action, d.reason, d.earliest_s, d.latest_s) for d in run.decisions.itertuples()][:1]


def same(ours: list[tuple], theirs: list[tuple]) -> bool:
    """The same action for the same reason, no further apart than a wake."""
    return [one[:2] for one in ours] == [one[:2] for one in theirs] and all(
        abs(a[place] - b[place]) <= 0.41 for a, b in zip(ours, theirs, strict=True) for place in (2, 3)
    )


@pytest.mark.parametrize("form", [form for form in FORMS if form != "nova"])
def test_what_is_answered_exactly_is_what_the_fine_trace_decides(form, bundled, tmp_path):
    exact = acted = 0
    for place, fine in enumerate(bundled.values()):
        if len(sampled(fine, 4000)) < 2:
            continue
        rough = coarse(fine, form, tmp_path)
        for policy in policies(fine)[place % 2 :: 2]:
            if mk.answers(rough, policy).level == "exact":
                of_fine, of_rough = (first_decision(mk.replay(trace, policy)) for trace in (fine, rough))
                assert same(of_fine, of_rough), (fine.name, policy.options)
                exact, acted = exact + 1, acted + bool(of_rough)
    assert exact > 200
    assert acted > 50


@pytest.mark.parametrize("options", [{"progress_timeout": 10}, {"completion_timeout_per_gib": 48}])
def test_where_it_is_approximate_the_coarse_trace_is_wrong_at_times(options, bundled, tmp_path):
    fine = bundled["phases-of-seconds"]  # cancelled after 50 s
    rough, only = coarse(fine, "C", tmp_path), {"progress_timeout": 0, "completion_timeout_per_gib": 0} | options
    policy = mk.kubevirt("1.8", **only)
    assert mk.answers(rough, policy).level == "approximate"
    assert not same(*(first_decision(mk.replay(trace, policy)) for trace in (fine, rough)))


def test_a_deadline_is_unseen_between_the_last_sample_and_the_end(bundled, tmp_path):
    def level(form: str, deadline_s: int) -> str:
        policy = mk.kubevirt("1.8", progress_timeout=0, completion_timeout_per_gib=deadline_s)
        answer = mk.answers(coarse(fine, form, tmp_path), policy)
        return answer.level if answer.level == "exact" else answer.why

    fine = bundled["phases-of-seconds"]  # cancelled after 50.0 s; the lines come at 48.1 s and, of its end, at 52.2 s
    why = "the deadline of 50 s passes between the last sample, at 48.1 s, and the end, at 52.2 s at the latest"
    assert level("C", 50) == why
    assert level("C", 46) == "exact"
    assert level("C", 52) == "exact"
    assert level("C cut", 50) == why.replace("52.2", "56.1")
    assert level("virsh", 50) == why.replace("the end, at 52.2 s at the latest", "an end of which no time is known")
    assert level("C", 2) == "the deadline of 2 s passes before the first sample, at 4.00 s"
    fine = bundled["bursty"]  # completed after 26.8 s, which the final statistics of a newer log tell
    assert level("C", 25).startswith("the deadline of 25 s passes between the last sample, at 24.")
    assert level("virsh", 25) == "exact"


def test_a_sweep_labels_the_settings_whose_deadline_is_unseen(bundled, tmp_path):
    rough = coarse(bundled["phases-of-seconds"], "C", tmp_path)
    swept = mk.sweep([rough], mk.kubevirt("1.8", progress_timeout=0), completion_timeout_per_gib=[40, 50, 60])
    assert swept.table["basis"].tolist() == ["observed", "bounded", "observed"]


def test_recordings_at_the_monitors_pace_answer_everything(bundled):
    for name in ("stall_link", "post-copy", "nonconverging-long"):
        for policy in ("kubevirt-0.59", "kubevirt-1.8", "kubevirt-1.9-stall", "kubevirt-main-tuning"):
            assert mk.answers(bundled[name], mk.policy(policy)) == mk.Answer(level="exact")


@pytest.mark.parametrize(
    ("form", "policy", "level", "why"),
    [
        ("C", "kubevirt-1.9-stall", "no", "iteration events"),
        ("D", "kubevirt-1.9-stall", "approximate", "samples 4 s apart instead of 400 ms, in whole MiB"),
        ("C", "kubevirt-main-tuning", "approximate", "the limit is raised at samples 4 s apart"),
        ("C", "kubevirt-1.8", "exact", ""),
    ],
)
def test_a_launcher_log_answers_what_it_can(form, policy, level, why, bundled, tmp_path):
    found = mk.answers(coarse(bundled["nonconverging-long"], form, tmp_path), mk.policy(policy))
    assert (found.level, why in found.why) == (level, True)


def test_a_progress_timeout_shorter_than_two_samples_cannot_be_seen(bundled, tmp_path):
    rough = coarse(bundled["link-down"], "C", tmp_path)
    assert mk.answers(rough, mk.kubevirt("1.8", progress_timeout=5)).level == "no"


def test_an_unknown_memory_makes_the_deadline_uncertain_only_where_it_matters(bundled):
    rows = {"mono_ns": 0, "wall_ns": 0, "source": "poll", "job_type": 2, "time_elapsed_ms": 0}
    sure = mk.Trace.from_rows(
        [{**rows, "memory_total_bytes": 8208 * MIB}], mk.Trace.load("data/traces/idle.parquet").meta
    )
    sure = sure.replace_meta(domain=type(sure.meta.domain)())
    unsure = mk.Trace.from_rows([{**rows, "memory_total_bytes": 8592 * MIB}], sure.meta)
    policy = mk.policy("kubevirt-1.8")
    assert mk.answers(sure, policy).level == "exact"
    assert mk.answers(unsure, policy).level == "approximate"
    assert mk.answers(unsure, policy, data_size_gb=1).level == "exact"
    assert mk.answers(unsure, mk.kubevirt("1.8", completion_timeout_per_gib=0)).level == "exact"


def test_a_memory_that_nobody_told_leaves_a_deadline_unanswered(bundled):
    trace = bundled["idle"]
    rows = trace.samples.assign(memory_total_bytes=None).astype({"memory_total_bytes": "UInt64"})
    unknown = mk.Trace(samples=rows, meta=trace.meta).replace_meta(domain=type(trace.meta.domain)())
    with_deadline, without = mk.policy("kubevirt-1.8"), mk.kubevirt("1.8", completion_timeout_per_gib=0)
    assert mk.answers(unknown, with_deadline).level == "no"
    assert "data_size_gb" in mk.answers(unknown, with_deadline).why
    assert mk.answers(unknown, with_deadline, data_size_gb=1).level == "exact"
    assert mk.answers(unknown, without).level == "exact"
    with pytest.raises(mk.MigkitError, match="memory is unknown; pass data_size_gb"):
        mk.replay(unknown, with_deadline)
    assert mk.replay(unknown, with_deadline, data_size_gb=1).fidelity.level == "exact"
    assert mk.replay(unknown, without).fidelity.level == "exact"


def test_a_replay_without_what_the_rule_works_by_is_refused_unless_asked_for(bundled, tmp_path):
    rough = coarse(bundled["nonconverging-long"], "C", tmp_path)
    policy = mk.kubevirt("1.9", stall_detection=True, stall_progress_timeout=20, allow_workload_disruption=True)
    with pytest.raises(mk.MigkitError, match=r"cannot answer for kubevirt-1\.9-stall: .* iteration events"):
        mk.replay(rough, policy)
    run = mk.replay(rough, policy, anyway=True)
    assert run.fidelity.level == "no"
    assert set(run.decisions["basis"]) <= {"modelled", "unknowable"}
    assert "stall-hard-stop" in set(run.decisions["reason"])


def test_an_approximate_replay_observes_nothing(bundled, tmp_path):
    rough = coarse(bundled["nonconverging-long"], "D", tmp_path)
    run = mk.replay(rough, mk.kubevirt("1.9", stall_detection=True, stall_progress_timeout=20))
    assert run.fidelity.level == "approximate"
    assert "observed" not in set(run.decisions["basis"])
    assert '"fidelity": "approximate"' in run.to_json()


def test_a_source_that_never_has_a_column_says_so(bundled):
    trace = bundled["nonconverging-long"].replace_meta(
        cadence=Cadence(interval_ms=100, iteration_events=True, lacks=("memory_bps",))
    )
    assert "needs bandwidth" in mk.answers(trace, mk.policy("kubevirt-1.9-stall")).why
    assert mk.answers(trace, mk.policy("kubevirt-1.8")).level == "exact"


@pytest.mark.parametrize("form", ["C", "vdsm", "nova"])
def test_the_time_of_an_end_that_was_told_is_kept(form, bundled, tmp_path):
    for name in ("phases-of-seconds", "destination-killed", "converge-fast"):
        fine = bundled[name]
        told_ms = (fine.end_ns - fine.t0_ns) / 1e6
        assert coarse(fine, form, tmp_path).meta.end.ended_by_ms == pytest.approx(told_ms, abs=501), name


def test_the_time_of_an_end_may_come_from_the_object(bundled, tmp_path):
    lines, vmim = tmp_path / "some.log", tmp_path / "vmim.yaml"
    lines.write_text("\n".join(FORMS["C cut"](bundled["phases-of-seconds"])))
    ended = datetime.datetime.fromtimestamp(rendering.START_NS // 10**9 + 51, datetime.UTC).isoformat()
    state = {"migrationUid": rendering.UID, "failed": True, "completed": True, "endTimestamp": ended}
    vmim.write_text(json.dumps({"kind": "VirtualMachineInstanceMigration", "metadata": {"uid": rendering.UID},
                                "status": {"migrationState": state}}))  # fmt: skip
    [trace] = mk.read_log(lines, manifests=[vmim])
    assert trace.meta.end.outcome == "failed"
    assert trace.meta.end.ended_by_ms == pytest.approx(52_000, abs=1)  # whole seconds, up to the next one


@pytest.mark.parametrize("elapsed", [-1, 2**40, "5"])
def test_a_final_time_that_cannot_be_is_refused(elapsed, bundled):
    with pytest.raises(mk.MigkitError, match=r"final time_elapsed .*must be a number of ms"):
        bundled["idle"].replace_meta(end=End(outcome="completed", completed={"time_elapsed": elapsed}))


@pytest.mark.parametrize(("version", "level"), [("1.8", "exact"), ("1.9", "approximate"), ("main", "approximate")])
def test_host_devices_that_nobody_told_of_make_a_disruption_uncertain(version, level, bundled, tmp_path):
    """v1.9 raises the downtime limit of such a guest where it would switch others to post-copy."""
    policy = mk.kubevirt(version, allow_post_copy=True, progress_timeout=0, completion_timeout_per_gib=40)
    aborting = mk.kubevirt(version, progress_timeout=0, completion_timeout_per_gib=40)
    fine = bundled["nonconverging-long"]
    (tmp_path / "some.log").write_text("\n".join(rendering.kubevirt(fine, "D")))
    [rough] = mk.read_log(tmp_path / "some.log")
    assert rough.meta.domain.has_vfio is None
    acts = [mk.replay(fine, policy, data_size_gb=2, has_vfio=vfio).decisions["action"][0] for vfio in (False, True)]
    assert len(set(acts)) == (1 if level == "exact" else 2)
    assert mk.answers(rough, policy, data_size_gb=2).level == level
    assert mk.replay(rough, policy, data_size_gb=2).fidelity.level == level
    for vfio, act in zip((False, True), acts, strict=True):
        run = mk.replay(rough, policy, data_size_gb=2, has_vfio=vfio)
        assert (run.fidelity.level, run.decisions["action"][0]) == ("exact", act)
        assert any("of which the record tells nothing" in note for note in run.notes) == vfio
    assert mk.answers(rough, aborting, data_size_gb=2).level == "exact"


def test_a_sweep_refuses_settings_that_rest_on_unknown_host_devices(bundled, tmp_path):
    (tmp_path / "some.log").write_text("\n".join(rendering.kubevirt(bundled["nonconverging-long"], "D")))
    [rough] = mk.read_log(tmp_path / "some.log")
    policy, values = mk.kubevirt("1.9", progress_timeout=0), {"allow_post_copy": [False, True]}
    with pytest.raises(mk.MigkitError, match="host devices"):
        mk.sweep([rough], policy, data_size_gb=2, **values)
    assert mk.sweep([rough], policy, data_size_gb=2, has_vfio=False, **values).table["basis"].tolist()
