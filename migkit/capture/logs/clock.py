"""A job's own clock against the wall clock that stands beside what was measured."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from migkit.capture.logs.stamps import Stamp
from migkit.units import NS_PER_S, format_s

# Stamps of `date` are whole seconds, written before the call that they belong to.
_STEP_NS = 2 * NS_PER_S


class Tick(NamedTuple):
    """The job's clock, ns since it began, at the `order`-th thing that was read; the wall clock, where it was told."""

    order: int
    mono_ns: int
    stamp: Stamp | None


class LastAtMost:
    """Finds the last of several numbers, in whatever order they stand, that is no larger than another one.

    >>> find = LastAtMost([10, 30, 20, 40])
    >>> find(5), find(25), find(35)
    (-1, 2, 2)
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        # The least from each one on: it never falls.
        self._least = list(accumulate(reversed(numbers), min))[::-1]

    def __call__(self, number: int) -> int:
        """Its place; -1 where all are larger."""
        return bisect_right(self._least, number) - 1


class Spans:
    """Finds those of many spans, (first, last, number) each, that a moment lies in; it looks at few where few overlap.

    >>> spans = Spans([(0, 10, 7), (5, 20, 8), (40, 50, 9)])
    >>> sorted(spans.around(6)), list(spans.around(30)), sorted(spans.nearest(30)), list(spans.nearest(60))
    ([7, 8], [], [8, 9], [9])
    """

    def __init__(self, spans: Sequence[tuple[int, int, int]]) -> None:
        self._spans = sorted(spans)
        self._firsts = [first for first, _, _ in self._spans]
        # Up to each one: the last moment of all, and whose it is.
        self._furthest = list(accumulate(((last, number) for _, last, number in self._spans), max))

    def around(self, at: int) -> Iterator[int]:
        """The numbers of those that it lies in."""
        place = bisect_right(self._firsts, at) - 1
        while place >= 0 and self._furthest[place][0] >= at:
            if self._spans[place][1] >= at:
                yield self._spans[place][2]
            place -= 1

    def nearest(self, at: int) -> Iterator[int]:
        """The numbers of those that it lies in; where it lies in none, of the nearest before it and the nearest after
        it."""
        found = list(self.around(at))
        yield from found
        if not found:
            behind = bisect_right(self._firsts, at)
            yield from (each[1] for each in self._furthest[max(behind - 1, 0) : behind])
            yield from (each[2] for each in self._spans[behind : behind + 1])


class JobClock:
    """Places things that have only a wall clock, or only a place among others, on the job's clock.

    Attributes: `start_wall_ns`, when the job began by the first stamp; None where nothing is stamped.
    """

    def __init__(self, ticks: Sequence[Tick]) -> None:
        self._ticks = ticks
        self._stamped = [(tick.mono_ns, tick.stamp) for tick in ticks if tick.stamp is not None]
        self._by_wall = LastAtMost([stamp.wall_ns for _, stamp in self._stamped])
        self._by_order = LastAtMost([tick.order for tick in ticks])
        first = self._stamped[0] if self._stamped else None
        self.start_wall_ns = first[1].wall_ns - first[0] if first else None

    def at(self, order: int, stamp: Stamp | None) -> int:
        """The job's clock at a thing of which there is nothing but these: by the nearest tick before it."""
        if stamp is not None and self._stamped:
            mono_ns, reference = self._stamped[max(self._by_wall(stamp.wall_ns), 0)]
            return mono_ns + stamp.wall_ns - reference.wall_ns
        return self._ticks[max(self._by_order(order - 1), 0)].mono_ns if self._ticks else 0

    def said(self) -> Iterator[str]:
        """What is to be known of the times."""
        if not self._stamped:
            yield "nothing has a time: samples stand at the job's own elapsed time, all else at the sample before it"
            return
        if not all(stamp.zoned for _, stamp in self._stamped):
            yield "the times do not tell their zone: taken as UTC"
        offsets = [(mono_ns, stamp.wall_ns - mono_ns) for mono_ns, stamp in self._stamped]
        for (_, before), (mono_ns, after) in pairwise(offsets):
            if abs(after - before) > _STEP_NS:
                step_s, moment = (after - before) / NS_PER_S, format_s(mono_ns / NS_PER_S)
                yield f"the wall clock stepped by {step_s:+.1f} s before {moment}; times are the job's own"
