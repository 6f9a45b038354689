"""What a trace can answer of a policy: where it says exactly, the coarse trace decides what the fine one did."""

from __future__ import annotations

from pathlib import Path

import pytest

import migkit as mk
from migkit.meta import Cadence
from migkit.units import MIB
from tests.capture.logs import rendering

POLICIES = [
    mk.kubevirt("1.8", progress_timeout=progress, completion_timeout_per_gib=completion, **more)
    for progress in (0, 6, 12, 20)
    for completion in (0, 8, 25)
    for more in ({}, {"allow_post_copy": True})
]
NAMES = ("stall_link", "link-down", "nonconverging-aborted", "bursty", "long-drop-nonconverging", "phases-of-seconds")


def coarse(trace: mk.Trace, form: str, tmp_path: Path) -> mk.Trace:
    path = tmp_path / f"{form}.log"
    path.write_text("\n".join(rendering.kubevirt(trace, form, stall=form == "D")))
    [found] = mk.read_log(path)
    return found.replace_meta(domain=trace.meta.domain)


def first_decision(run: mk.Replay, before_s: float) -> list[tuple]:
    return [(d.action, d.reason, d.earliest_s, d.latest_s) for d in run.decisions.itertuples() if d.t_s < before_s][:1]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_answered_exactly_is_what_the_fine_trace_decides(name, bundled, tmp_path):
    fine, rough = bundled[name], coarse(bundled[name], "C", tmp_path)
    last_s = float(rough.t_s[rough.active][-1])
    exact = [policy for policy in POLICIES if mk.answers(rough, policy).level == "exact"]
    assert exact
    for policy in exact:
        of_fine, of_rough = (first_decision(mk.replay(trace, policy), last_s - 0.5) for trace in (fine, rough))
        assert [d[:2] for d in of_fine] == [d[:2] for d in of_rough], policy
        for a, b in zip(of_fine, of_rough, strict=True):
            assert a[2] - 0.41 <= b[3], policy
            assert b[2] - 0.41 <= a[3], policy


def test_it_is_not_always_exact(bundled, tmp_path):
    """And where it says approximately, there are cases in which the coarse trace is wrong."""
    wrong = 0
    for name in ("bursty", "link-down", "phases-of-seconds"):
        rough = coarse(bundled[name], "C", tmp_path)
        for policy in POLICIES:
            if mk.answers(rough, policy).level == "approximate":
                runs = [mk.replay(trace, policy).decisions["action"].tolist() for trace in (bundled[name], rough)]
                wrong += runs[0] != runs[1]
    assert wrong > 0


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
