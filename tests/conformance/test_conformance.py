"""KubeVirt's own decisions on every case, in both forms of the rules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.cases import mismatches, opened, size_differs

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
    cases = [json.loads(line) for line in (HERE / "datasize.jsonl").read_text().splitlines()]
    assert len(cases) == 100
    assert [case for case in cases if size_differs(case)] == []


def test_the_runner_takes_data_sizes_and_names_what_it_cannot_read(tmp_path):
    command = [sys.executable, "-m", "tests.conformance"]
    run = subprocess.run([*command, HERE / "datasize.jsonl"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "datasize: cases=100 mismatches=0\n")
    path = tmp_path / "bad.jsonl"
    path.write_text("{")
    run = subprocess.run([*command, path], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith(f"{path}: line 1: cannot be read")
