"""The pytest plugin in a project that has nothing of migkit but the installed package."""

from __future__ import annotations

import pytest

from tests.conftest import TRACES

pytest_plugins = ["pytester"]

USERS_TEST = """
def test_decisions_stay_what_they_were(migkit_replay, migkit_golden):
    migkit_golden(migkit_replay)
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(USERS_TEST)
    pytester.makeini("[pytest]\nmigkit_policies =\n    kubevirt-1.8\n    kubevirt-1.8,progress_timeout=5\n")
    traces = pytester.mkdir("traces")
    (traces / "stall.parquet").write_bytes((TRACES / "stall_link.parquet").read_bytes())
    return pytester


def test_without_traces_it_skips_and_says_how_to_go_on(project):
    result = project.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines("*pass --migkit-traces DIR*")


def test_golden_texts_are_written_kept_and_held_against(project):
    first = project.runpytest_subprocess("--migkit-traces", "traces")
    first.assert_outcomes(failed=2)
    first.stdout.fnmatch_lines("*is not there yet; run pytest with --migkit-update*")
    project.runpytest_subprocess("--migkit-traces", "traces", "--migkit-update").assert_outcomes(passed=2)
    written = sorted(path.name for path in (project.path / "golden").iterdir())
    assert written == ["stall.kubevirt-1.8.progress_timeout=5.txt", "stall.kubevirt-1.8.txt"]
    project.runpytest_subprocess("--migkit-traces", "traces").assert_outcomes(passed=2)


def test_a_change_of_behaviour_is_a_readable_diff(project):
    project.makeini("[pytest]\nmigkit_traces = traces\n")
    project.runpytest_subprocess("--migkit-update").assert_outcomes(passed=3)
    golden = project.path / "golden" / "stall.kubevirt-1.8.txt"
    golden.write_text(golden.read_text().replace("does nothing", "9.60 s abort: stuck"))
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*decided otherwise*", "*-  9.60 s abort: stuck*", "*+  does nothing*"])


def test_a_wrong_folder_is_one_line(project):
    result = project.runpytest_subprocess("--migkit-traces", "nowhere")
    result.stdout.fnmatch_lines("*migkit: *nowhere: no such folder of traces")
    assert result.ret != 0
