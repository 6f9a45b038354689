"""A rule that looks on leaves in the trace what a replay of it decides."""

from __future__ import annotations

import json
import pickle

import pyarrow as pa
import pytest

import migkit as mk
from migkit.capture.journal import Journal, recover
from migkit.drivers import shadow
from migkit.meta import TraceMeta
from migkit.parquet import SCHEMA

POLICIES = {
    "kubevirt-1.9-stall": mk.policy("kubevirt-1.9-stall", allow_post_copy=True),
    "tight": mk.kubevirt("1.8", completion_timeout_per_gib=5),
}


def rows_of(trace: mk.Trace) -> list[dict]:
    rows = pa.Table.from_pandas(trace.samples, schema=SCHEMA, preserve_index=False).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def shadowed(trace: mk.Trace, made: mk.Shadow) -> list[dict]:
    return made(rows_of(trace), trace.meta).notes["shadow"]


def test_what_is_kept_is_what_a_replay_decides(bundled):
    trace = bundled["noconverge_abort"]
    for kept, (label, policy) in zip(shadowed(trace, mk.Shadow.of(POLICIES)), POLICIES.items(), strict=True):
        again = json.loads(mk.replay(trace, policy).to_json())
        assert (kept["label"], kept["policy"], kept["options"]) == (label, policy.name, dict(policy.options))
        assert kept["decisions"] == again["decisions"]
        assert len(kept["decisions"]) == kept["decisions_in_all"] > 0
        assert kept["divergence_s"] == again["divergence_s"]


def test_a_journal_becomes_a_trace_with_its_shadows_and_a_replay_of_that_agrees(bundled, tmp_path):
    trace = bundled["noconverge_abort"]
    journal = Journal(tmp_path / "a.parquet.journal", trace.meta)
    for row in rows_of(trace):
        journal.append(row)
    journal.finish(trace.meta)
    journal.close()
    recover(journal.path, annotate=mk.Shadow.of(POLICIES))
    made = mk.load(tmp_path / "a.parquet")
    for kept, policy in zip(made.meta.notes["shadow"], POLICIES.values(), strict=True):
        assert kept["decisions"] == json.loads(mk.replay(made, policy).to_json())["decisions"]


def test_other_notes_stay(bundled):
    trace = bundled["noconverge_abort"].replace_meta(notes={"downtime_limits_ms": [[1, 2]]})
    notes = mk.Shadow.of(POLICIES)(rows_of(trace), trace.meta).notes
    assert notes["downtime_limits_ms"] == [[1, 2]]
    assert len(notes["shadow"]) == 2


def test_a_shadow_goes_to_another_process():
    made = mk.Shadow.of(POLICIES)
    assert pickle.loads(pickle.dumps(made)) == made


def test_where_there_can_be_no_replay_the_reason_is_kept():
    meta = mk.Shadow.of(POLICIES)([{"mono_ns": 1, "wall_ns": 1, "source": "job"}], TraceMeta())
    assert [kept["error"] for kept in meta.notes["shadow"]] == [
        "trace: the guest's memory is unknown; pass data_size_gb (--data-size-gb)"
    ] * 2


def test_of_endless_decisions_the_first_are_kept(bundled, monkeypatch):
    monkeypatch.setattr(shadow, "KEPT_DECISIONS", 1)
    tuning = mk.Shadow.of({"tuning": mk.policy("kubevirt-main-tuning")})
    (kept,) = shadowed(bundled["auto-converge-gentle"], tuning)
    assert (len(kept["decisions"]), kept["decisions_in_all"]) == (1, 9)


@pytest.mark.parametrize("label", POLICIES)
def test_options_are_those_that_were_given(label):
    rule = next(rule for rule in mk.Shadow.of(POLICIES).rules if rule[0] == label)
    assert mk.kubevirt(rule[1], **rule[2]) == POLICIES[label]
