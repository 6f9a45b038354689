"""What is shown of a running migration, piece by piece."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

import migkit as mk
from migkit.cli import view
from migkit.units import MIB
from tests.cli import picture

ROW = {
    "source": "poll", "job_type": 2, "data_total_bytes": 256 * MIB, "data_remaining_bytes": 64 * MIB,
    "time_elapsed_ms": 12_345, "memory_bps": 32 * MIB, "memory_dirty_rate_pages_per_s": 1000, "memory_iteration": 3,
    "memory_page_size_bytes": 4096, "downtime_ms": 2000,
}  # fmt: skip
VALUES = {"mode": "PreCopy", "abort_status": "", "stalled": False}


def test_the_bar_is_the_share_that_has_gone():
    assert view.bar(ROW, 100) == "[######################........]  75%  64 MiB left of 256 MiB  12 s"
    assert "[.........." in view.bar(ROW | {"data_remaining_bytes": 256 * MIB}, 100)
    full = view.bar(ROW | {"data_remaining_bytes": 1}, 100)
    assert "#.]" in full


@pytest.mark.parametrize("wide", [20, 50, 80, 300])
def test_the_bar_fits_the_terminal(wide):
    assert len(view.bar(ROW, wide)) <= max(wide, 60)


def test_the_numbers_have_their_units():
    assert view.state_parts(ROW) == [
        "12.3 s: 64 MiB left", "bandwidth 32 MiB/s", "dirty rate 3.91 MiB/s", "iteration 3", "expected downtime 2 s",
    ]  # fmt: skip


def test_what_libvirt_did_not_say_is_left_out():
    bare = {"time_elapsed_ms": 500, "data_total_bytes": 9, "data_remaining_bytes": 5, "memory_iteration": 1}
    assert view.state_parts(bare) == ["0.50 s: 5 B left", "iteration 1"]


PREPARES = {"source": "poll", "job_type": 2, "data_total_bytes": 0, "data_remaining_bytes": 0, "time_elapsed_ms": 1099}


def test_while_libvirt_prepares_there_are_no_numbers(monkeypatch):
    assert view.bar(PREPARES, 100) == "[..............................]    –  preparing  1 s"
    assert view.state_parts(PREPARES) == ["1.10 s: preparing", "–"]
    monkeypatch.setenv("COLUMNS", "100")
    out, lines = io.StringIO(), io.StringIO()
    screen, plain = view.ScreenView(beside(), out), view.LineView(beside(), lines)
    for shown in (screen, plain):
        shown.saw(PREPARES)
        shown.tick()
    assert "preparing" in out.getvalue()
    assert "left" not in out.getvalue()
    assert lines.getvalue() == ""
    screen.saw(ROW)
    screen.saw(PREPARES)
    assert screen.newest == ROW


@pytest.mark.parametrize(
    ("deadlines", "values", "said"),
    [
        ([("completion deadline", 12.34)], {}, "completion deadline in 12.3 s"),
        ([("completion deadline", -3.0)], {}, "completion deadline has passed"),
        ([], {}, "no deadline"),
        ([], {"mode": "PostCopy"}, "post-copy: the rule only looks on"),
        ([], {"abort_status": "Succeeded"}, "abort succeeded"),
        ([("switchover deadline", 5.0)], {"stalled": True}, "switchover deadline in 5 s; stalled"),
    ],
)
def test_what_the_rule_waits_for(deadlines, values, said):
    assert view.next_line(deadlines, VALUES | values, ended=False) == said


def test_post_copy_that_was_only_said_is_told_to_be_so():
    said = view.next_line([], VALUES | {"mode": "PostCopy"}, ended=False, acts=False)
    assert said == "as if post-copy had begun: the rule only looks on"


def test_the_picture_of_the_view_is_what_the_view_draws_now(monkeypatch):
    """`python -m tests.cli.picture > data/migrate.svg` makes it anew."""
    monkeypatch.setenv("COLUMNS", str(picture.WIDE))
    assert picture.svg(picture.drawn(mk.load(picture.TRACE))) == (picture.TRACE.parents[1] / "migrate.svg").read_text()


def test_a_rule_that_has_ended_waits_for_nothing():
    assert view.next_line([("completion deadline", 3.0)], VALUES, ended=True) == "the rule has ended"


def beside(*told):
    return SimpleNamespace(decided=lambda since: list(told)[since:], acts=False, moment=None, cancelling=False)


def test_each_decision_is_shown_once():
    decision = {"t_s": 9.3, "action": "abort", "argument": None, "succeeded": True, "reason": "stuck", "evidence": "x"}
    out = io.StringIO()
    shown = view.LineView(beside(decision), out)
    shown.tick()
    shown.tick()
    assert out.getvalue() == "    9.3 s  would abort  stuck: x\n"


def test_without_a_terminal_there_is_a_line_every_ten_seconds(monkeypatch):
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(view.time, "monotonic", lambda: now.s)
    out = io.StringIO()
    shown = view.LineView(beside(), out)
    shown.saw(ROW)
    for _ in range(250):
        shown.tick()
        now.s += 0.1
    assert out.getvalue().count("\n") == 3


def test_a_call_that_fails_says_so():
    told = {"t_s": 5.0, "action": "set_max_downtime", "argument": 900, "succeeded": False, "reason": "timeout"}
    assert view.decision_line(told | {"evidence": "e"}, acts=True) == (
        "    5.0 s  set max downtime 900 ms FAILS  timeout: e"
    )


@pytest.mark.parametrize("wide", [1, 2, 11, 20])
def test_a_narrow_terminal_shows_what_fits(monkeypatch, wide):
    monkeypatch.setenv("COLUMNS", str(wide))
    decision = {"t_s": 9.3, "action": "abort", "argument": None, "succeeded": True, "reason": "stuck", "evidence": "x"}
    out = io.StringIO()
    shown = view.ScreenView(beside(decision), out)
    shown.saw(ROW)
    shown.tick()
    kept = [line for line in out.getvalue().splitlines() if "\x1b" not in line]
    assert "abort" in "".join(kept) or wide > 2
    assert max(map(len, kept)) <= max(wide - 1, 1)
