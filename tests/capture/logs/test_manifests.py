"""A guest's objects say of its migration what a log leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import migkit as mk
from migkit.capture.logs.manifests import Manifests
from tests.capture.logs import rendering

STATUS = Path(__file__).parent / "kubevirt" / "status-of-a-public-issue.yaml"
ISSUE_UID = "08f3bfbe-fb44-4ab2-893b-7b13098c5e54"


def imported(recorded: mk.Trace, manifest: dict, tmp_path: Path, *, ends: bool = False, **options) -> mk.Trace:
    (tmp_path / "vmi.json").write_text(json.dumps(manifest))
    lines = [line for line in rendering.kubevirt(recorded, "C", **options) if ends or "Live migration" not in line]
    (tmp_path / "x.log").write_text("\n".join(lines))
    [trace] = mk.read_log(tmp_path / "x.log", manifests=[tmp_path / "vmi.json"])
    return trace


def vmi(**state: object) -> dict:
    return {
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "web1", "namespace": "prod", "uid": rendering.VMI_UID},
        "spec": {"domain": {"memory": {"guest": "256Mi"}, "devices": {"gpus": [{"name": "gpu"}]}}},
        "status": {"migrationState": {"migrationUid": rendering.UID, **state}},
    }


def test_memory_and_devices_come_from_the_guests_own_object(bundled, tmp_path):
    trace = imported(bundled["converge-late"], vmi(), tmp_path)
    assert (trace.meta.domain.memory_bytes, trace.meta.domain.has_vfio) == (256 * 2**20, True)
    assert mk.replay(trace, mk.kubevirt("1.8")).data_size_gb == 1


def test_a_request_is_memory_where_the_guest_sets_none(bundled, tmp_path):
    asked = vmi()
    asked["spec"]["domain"] = {"resources": {"requests": {"memory": "1G"}}}
    assert imported(bundled["converge-late"], asked, tmp_path).meta.domain.memory_bytes == 10**9


def test_the_status_of_a_public_issue_is_kept_with_its_migration(bundled, tmp_path):
    lines = rendering.kubevirt(bundled["converge-late"], "C", uid=ISSUE_UID)
    (tmp_path / "x.log").write_text("\n".join(lines))
    [trace] = mk.read_log(tmp_path / "x.log", manifests=[STATUS])
    status = trace.meta.notes["kubevirt_status"]
    assert status["migrationConfiguration"]["completionTimeoutPerGiB"] == 150
    assert trace.meta.domain.uuid == "5d307ca9-b3ef-428c-8861-06e72d69f223"


def test_the_status_of_another_migration_is_not_used(bundled, tmp_path):
    other = vmi(migrationUid="another", failed=True, failureReason="x")
    trace = imported(bundled["converge-late"], other, tmp_path)
    assert trace.meta.end.outcome == "lost"
    assert "kubevirt_status" not in trace.meta.notes


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ({"completed": True}, "completed"),
        ({"completed": True, "failed": True, "failureReason": "no route"}, "failed"),
        ({"failed": True, "abortStatus": "Succeeded"}, "cancelled"),
        ({"failed": True, "failureReason": "Live migration has been aborted"}, "cancelled"),
        ({}, "lost"),
    ],
)
def test_where_the_log_does_not_tell_the_end_the_status_does(state, outcome, bundled, tmp_path):
    trace = imported(bundled["converge-late"], vmi(**state), tmp_path)
    assert trace.meta.end.outcome == outcome
    assert trace.meta.end.error_text == (state.get("failureReason") or "")


def test_what_the_log_tells_goes_before_the_status(bundled, tmp_path):
    trace = imported(bundled["converge-late"], vmi(failed=True), tmp_path, ends=True)
    assert trace.meta.end.outcome == "completed"


def test_a_migration_object_is_found_by_its_uid(bundled, tmp_path):
    migration = {
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "m", "namespace": "prod", "uid": rendering.UID},
        "status": {"migrationState": {"migrationUid": rendering.UID, "completed": True}},
    }
    trace = imported(bundled["converge-late"], {"kind": "List", "items": [migration]}, tmp_path)
    assert (trace.meta.end.outcome, trace.meta.end.evidence) == ("completed", "status of the object")


@pytest.mark.parametrize(("text", "message"), [("a: [", "neither YAML nor JSON"), ("kind: Pod", "holds no Virtual")])
def test_a_file_that_was_given_but_holds_no_object_is_refused(text, message, tmp_path):
    path = tmp_path / "vmi.yaml"
    path.write_text(text)
    with pytest.raises(mk.MigkitError, match=message):
        Manifests.read([path])


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just("8Gi"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["spec", "domain", "memory", "guest", "status", "migrationState", "cpu", "cores", "devices", "interfaces",
         "metadata", "uid", "failed", "failureReason", "resources", "requests", "startTimestamp"]), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@given(body=st.dictionaries(st.sampled_from(["spec", "status", "metadata"]), ANY, max_size=3))
def test_no_object_breaks_the_reader(body):
    objects: list = [{"kind": "VirtualMachineInstance", **body}]
    Manifests(objects=objects).facts("m", "", "prod", "web1")
    Manifests(objects=objects).facts("m", "u", "prod", "web1")
