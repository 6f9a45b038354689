"""KubeVirt's own decisions on every case, in both forms of the rules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from migkit.policies.size import data_size_gb
from tests.conformance.cases import mismatches, opened

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cases():
    with opened(HERE / "cases.jsonl.xz") as stream:
        return [json.loads(line) for line in stream]


@pytest.mark.parametrize("compiled_form", [False, True], ids=["plain", "compiled"])
def test_every_case_is_decided_as_kubevirt_decided_it(cases, compiled_form):
    if compiled_form:
        pytest.importorskip("numba")
    assert len(cases) == 2095
    wrong = {case["id"]: found for case in cases if any(found := mismatches(case, compiled_form=compiled_form))}
    assert wrong == {}


def test_the_runner_sees_a_decision_that_differs(tmp_path, cases):
    case = next(c for c in cases if c["expected"]["actions"])
    case["expected"]["actions"][0]["ok"] = not case["expected"]["actions"][0]["ok"]
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(case))
    run = subprocess.run([sys.executable, "-m", "tests.conformance", path], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stdout.endswith("cases=1 call_mismatches=1 state_mismatches=0\n")
    case["expected"]["actions"][0]["ok"] = not case["expected"]["actions"][0]["ok"]


def test_the_data_size_is_rounded_as_kubevirt_rounds_it():
    wrong = []
    for line in (HERE / "datasize.jsonl").read_text().splitlines():
        case = json.loads(line)
        memory = case["mem_request"] if case["guest_memory"] is None else case["guest_memory"]
        ephemeral = case["ephemeral_disks_bytes"] if case["block_migration"] else 0
        found = data_size_gb(memory=memory, ephemeral_bytes=ephemeral, migrated_bytes=case["migrated_volume_bytes"])
        if found != case["expected_gb"]:
            wrong.append((case, found))
    assert wrong == []
