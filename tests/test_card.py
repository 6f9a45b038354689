"""The page on a set of traces, and whether a trace may join one."""

from __future__ import annotations

import dataclasses

import pytest

from migkit.card import check, data_card
from migkit.cli import main
from migkit.meta import Lab
from tests.conftest import TRACES

FAULT = {"limited_by": "network", "converges": True, "fault_from_s": 4, "fault_until_s": 19.5}


def labelled(trace, truth):
    return trace.replace_meta(lab=Lab(scenario="mine", description="a | b", truth=truth))


def test_a_row_tells_the_truth_behind_a_trace(bundled):
    page = data_card([labelled(bundled["link-down"], FAULT)])
    assert "| network, converges; fault from 4 s to 19.5 s |" in page
    assert "a / b" in page
    assert "| network | 1 | 1 | 1 |" in page


def test_a_fault_without_an_end_lasts(bundled):
    lasting = {key: value for key, value in FAULT.items() if key != "fault_until_s"} | {"converges": False}
    assert "network, does not converge; fault from 4 s on |" in data_card([labelled(bundled["link-down"], lasting)])


def test_the_page_says_how_to_cite_and_to_add(bundled):
    page = data_card(list(bundled.values()))
    for words in ("CC-BY-4.0", "cite", "migkit info --check", "--mask-names", "What they cannot tell", "Truth labels"):
        assert words in page
    assert page.count("| `") == len(bundled)


def test_the_committed_page_is_of_the_committed_traces(bundled):
    assert (TRACES.parent / "README.md").read_text() == data_card(list(bundled.values())), "make data writes it anew"


def test_the_page_tells_how_much_of_the_lab_is_in_the_set(bundled):
    page = data_card([bundled["idle"], bundled["idle-2"], bundled["long-idle-2gib"]])
    assert "- 2 scenarios of the lab (`migkit lab list`), 1 of them more than once; guests of 256 MiB to 2 GiB" in page
    assert "- two hosts on one machine of 2 processors; its load average at the start, noted in 2 of 3: " in page


def test_a_trace_of_the_lab_may_be_shared(bundled):
    found = check(TRACES / "post-copy.parquet")
    assert found.problems == ()
    assert found.facts.startswith("recorded, ")


@pytest.fixture
def strange(bundled, tmp_path):
    """A copy of a trace, as if it were not of the lab, with some of its metadata changed."""

    def save(**changes):
        path = tmp_path / "mine.parquet"
        bundled["post-copy"].replace_meta(**({"lab": None} | changes)).save(path, force=True)
        return path

    return save


def test_names_stand_against_sharing_unless_they_are_masked(bundled, strange):
    meta = bundled["post-copy"].meta
    (problem,) = check(strange()).problems
    assert problem == "it names its guest, host: record with --mask-names"
    assert check(strange(cadence=dataclasses.replace(meta.cadence, names_masked=True))).problems == ()


def test_a_simulated_trace_and_one_of_unknown_origin_are_told(strange):
    assert "it is simulated, not a migration that happened" in check(strange(provenance="simulated")).problems
    assert "it does not say where it was imported from" in check(strange(provenance="imported", origin="")).problems


def test_a_corrupted_guest_is_told(strange):
    found = check(strange(lab=Lab(scenario="x", guest_corrupted=True)))
    assert found.problems == ()
    assert found.facts.endswith("marked: the guest's memory came up corrupted")


def test_a_trace_without_samples_is_told(bundled, tmp_path):
    trace = bundled["post-copy"]
    path = tmp_path / "empty.parquet"
    dataclasses.replace(trace, samples=trace.samples[~trace.active].reset_index(drop=True)).save(path)
    assert check(path).problems == ("it has no sample of a running migration",)


def test_the_verb_checks_each_and_fails_for_one(tmp_path, capsys):
    (tmp_path / "broken.parquet").write_bytes(b"not a trace")
    good = TRACES / "post-copy.parquet"
    assert main(["info", "--check", str(good)]) == 0
    assert capsys.readouterr().out.startswith("post-copy: ready to be shared (recorded, ")
    assert main(["info", "--check", str(good), str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("broken: not to be shared yet: ")
