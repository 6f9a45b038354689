"""What is found in few steps is what looking at everything finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from migkit.capture.logs.clock import JobClock, LastAtMost, Spans, Tick
from migkit.capture.logs.stamps import Stamp

NUMBERS = st.integers(0, 30)


@given(numbers=st.lists(NUMBERS), number=NUMBERS)
def test_the_last_number_that_is_no_larger(numbers, number):
    places = [place for place, each in enumerate(numbers) if each <= number]
    assert LastAtMost(numbers)(number) == (places[-1] if places else -1)


@given(pairs=st.lists(st.tuples(NUMBERS, NUMBERS)), at=NUMBERS)
def test_the_spans_around_and_next_to_a_moment(pairs, at):
    spans = [(min(pair), max(pair), number) for number, pair in enumerate(pairs)]
    found = Spans(spans)
    around = [number for first, last, number in spans if first <= at <= last]
    assert sorted(found.around(at)) == around
    far = {number: max(first - at, at - last, 0) for first, last, number in spans}
    nearest = set(found.nearest(at))
    assert min((far[number] for number in nearest), default=None) == min(far.values(), default=None)
    assert nearest >= set(around)


@given(ticks=st.lists(st.tuples(NUMBERS, NUMBERS, st.none() | NUMBERS)), order=NUMBERS, wall=st.none() | NUMBERS)
def test_a_moment_on_the_jobs_clock_is_by_the_last_tick_before_it(ticks, order, wall):
    known = [Tick(o, mono, None if w is None else Stamp(w, True)) for o, mono, w in ticks]
    stamped = [(tick.mono_ns, tick.stamp.wall_ns) for tick in known if tick.stamp]
    if wall is not None and stamped:
        mono_ns, reference_ns = ([each for each in stamped if each[1] <= wall] or stamped[:1])[-1]
        expected = mono_ns + wall - reference_ns
    else:
        before = [tick.mono_ns for tick in known if tick.order < order] or [tick.mono_ns for tick in known[:1]] or [0]
        expected = before[-1]
    assert JobClock(known).at(order, None if wall is None else Stamp(wall, True)) == expected
