"""The page on three numbers for one pause: its figures are the set's, and what it says without figures holds."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import migkit as mk
from migkit.cli import main
from migkit.downtime import _READING, _fields, by_kind, page
from migkit.errors import MigkitError
from tests.conftest import TRACES


def pauses(*rows: tuple[str, float, float | None, float | None]) -> pd.DataFrame:
    """kind, expected, reported, heartbeat."""
    names = ["kind", "expected_ms", "reported_ms", "heartbeat_ms"]
    return pd.DataFrame(rows, columns=names, index=[f"t{i}" for i in range(len(rows))])


def test_the_factors_are_heartbeat_over_reported_and_expected_over_heartbeat():
    found = by_kind(pauses(("a", 300, 10, 50), ("a", 300, 100, 150), ("a", 300, 200, 210), ("b", 90, 100, 100)))
    assert list(found.index) == ["a", "b", "all"]
    a = found.loc["a"]
    assert (a["traces"], a["reported_ms"], a["heartbeat_ms"]) == (3, 100, 150)
    assert (a["factor"], a["largest_factor"], a["largest_in"]) == (1.5, 5, "t0")
    assert (a["missed_ms"], a["missed_in"]) == (50, "t1")
    assert (a["expected_factor"], a["expected_off_ratio"]) == (2, pytest.approx(1 / 3))
    assert found.loc["b", "expected_off_ratio"] == 0


def test_an_expected_downtime_that_is_too_low_is_off_as_well():
    assert by_kind(pauses(("a", 20, 100, 100))).loc["a", "expected_off_ratio"] == 1


def test_a_migration_without_all_three_numbers_does_not_count():
    found = by_kind(pauses(("a", 1, 1, 1), ("a", 1, None, 1), ("a", 1, 1, None), ("b", 1, 0, 1)))
    assert dict(found["traces"]) == {"a": 1, "all": 1}


def test_the_kind_is_what_decides_how_long_the_guest_stands_still(bundled):
    kinds = mk.stats.downtimes(bundled.values())["kind"]
    assert {name: kinds[name] for name in (
        "converge-fast", "downtime-raised", "link-limited", "pair-small", "auto-converge", "postcopy_switch",
        "suspend-midway", "long-link-one-percent", "bandwidth-lowered", "bandwidth-raised",
    )} == {
        "converge-fast": "pre-copy", "downtime-raised": "limit raised", "link-limited": "link-limited",
        "pair-small": "link-limited", "auto-converge": "throttled", "postcopy_switch": "post-copy",
        "suspend-midway": "suspended", "long-link-one-percent": "pre-copy", "bandwidth-lowered": "pre-copy",
        "bandwidth-raised": "pre-copy",
    }  # fmt: skip


def test_a_slow_link_shows_without_a_label(bundled):
    """The flow at the end tells it where nobody wrote down what held the migration up."""
    traces = [bundled[name].replace_meta(lab=None) for name in ("link-limited", "converge-fast")]
    assert list(mk.stats.downtimes(traces)["kind"]) == ["link-limited", "pre-copy"]


def test_the_committed_page_says_what_the_traces_say(bundled):
    assert (TRACES.parent / "DOWNTIME.md").read_text() == page(bundled.values()), "make data writes it anew"


def test_the_answer_of_notebook_01_has_the_figures_of_the_set(bundled):
    answer = json.loads((TRACES.parents[1] / "notebooks/01-look.ipynb").read_text())["cells"][-1]["source"]
    kinds = by_kind(mk.stats.downtimes(bundled.values()))
    pre, post = kinds.loc["pre-copy"], kinds.loc["post-copy"]
    said = " ".join("".join(answer).split())
    assert f"{pre['heartbeat_ms']:.0f} ms in the median where libvirt reported {pre['reported_ms']:.0f} ms" in said
    assert f"never more than {pre['missed_ms']:.0f} ms beyond that" in said
    assert f"missed {post['heartbeat_ms']:.0f} ms in the median, {post['factor']:.0f} times what was reported" in said
    assert round(pre["expected_factor"]) == 6
    assert "six times too high" in said
    assert pre["missed_ms"] < 160
    assert "plus 160 ms" in said


def test_what_the_page_says_without_a_figure_holds(bundled):
    kinds = by_kind(mk.stats.downtimes(bundled.values()))
    assert kinds.loc["pre-copy", "expected_factor"] > 3
    assert kinds.loc["pre-copy", "factor"] < 2
    assert 0.5 < kinds.loc["link-limited", "expected_factor"] < 2
    assert kinds.loc["link-limited", "largest_factor"] < 1.25
    assert kinds.loc["suspended", "largest_factor"] < 1.25
    assert kinds.loc["post-copy", "factor"] > 10
    assert kinds.loc["throttled", "largest_factor"] > 10
    limits = [
        mk.stats.downtime_limits(bundled[name])["limit_ms"].max() for name in ("downtime-raised", "downtime-steps")
    ]
    assert max(limits) > 5 * kinds.loc["limit raised", "heartbeat_ms"]


def test_what_is_expected_of_a_suspended_guest_is_read_before_it_stands(bundled):
    """Within the pause QEMU's estimate shrinks towards nothing."""
    for name in ("suspend-midway", "suspend-midway-2"):
        row = mk.stats.downtimes([bundled[name]]).iloc[0]
        assert row["kind"] == "suspended"
        assert 0.8 < row["expected_ms"] / row["heartbeat_ms"] < 1.1


def test_all_of_the_reading_is_on_the_page(bundled):
    text = page(bundled.values())
    assert text.count("\n\n**") + text.count("\n\nWhere") == len(_READING)
    assert not _fields(text)
    assert "nan" not in text


def test_a_set_without_some_kinds_leaves_their_paragraphs_out(bundled):
    text = page([bundled["idle"], bundled["converge-fast"]])
    assert "Expected is no forecast" in text
    assert "After post-copy reported means nothing" not in text
    assert "{" not in text


def test_a_set_without_any_heartbeat_is_refused_in_one_line(bundled, capsys):
    with pytest.raises(MigkitError, match="no migration has an expected"):
        page([bundled["user-aborts"]])
    assert main(["info", str(TRACES / "user-aborts.parquet"), "--downtime"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_verb_prints_the_page(bundled, capsys):
    assert main(["info", str(TRACES / "idle.parquet"), "--downtime"]) == 0
    assert capsys.readouterr().out == page([bundled["idle"]])
