"""A job's own clock against the wall clock that stands beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
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


class JobClock:
    """Places things that have only a wall clock, or only a place among others, on the job's clock.

    Attributes: `start_wall_ns`, when the job began by the first stamp; None where nothing is stamped.
    """

    def __init__(self, ticks: Sequence[Tick]) -> None:
        self._ticks = ticks
        self._stamped = [(tick.mono_ns, tick.stamp) for tick in ticks if tick.stamp is not None]
        first = self._stamped[0] if self._stamped else None
        self.start_wall_ns = first[1].wall_ns - first[0] if first else None

    def at(self, order: int, stamp: Stamp | None) -> int:
        """The job's clock at a thing of which there is nothing but these: by the nearest tick before it."""
        if stamp is not None and self._stamped:
            before = [tick for tick in self._stamped if tick[1].wall_ns <= stamp.wall_ns]
            mono_ns, reference = before[-1] if before else self._stamped[0]
            return mono_ns + stamp.wall_ns - reference.wall_ns
        earlier = [tick.mono_ns for tick in self._ticks if tick.order < order]
        return earlier[-1] if earlier else self._ticks[0].mono_ns if self._ticks else 0

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
