"""Times in the forms in which `date` and logs write them."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migkit.capture.logs.clock import JobClock, Tick
from migkit.capture.logs.stamps import Stamp, iso_stamp, line_stamp

MOMENT_NS = 1_785_578_405_000_000_000  # 2026-08-01 10:00:05 UTC
S = 10**9


@pytest.mark.parametrize(
    ("text", "zoned"),
    [
        ("1785578405", True),
        ("1785578405.000000000", True),
        ("1785578405000", True),
        ("1785578405000000000", True),
        ("Sat Aug  1 10:00:05 UTC 2026", True),
        ("Sat Aug  1 10:00:05 AM UTC 2026", True),
        ("Sat  1 Aug 10:00:05 UTC 2026", True),
        ("Sat, 01 Aug 2026 12:00:05 +0200", True),
        ("2026-08-01T10:00:05+00:00", True),
        ("2026-08-01T12:00:05,000000000+02:00", True),
        ("2026-08-01 10:00:05.000Z", True),
        ("2026-08-01 10:00:05", False),
        ("Sat Aug  1 10:00:05 CEST 2026", False),
        ("=== Sat Aug  1 10:00:05 UTC 2026 ===", True),
        ("[2026-08-01 10:00:05]", False),
    ],
)
def test_a_line_that_is_a_time_is_one(text, zoned):
    assert line_stamp(text) == Stamp(MOMENT_NS, zoned)


@pytest.mark.parametrize(
    "text",
    ["", "Iteration:        2", "1234", "12345678901", "2026-13-01 10:00:05", "Sat Aug 99 10:00:05 UTC 2026",
     "10:00:05", "Sat Aug  1 25:00:05 UTC 2026", "2026-08-01 10:00:05 and more", "Aug  1 10:00:05"],
)  # fmt: skip
def test_any_other_line_is_none(text):
    assert line_stamp(text) is None


def test_before_a_message_the_last_time_counts():
    """Behind syslog's prefix stands the program's own."""
    text = "2026-08-01T12:00:06+02:00 host nova_compute[1]: 2026-08-01 10:00:05.000 2 INFO "
    assert iso_stamp(text) == Stamp(MOMENT_NS, False)


@given(st.text(max_size=90))
def test_no_text_breaks_it(text):
    line_stamp(text)
    iso_stamp(text)


@given(
    st.datetimes(min_value=datetime.datetime(2002, 1, 1), max_value=datetime.datetime(2200, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_what_date_writes_comes_back(naive, ahead_minutes):
    zone = datetime.timezone(datetime.timedelta(minutes=ahead_minutes))
    moment = naive.replace(microsecond=0, tzinfo=zone)
    for form in ("%Y-%m-%dT%H:%M:%S%z", "%a, %d %b %Y %H:%M:%S %z", "%a %b %e %H:%M:%S %z %Y"):
        assert line_stamp(moment.strftime(form)) == Stamp(int(moment.timestamp()) * S, True)


def test_what_has_only_a_wall_clock_is_placed_by_the_tick_before_it():
    clock = JobClock([Tick(1, 4 * S, Stamp(100 * S, True)), Tick(5, 8 * S, Stamp(204 * S, True))])
    assert clock.start_wall_ns == 96 * S
    assert clock.at(3, Stamp(101 * S, True)) == 5 * S
    assert clock.at(6, Stamp(205 * S, True)) == 9 * S
    assert [words for words in clock.said() if "stepped by +100.0 s before 8 s" in words]


def test_without_times_the_place_among_the_lines_counts():
    clock = JobClock([Tick(1, 4 * S, None), Tick(5, 8 * S, None)])
    assert [clock.at(order, None) for order in (0, 3, 9)] == [4 * S, 4 * S, 8 * S]
    assert clock.start_wall_ns is None
